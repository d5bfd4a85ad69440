//! The wording of every question the framework asks a model: MiniJinja templates, by task.
//!
//! The texts come from `configs/prompts/<set>/<task>.j2` (and optionally `<task>.system.j2` for a system turn) or from a
//! folder of the user's. What a task's template may use is the fields that the method here of the same name passes.

use std::collections::BTreeMap;

use minijinja::{Environment, UndefinedBehavior, context};
use serde::Serialize;

use crate::{Interaction, Message};

/// What stands in the place of the past summary when there is none (wording of the published data).
pub const NO_PAST: &str = "Not Provided.";

/// A prompt that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// The set lacks a task's template.
    #[error("prompt set `{set}` has no template `{task}.j2`")]
    Missing {
        /// The set's name.
        set: String,
        /// The task.
        task: &'static str,
    },
    /// The template does not compile or render.
    #[error("prompt set `{set}`, template `{template}`: {message}")]
    Template {
        /// The set's name.
        set: String,
        /// The template's file name.
        template: String,
        /// MiniJinja's message, with the line.
        message: String,
    },
}

/// A compiled set of templates.
#[derive(Debug)]
pub struct PromptSet {
    name: String,
    templates: Environment<'static>,
}

/// One verified candidate that a merge puts together with others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// The reasoning of the candidate.
    pub reasoning: String,
    /// Its summary.
    pub preference: String,
}

impl PromptSet {
    /// Compiles the templates of a set: file name (`summarize.j2`, `judge.system.j2`) to text.
    ///
    /// # Errors
    /// [`PromptError::Template`] for a template with a syntax error.
    pub fn new(name: &str, sources: &BTreeMap<String, String>) -> Result<Self, PromptError> {
        let mut templates = Environment::new();
        templates.set_undefined_behavior(UndefinedBehavior::Strict);
        templates.set_keep_trailing_newline(false);
        templates.set_trim_blocks(true);
        templates.set_lstrip_blocks(true);
        for (file, text) in sources {
            templates.add_template_owned(file.clone(), text.clone()).map_err(|e| PromptError::Template {
                set: name.into(),
                template: file.clone(),
                message: format!("{e:#}"),
            })?;
        }
        Ok(Self { name: name.into(), templates })
    }

    /// The set's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks for a summary of `interactions`, given the past summary (`None`: "Not Provided.").
    /// Template fields: `past`, `interactions[]` (`query`, `chosen`, `rejected`, `domain`, `task`).
    ///
    /// # Errors
    /// [`PromptError`] if the template is missing or does not render.
    pub fn summarize(&self, past: Option<&str>, interactions: &[Interaction]) -> Result<Vec<Message>, PromptError> {
        self.messages("summarize", context! { past => past.unwrap_or(NO_PAST), interactions })
    }

    /// Asks which of two items the person described by `preference` would take.
    /// Template fields: `query`, `preference`, `item_a`, `item_b`.
    ///
    /// # Errors
    /// As [`Self::summarize`].
    pub fn judge(
        &self,
        query: Option<&str>,
        preference: &str,
        item_a: &str,
        item_b: &str,
    ) -> Result<Vec<Message>, PromptError> {
        self.messages("judge", context! { query => query.unwrap_or_default(), preference, item_a, item_b })
    }

    /// Asks the teacher for a summary of `interactions` that will help with a later, unlabelled choice.
    /// Template fields: those of `summarize`, and `query`, `item_a`, `item_b` of the later choice.
    ///
    /// # Errors
    /// As [`Self::summarize`].
    pub fn teach(
        &self,
        past: Option<&str>,
        interactions: &[Interaction],
        query: Option<&str>,
        item_a: &str,
        item_b: &str,
    ) -> Result<Vec<Message>, PromptError> {
        let past = past.unwrap_or(NO_PAST);
        self.messages("teach", context! { past, interactions, query => query.unwrap_or_default(), item_a, item_b })
    }

    /// Asks the teacher to put verified candidates together. Template fields: `past`, `candidates[]` (`reasoning`,
    /// `preference`).
    ///
    /// # Errors
    /// As [`Self::summarize`].
    pub fn merge(&self, past: Option<&str>, candidates: &[Candidate]) -> Result<Vec<Message>, PromptError> {
        self.messages("merge", context! { past => past.unwrap_or(NO_PAST), candidates })
    }

    /// The raw history as text, for the setting that shows the judge interactions instead of a summary.
    /// Template fields: `interactions[]`.
    ///
    /// # Errors
    /// As [`Self::summarize`].
    pub fn history(&self, interactions: &[Interaction]) -> Result<String, PromptError> {
        self.render("history.j2", "history", context! { interactions })
    }

    fn messages(&self, task: &'static str, context: minijinja::Value) -> Result<Vec<Message>, PromptError> {
        let system = format!("{task}.system.j2");
        let mut messages = Vec::new();
        if self.templates.get_template(&system).is_ok() {
            messages.push(Message::system(self.render(&system, task, context.clone())?));
        }
        messages.push(Message::user(self.render(&format!("{task}.j2"), task, context)?));
        Ok(messages)
    }

    fn render(&self, file: &str, task: &'static str, context: minijinja::Value) -> Result<String, PromptError> {
        let template =
            self.templates.get_template(file).map_err(|_| PromptError::Missing { set: self.name.clone(), task })?;
        template.render(context).map_err(|e| PromptError::Template {
            set: self.name.clone(),
            template: file.into(),
            message: format!("{e:#}"),
        })
    }
}
