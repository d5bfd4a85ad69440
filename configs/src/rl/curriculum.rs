//! In which order people come.

use serde::{Deserialize, Serialize};

use crate::check::{Verdict, ensure, not_negative};

/// By what people are chosen for a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// A new random order in each epoch.
    #[default]
    Shuffle,
    /// The file's order.
    File,
    /// A random order in the first epoch; in later ones those first whom the judge predicted best so far.
    EasyFirst,
    /// The same the other way round.
    HardFirst,
    /// Drawn for each step without replacement. Whoever's accuracy so far is in `band`, or who was never judged, has weight
    /// 1, the others `outside`. An epoch is then as many people as the rows hold.
    Sample,
}

/// In which order people come. Difficulty is the share of a person's well-formed summaries so far with which the judge
/// predicted the choice; it is kept in checkpoints (trainer/people.json).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CurriculumConfig {
    /// Default: shuffle.
    pub order: Order,
    /// Accuracies, both included, within which `sample` prefers a person. Default: [0.2, 0.8].
    pub band: [f64; 2],
    /// Weight of people outside it. Default: 0.1.
    pub outside: f64,
}

impl Default for CurriculumConfig {
    fn default() -> Self {
        Self { order: Order::default(), band: [0.2, 0.8], outside: 0.1 }
    }
}

impl CurriculumConfig {
    pub(crate) fn check(&self) -> Verdict {
        let [low, high] = self.band;
        let good = (0.0..=1.0).contains(&low) && (0.0..=1.0).contains(&high) && low <= high;
        ensure(good, "band", format!("[{low}, {high}]"), "two numbers from 0 to 1, the lower first")?;
        not_negative("outside", self.outside)
    }
}
