//! Where summaries come from.

use chat::Completer;

use crate::fit::PromptLimit;

/// What stands in the place of a person's preferences.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// Nothing ("Not Provided."): a lower bound. In the setting `direct`, the raw history.
    None,
    /// The true preferences of another person, drawn at random: shows what any plausible summary is worth.
    Random,
    /// The person's own true preferences: an upper bound.
    Oracle,
    /// The summaries of a model.
    Model {
        /// The model.
        model: &'a dyn Completer,
        /// The longest prompt it takes; histories that exceed it lose their oldest interactions.
        limit: Option<PromptLimit<'a>>,
    },
}

/// A source of summaries under the name it has in tables.
#[derive(Clone)]
pub struct Contender<'a> {
    /// The name.
    pub name: String,
    /// Where its summaries come from.
    pub source: Source<'a>,
}

impl<'a> Contender<'a> {
    /// No summary, named `none`.
    pub fn none() -> Self {
        Self { name: "none".into(), source: Source::None }
    }

    /// Another person's truth, named `random`.
    pub fn random() -> Self {
        Self { name: "random".into(), source: Source::Random }
    }

    /// The person's own truth, named `oracle`.
    pub fn oracle() -> Self {
        Self { name: "oracle".into(), source: Source::Oracle }
    }

    /// A model without a limit on its prompts, named as given (`sft`, `rl`).
    pub fn model(name: impl Into<String>, model: &'a dyn Completer) -> Self {
        Self { name: name.into(), source: Source::Model { model, limit: None } }
    }
}
