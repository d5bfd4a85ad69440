//! The built-in world: the sizes of its data sets.

use serde::{Deserialize, Serialize};

use crate::check::{CheckResult, at_least};

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
