//! Sources of summaries.

use chat::{Completer, PromptSet};

use crate::fit::PromptLimit;

/// The source of the text that describes a user's preferences.
#[derive(Clone, Copy)]
pub enum SummarySource<'a> {
    /// No summary ("Not Provided."): a lower bound. In the setting `direct`, the raw history.
    None,
    /// The true preferences of another user, sampled at random: shows how much any plausible summary is worth.
    Random,
    /// The user's own true preferences: an upper bound.
    Oracle,
    /// The summaries of a model.
    Model {
        /// The model.
        model: &'a dyn Completer,
        /// The maximum prompt length; histories that exceed it lose their oldest interactions.
        limit: Option<PromptLimit<'a>>,
        /// The prompt set of the model; `None` is that of the evaluation.
        prompts: Option<&'a PromptSet>,
    },
}

/// A source of summaries with its name in tables.
#[derive(Clone)]
pub struct Contender<'a> {
    /// The name.
    pub name: String,
    /// The source of its summaries.
    pub source: SummarySource<'a>,
}

impl<'a> Contender<'a> {
    /// Returns the contender without a summary, named `none`.
    pub fn none() -> Self {
        Self { name: "none".into(), source: SummarySource::None }
    }

    /// Returns the contender with another user's true preferences, named `random`.
    pub fn random() -> Self {
        Self { name: "random".into(), source: SummarySource::Random }
    }

    /// Returns the contender with the user's own true preferences, named `oracle`.
    pub fn oracle() -> Self {
        Self { name: "oracle".into(), source: SummarySource::Oracle }
    }

    /// Returns a model without a prompt limit, under the given name (`sft`, `rl`), with the prompt set of the evaluation.
    pub fn model(name: impl Into<String>, model: &'a dyn Completer) -> Self {
        Self { name: name.into(), source: SummarySource::Model { model, limit: None, prompts: None } }
    }

    /// Returns the same as [`Self::model`], with a prompt set of its own.
    pub fn prompted(name: impl Into<String>, model: &'a dyn Completer, prompts: &'a PromptSet) -> Self {
        Self { name: name.into(), source: SummarySource::Model { model, limit: None, prompts: Some(prompts) } }
    }
}
