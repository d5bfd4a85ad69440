//! How summaries are drawn.

use serde::{Deserialize, Serialize};

use crate::check::{Verdict, at_least, ensure, positive};
use crate::sampling::check_top_p;

/// Which summaries of a stage become past summaries of the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Carry {
    /// One of each group, by chance, as published.
    #[default]
    Random,
    /// The one of each group with the highest own reward; of equals, one by chance.
    Best,
    /// Every one: each gets a group of its own at the next stage, so that credit is measured for all of them and a
    /// baseline is needed for none. Stage k then has samples^(k − 1) groups a person.
    Each,
}

/// What is done with a prompt of more than `max_prompt_tokens`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptOverflow {
    /// Its first tokens go, instructions and past summary among them, as published.
    #[default]
    CutLeft,
    /// Its oldest interactions go, until the rest fits.
    DropOldest,
    /// It ends the run.
    Error,
}

/// How summaries are drawn. Temperature 1 without truncation, as published, keeps the sampled distribution the one that
/// the loss is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutConfig {
    /// Streaming stages: how many parts of a history are read one after the other, each with the summary of the part
    /// before; 1 reads all at once. Default: 2.
    pub stages: usize,
    /// Where each stage but the last ends, as shares of the history, ascending. Empty (the default): the first at the
    /// row's `mid_position`, others evenly between it and the end.
    pub cut_at: Vec<f64>,
    /// Which summaries are carried into the next stage. Default: random.
    pub carry: Carry,
    /// Whether a summary that failed the format gate may be carried and earns credit, as published. Otherwise only those
    /// that passed are carried, if there is one, and the others earn no credit. Default: true.
    pub carry_malformed: bool,
    /// Whether a stage's window begins with the choice that the stage before had to explain, as published, or after it.
    /// Default: true.
    pub reread_target: bool,
    /// Summaries per prompt: the size of a GRPO group. Default: 4.
    pub samples: usize,
    /// The same for each stage, in place of `samples`. Default: none.
    pub samples_by_stage: Vec<usize>,
    /// People per step. Default: 1024.
    pub people_per_step: usize,
    /// Divides the logits; above 0. Default: 1.
    pub temperature: f64,
    /// Keep the likeliest `top_k` tokens; 0 keeps all. Default: 0.
    pub top_k: usize,
    /// Keep the smallest set of tokens whose probabilities reach this; 1 keeps all. Default: 1.
    pub top_p: f64,
    /// Longest prompt in tokens. Default: 8192.
    pub max_prompt_tokens: usize,
    /// What is done with a longer one. Default: cut_left.
    pub prompt_overflow: PromptOverflow,
    /// Longest response in tokens. Default: 4096.
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
            samples: 4,
            samples_by_stage: Vec::new(),
            people_per_step: 1024,
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
    /// Summaries per prompt of a stage, from 0.
    pub fn samples_of(&self, stage: usize) -> usize {
        self.samples_by_stage.get(stage).copied().unwrap_or(self.samples)
    }

    /// Groups of one person at a stage, from 0.
    pub fn groups_of(&self, stage: usize) -> usize {
        match self.carry {
            Carry::Random | Carry::Best => 1,
            Carry::Each => (0..stage).map(|before| self.samples_of(before)).fold(1, usize::saturating_mul),
        }
    }

    /// Groups of one person, over all stages.
    pub fn groups_per_person(&self) -> usize {
        (0..self.stages).map(|stage| self.groups_of(stage)).fold(0, usize::saturating_add)
    }

    /// Samples of one person, over all stages.
    pub fn samples_per_person(&self) -> usize {
        let of = |stage| self.groups_of(stage).saturating_mul(self.samples_of(stage));
        (0..self.stages).map(of).fold(0, usize::saturating_add)
    }

    pub(crate) fn check(&self) -> Verdict {
        at_least("stages", self.stages, 1)?;
        let shown = || format!("{:?}", self.cut_at);
        let expected = format!("no share, or {} of them (stages − 1)", self.stages - 1);
        ensure(self.cut_at.is_empty() || self.cut_at.len() == self.stages - 1, "cut_at", shown(), &expected)?;
        let inside = self.cut_at.iter().all(|&share| share > 0.0 && share < 1.0);
        let ascending = self.cut_at.windows(2).all(|pair| pair[0] < pair[1]);
        ensure(inside && ascending, "cut_at", shown(), "ascending shares between 0 and 1, both excluded")?;
        let group = "at least 2 (a group of one has no advantage)";
        ensure(self.samples >= 2, "samples", self.samples, group)?;
        let per_stage = self.samples_by_stage.is_empty() || self.samples_by_stage.len() == self.stages;
        let good = per_stage && self.samples_by_stage.iter().all(|&n| n >= 2);
        let expected = format!("none, or {} numbers (one a stage), each {group}", self.stages);
        ensure(good, "samples_by_stage", format!("{:?}", self.samples_by_stage), &expected)?;
        at_least("people_per_step", self.people_per_step, 1)?;
        positive("temperature", self.temperature)?;
        check_top_p(self.top_p)?;
        at_least("max_prompt_tokens", self.max_prompt_tokens, 1)?;
        at_least("max_new_tokens", self.max_new_tokens, 1)
    }
}
