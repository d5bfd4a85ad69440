//! What a summary is worth.

use serde::{Deserialize, Serialize};

use crate::check::{Defect, Under, Verdict, at_least, ensure, fraction, given, not_negative};

/// What a summary is worth: the weighted sum of its terms, and from the stage after it a share of what it led to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RewardConfig {
    /// The terms. Default: [{ name = "judge", weight = 1 }].
    pub terms: Vec<TermConfig>,
    /// Number of choices by which a summary is judged: its stage's own target and, above 1, further ones drawn by seed from the
    /// row's `targets`, the same for the whole group. The judge's probabilities are averaged. Default: 1, as published.
    pub targets_per_stage: usize,
    /// λ: share of the next stage's mean reward that the carried summary gets. Default: 0.9.
    pub carry_discount: f64,
    /// What every other summary of the group gets in its place, before the discount: the reward expected by chance.
    /// Without effect where `rollout.carry` is "each". Default: 0.5.
    pub carry_baseline: f64,
    /// Factor of each stage's advantages. Empty (the default): 1 for all.
    pub stage_weights: Vec<f64>,
    /// Soft punishment of long responses (DAPO, arXiv 2503.14476, eq. 13): within the last so many tokens before
    /// `rollout.max_new_tokens` the reward falls in a straight line by up to `overlong_penalty`. 0 (the default): none.
    pub overlong_band: usize,
    /// What a response at the limit loses. Default: 1.
    pub overlong_penalty: f64,
}

impl Default for RewardConfig {
    fn default() -> Self {
        Self {
            terms: vec![TermConfig::default()],
            targets_per_stage: 1,
            carry_discount: 0.9,
            carry_baseline: 0.5,
            stage_weights: Vec::new(),
            overlong_band: 0,
            overlong_penalty: 1.0,
        }
    }
}

impl RewardConfig {
    pub(crate) fn check(&self) -> Verdict {
        if self.terms.is_empty() {
            return Err(Defect::new("terms", "is empty; expected at least one term"));
        }
        for (index, term) in self.terms.iter().enumerate() {
            let at = format!("terms[{index}]");
            given(!term.name.is_empty(), "name", "the name of a reward term").under(&at)?;
            ensure(term.weight.is_finite(), "weight", term.weight, "a finite number").under(&at)?;
            let twice = self.terms[..index].iter().any(|earlier| earlier.name == term.name);
            let found = format!("\"{}\" for the second time", term.name);
            ensure(!twice, "name", found, "each term once; put its weights together").under(&at)?;
        }
        at_least("targets_per_stage", self.targets_per_stage, 1)?;
        fraction("carry_discount", self.carry_discount)?;
        not_negative("carry_baseline", self.carry_baseline)?;
        for (index, weight) in self.stage_weights.iter().enumerate() {
            not_negative(&format!("stage_weights[{index}]"), *weight)?;
        }
        not_negative("overlong_penalty", self.overlong_penalty)
    }

    /// The factor of a stage's advantages, from 0.
    pub fn stage_weight(&self, stage: usize) -> f64 {
        self.stage_weights.get(stage).copied().unwrap_or(1.0)
    }
}

/// One term of the reward.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TermConfig {
    /// The term's registered name. Default: judge.
    pub name: String,
    /// Its factor in the sum; negative for a penalty. Default: 1.
    pub weight: f64,
}

impl Default for TermConfig {
    fn default() -> Self {
        Self { name: "judge".into(), weight: 1.0 }
    }
}
