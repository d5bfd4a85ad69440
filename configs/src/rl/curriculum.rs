//! The order of users.

use serde::{Deserialize, Serialize};

use crate::check::{CheckResult, ensure, not_negative};

/// How users are selected for a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CurriculumOrder {
    /// A new random order in each epoch.
    #[default]
    Shuffle,
    /// The order of the file.
    File,
    /// A random order in the first epoch; later epochs start with the users whom the judge has predicted best so far.
    EasyFirst,
    /// A random order in the first epoch; later epochs start with the users whom the judge has predicted worst so far.
    HardFirst,
    /// Sampling without replacement at each step. A user whose accuracy so far is in `band`, or who was never judged, has weight 1;
    /// any other user has weight `outside`. An epoch is as many users as the rows contain.
    Sample,
}

/// The order of users. Difficulty is the fraction of a user's well-formed summaries so far with which the judge predicted the
/// choice. Checkpoints contain it (trainer/users.json).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CurriculumConfig {
    /// How users are selected for a step. Default: shuffle.
    pub order: CurriculumOrder,
    /// Range of accuracies, inclusive, within which `sample` prefers a user. Default: [0.2, 0.8].
    pub band: [f64; 2],
    /// Sampling weight of users outside the band. Default: 0.1.
    pub outside: f64,
}

impl Default for CurriculumConfig {
    fn default() -> Self {
        Self { order: CurriculumOrder::default(), band: [0.2, 0.8], outside: 0.1 }
    }
}

impl CurriculumConfig {
    pub(crate) fn check(&self) -> CheckResult {
        let [low, high] = self.band;
        let good = (0.0..=1.0).contains(&low) && (0.0..=1.0).contains(&high) && low <= high;
        ensure(good, "band", format!("[{low}, {high}]"), "two numbers from 0 to 1, the lower first")?;
        not_negative("outside", self.outside)
    }
}
