//! What an evaluation does, with which judges.

use chat::Sampling;
use rewards::Judge;

use crate::fit::PromptLimit;
use crate::{HistorySplit, Setting};

/// The progress callback: receives the current task, the amount done, and the total amount.
pub type EvalProgress<'a> = &'a mut dyn FnMut(&str, usize, usize);

/// The plan of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalPlan {
    /// The settings, in the order of the results.
    pub settings: Vec<Setting>,
    /// How histories are split.
    pub split: HistorySplit,
    /// The sampling parameters of the models' summaries.
    pub sampling: Sampling,
    /// The seed of the summaries, and of the assignment of random other users.
    pub seed: u64,
    /// The number of chats per call of a model. Trades memory and frequent progress reports against speed; does not
    /// affect the results.
    pub requests_per_call: usize,
}

/// A judge with its name in tables.
#[derive(Clone, Copy)]
pub struct NamedJudge<'a> {
    /// The name.
    pub name: &'a str,
    /// The judge.
    pub judge: &'a Judge<'a>,
    /// The maximum prompt length; in the setting `direct`, histories that exceed it lose their oldest interactions.
    pub limit: Option<PromptLimit<'a>>,
}
