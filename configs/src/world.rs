//! The built-in world: the sizes of its data sets, and the synthesis and pruning of its rows.

use serde::{Deserialize, Serialize};

use crate::check::{CheckResult, at_least, ensure, fraction};

/// Sizes of the built-in world's data sets. No two sets share users.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorldConfig {
    /// Number of training rows of the judge.
    pub judge_rows: usize,
    /// Number of training rows of the second judge.
    pub second_judge_rows: usize,
    /// Number of rows from which the policy's base model learns to read and count, before the synthesized rows.
    pub reading_rows: usize,
    /// Number of users whose histories the teacher summarizes for fine-tuning.
    pub synthesis_users: usize,
    /// Number of users whose histories become rows for reinforcement learning, before pruning.
    pub rl_users: usize,
    /// Number of further choices of each of these users, for `rl.reward.targets_per_stage`.
    pub rl_targets: usize,
    /// Number of held-out users to evaluate.
    pub eval_users: usize,
    /// Number of judged targets per evaluated user in the user's own domain.
    pub eval_targets: usize,
    /// Number of judged targets per evaluated user in each of the two other domains.
    pub eval_transfer_targets: usize,
}

/// The teacher's synthesis: generate, verify with the judge, merge, re-test. The defaults are the published thresholds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SynthesisConfig {
    /// Minimum probability, exclusive, that the informed judge must give a choice for it to be a target. Default: 0.9.
    pub target_probability: f64,
    /// Maximum number of targets of a stage. Default: 5.
    pub most_targets: usize,
    /// Minimum number of targets of a stage. Default: 4.
    pub least_targets: usize,
    /// Minimum number of candidate summaries that must predict their target. Default: 3.
    pub least_correct: usize,
    /// Fraction of the predicted targets that the merged summary must also predict. Default: 0.8.
    pub retest: f64,
}

impl Default for SynthesisConfig {
    fn default() -> Self {
        Self { target_probability: 0.9, most_targets: 5, least_targets: 4, least_correct: 3, retest: 0.8 }
    }
}

impl SynthesisConfig {
    pub(crate) fn check(&self) -> CheckResult {
        fraction("target_probability", self.target_probability)?;
        at_least("least_targets", self.least_targets, 1)?;
        let expected = format!("at least least_targets ({})", self.least_targets);
        ensure(self.most_targets >= self.least_targets, "most_targets", self.most_targets, &expected)?;
        at_least("least_correct", self.least_correct, 1)?;
        fraction("retest", self.retest)
    }
}

/// Curriculum pruning of the RL rows, which selects the choices that become targets. See the published rule in
/// docs/architecture.md.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PruningConfig {
    /// Fraction of all choices to keep, by descending signal (a). Default: 0.8.
    pub most_signal: f64,
    /// Minimum probability that the informed judge must give the choice (b). Default: 0.5.
    pub least_probability: f64,
    /// End of the band of descending probability that is kept (c). Default: 1.
    pub band_end: f64,
    /// Width of that band; published: 0.1. Default: 1, because every user counts in a small world.
    pub band_width: f64,
    /// Minimum number of interactions that each of the two stages reads. Default: 4, as in the published rows from AlignX.
    pub least_window: usize,
}

impl Default for PruningConfig {
    fn default() -> Self {
        Self { most_signal: 0.8, least_probability: 0.5, band_end: 1.0, band_width: 1.0, least_window: 4 }
    }
}

impl PruningConfig {
    pub(crate) fn check(&self) -> CheckResult {
        fraction("most_signal", self.most_signal)?;
        fraction("least_probability", self.least_probability)?;
        fraction("band_end", self.band_end)?;
        fraction("band_width", self.band_width)?;
        at_least("least_window", self.least_window, 1)
    }
}

impl WorldConfig {
    pub(crate) fn check(&self) -> CheckResult {
        at_least("judge_rows", self.judge_rows, 1)?;
        at_least("second_judge_rows", self.second_judge_rows, 1)?;
        at_least("reading_rows", self.reading_rows, 1)?;
        at_least("synthesis_users", self.synthesis_users, 1)?;
        at_least("rl_users", self.rl_users, 1)?;
        at_least("eval_users", self.eval_users, 2)?;
        at_least("eval_targets", self.eval_targets, 1)?;
        at_least("eval_transfer_targets", self.eval_transfer_targets, 1)
    }
}
