//! Sampling of summaries.

use serde::{Deserialize, Serialize};

use crate::check::{CheckResult, at_least, ensure, positive};
use crate::sampling::check_top_p;

/// Which summaries of a stage become past summaries of the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Carry {
    /// One summary of each group, selected at random, as published.
    #[default]
    Random,
    /// The summary of each group with the highest own reward; ties are broken at random.
    Best,
    /// Every summary. Each has its own group at the next stage, so credit is measured for all summaries and no baseline is needed.
    /// Stage k then has num_generations^(k − 1) groups per user.
    Each,
}

/// Handling of a prompt of more than `max_prompt_tokens`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptOverflow {
    /// Remove its first tokens, including instructions and past summary, as published.
    #[default]
    CutLeft,
    /// Remove its oldest interactions or messages until the rest fits.
    DropOldest,
    /// End the run with an error.
    Error,
}

/// Sampling of summaries. Temperature 1 without truncation, as published, keeps the sampling distribution equal to the policy in
/// the loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutConfig {
    /// Number of streaming stages: the parts of a history that are read in sequence, each with the summary of the previous part. 1
    /// reads the whole history at once. The stages of a row of messages read consecutive parts of the messages. Default: 2.
    pub stages: usize,
    /// End of each stage but the last, as fractions of the history (of its interactions or messages) in ascending order. Empty (the
    /// default): the first stage ends at the row's `mid_position`, the others evenly between it and the end.
    pub cut_at: Vec<f64>,
    /// Which summaries are carried into the next stage. Default: random.
    pub carry: Carry,
    /// Whether a summary that failed the format gate may be carried and earns credit, as published. If false, only summaries that
    /// passed are carried, if there is one, and the others earn no credit. Default: true.
    pub carry_malformed: bool,
    /// Whether a stage's window begins with the target of the previous stage, as published, or after it. It has no effect on rows of
    /// messages, whose targets are not among the messages. Default: true.
    pub reread_target: bool,
    /// Number of summaries per prompt: the size of a GRPO group. Default: 4.
    pub num_generations: usize,
    /// Number of summaries per prompt for each stage; overrides `num_generations`. Default: none.
    pub num_generations_by_stage: Vec<usize>,
    /// Number of users per step. Default: 1024.
    pub users_per_step: usize,
    /// Sampling temperature, by which the logits are divided; above 0. Default: 1.
    pub temperature: f64,
    /// Number of most likely tokens to sample from; 0 keeps all. Default: 0.
    pub top_k: usize,
    /// Nucleus sampling: keep the smallest set of tokens whose probabilities sum to at least this value; 1 keeps all. Default: 1.
    pub top_p: f64,
    /// Maximum prompt length in tokens. Default: 8192.
    pub max_prompt_tokens: usize,
    /// Handling of longer prompts. Default: cut_left.
    pub prompt_overflow: PromptOverflow,
    /// Maximum response length in tokens. Default: 4096.
    pub max_new_tokens: usize,
}

impl Default for RolloutConfig {
    fn default() -> Self {
        Self {
            stages: 2,
            cut_at: Vec::new(),
            carry: Carry::Random,
            carry_malformed: true,
            reread_target: true,
            num_generations: 4,
            num_generations_by_stage: Vec::new(),
            users_per_step: 1024,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            max_prompt_tokens: 8192,
            prompt_overflow: PromptOverflow::CutLeft,
            max_new_tokens: 4096,
        }
    }
}

impl RolloutConfig {
    /// Returns the number of summaries per prompt at `stage`, counted from 0.
    pub fn num_generations_of(&self, stage: usize) -> usize {
        self.num_generations_by_stage.get(stage).copied().unwrap_or(self.num_generations)
    }

    /// Returns the number of groups of one user at `stage`, counted from 0.
    pub fn groups_of(&self, stage: usize) -> usize {
        match self.carry {
            Carry::Random | Carry::Best => 1,
            Carry::Each => (0..stage).map(|before| self.num_generations_of(before)).fold(1, usize::saturating_mul),
        }
    }

    /// Returns the number of groups of one user over all stages.
    pub fn groups_per_user(&self) -> usize {
        (0..self.stages).map(|stage| self.groups_of(stage)).fold(0, usize::saturating_add)
    }

    /// Returns the number of samples of one user over all stages.
    pub fn generations_per_user(&self) -> usize {
        let of = |stage| self.groups_of(stage).saturating_mul(self.num_generations_of(stage));
        (0..self.stages).map(of).fold(0, usize::saturating_add)
    }

    /// Returns the number of samples of a step at `stage`, counted from 0.
    pub fn responses_of(&self, stage: usize) -> usize {
        let of_user = self.groups_of(stage).saturating_mul(self.num_generations_of(stage));
        self.users_per_step.saturating_mul(of_user)
    }

    /// Returns the number of samples of a step over all stages.
    pub fn responses_per_step(&self) -> usize {
        self.users_per_step.saturating_mul(self.generations_per_user())
    }

    pub(crate) fn check(&self) -> CheckResult {
        at_least("stages", self.stages, 1)?;
        let shown = || format!("{:?}", self.cut_at);
        let expected = format!("an empty list or a list of length {} (stages − 1)", self.stages - 1);
        ensure(self.cut_at.is_empty() || self.cut_at.len() == self.stages - 1, "cut_at", shown(), &expected)?;
        let inside = self.cut_at.iter().all(|&share| share > 0.0 && share < 1.0);
        let ascending = self.cut_at.windows(2).all(|pair| pair[0] < pair[1]);
        ensure(inside && ascending, "cut_at", shown(), "ascending values between 0 and 1, both exclusive")?;
        let group = "at least 2 (a group of one has no advantage)";
        ensure(self.num_generations >= 2, "num_generations", self.num_generations, group)?;
        let per_stage = self.num_generations_by_stage.is_empty() || self.num_generations_by_stage.len() == self.stages;
        let good = per_stage && self.num_generations_by_stage.iter().all(|&n| n >= 2);
        let expected = format!("an empty list or {} numbers (one per stage), each {group}", self.stages);
        ensure(good, "num_generations_by_stage", format!("{:?}", self.num_generations_by_stage), &expected)?;
        at_least("users_per_step", self.users_per_step, 1)?;
        positive("temperature", self.temperature)?;
        check_top_p(self.top_p)?;
        at_least("max_prompt_tokens", self.max_prompt_tokens, 1)?;
        at_least("max_new_tokens", self.max_new_tokens, 1)
    }
}
