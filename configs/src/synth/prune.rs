//! The selection of choices for RL.

use serde::{Deserialize, Serialize};

use super::PruningConfig;
use crate::check::{CheckResult, Under, at_least, ensure};
use crate::model::ModelSource;
use crate::sampling::SamplingConfig;

/// What selects the choices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PruneBy {
    /// Signal and probability of each choice, by the published rule (`[prune.thresholds]`).
    #[default]
    Signal,
    /// The share of a policy's summaries with which the verifier predicts the choice (`[prune.policy]`).
    Policy,
}

/// The choices that become targets of RL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PruneConfig {
    /// What selects the choices: signal or policy. Default: signal.
    pub by: PruneBy,
    /// The rule for scored choices. Of these keys, `by = "policy"` uses `least_window` only. Default: the published rule.
    pub thresholds: PruningConfig,
    /// The pass rates of a policy.
    pub policy: PolicyPruning,
}

impl Default for PruneConfig {
    fn default() -> Self {
        Self { by: PruneBy::default(), thresholds: PruningConfig::published(), policy: PolicyPruning::default() }
    }
}

/// Curriculum by the pass rate of a policy: choices that some, but not all, of its summaries predict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyPruning {
    /// The policy, such as the model after SFT. Required with `prune.by = "policy"`.
    pub model: ModelSource,
    /// Sampling of summaries. Default: the model's full distribution, as in rollouts.
    pub sampling: SamplingConfig,
    /// Number of summaries for each choice. Default: 8.
    pub num_generations: usize,
    /// Maximum number of choices of a user to measure, sampled with the seed by user id. Default: 4.
    pub targets_per_user: usize,
    /// Lowest and highest pass rate of a target, both inclusive. Default: [0.25, 0.75].
    pub pass_rate: [f64; 2],
}

impl Default for PolicyPruning {
    fn default() -> Self {
        Self {
            model: ModelSource::default(),
            sampling: SamplingConfig { temperature: 1.0, top_k: 0, top_p: 1.0, ..SamplingConfig::default() },
            num_generations: 8,
            targets_per_user: 4,
            pass_rate: [0.25, 0.75],
        }
    }
}

impl PruneConfig {
    pub(super) fn check(&self) -> CheckResult {
        self.thresholds.check().under("thresholds")?;
        self.policy.check().under("policy")
    }
}

impl PolicyPruning {
    fn check(&self) -> CheckResult {
        self.sampling.check().under("sampling")?;
        at_least("num_generations", self.num_generations, 1)?;
        at_least("targets_per_user", self.targets_per_user, 2)?;
        let [low, high] = self.pass_rate;
        let ordered = 0.0 <= low && low <= high && high <= 1.0;
        ensure(ordered, "pass_rate", format!("[{low}, {high}]"), "two numbers from 0 to 1, the lower first")
    }
}
