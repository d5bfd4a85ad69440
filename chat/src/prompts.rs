//! The wording of every prompt of the framework: MiniJinja templates, one per task.
//!
//! The texts come from `configs/prompts/<set>/<task>.j2` (and optionally `<task>.system.j2` for a system turn) or from a user
//! folder. A task's template may use the fields that the method of the same name passes. [`crate::prompt_manifest::PromptManifest`] identifies a set by its
//! hash.

use std::collections::BTreeMap;

use minijinja::{Environment, UndefinedBehavior, context};
use serde::{Deserialize, Serialize};

use crate::{Interaction, Message};

/// The text that replaces the past summary if there is none (wording of the published data).
pub const NO_PAST: &str = "Not Provided.";

/// An error of compiling or rendering a prompt.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// The set has no template for a task.
    #[error("prompt set `{set}` has no template `{task}.j2`")]
    Missing {
        /// Name of the set.
        set: String,
        /// The task.
        task: &'static str,
    },
    /// The template does not compile or render.
    #[error("prompt set `{set}`, template `{template}`: {message}")]
    Template {
        /// Name of the set.
        set: String,
        /// File name of the template.
        template: String,
        /// Message of MiniJinja, with the line.
        message: String,
    },
}

/// A compiled set of templates.
#[derive(Clone, Debug)]
pub struct PromptSet {
    name: String,
    sources: BTreeMap<String, String>,
    templates: Environment<'static>,
}

/// A verified candidate summary that the teacher merges with others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Reasoning of the candidate.
    pub reasoning: String,
    /// Summary of the candidate.
    pub preference: String,
}

impl PromptSet {
    /// Compiles the templates of a set, given as a map from file name (`summarize.j2`, `judge.system.j2`) to text.
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
        Ok(Self { name: name.into(), sources: sources.clone(), templates })
    }

    /// Returns the name of the set.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the templates, as a map from file name to text.
    pub fn sources(&self) -> &BTreeMap<String, String> {
        &self.sources
    }

    /// Renders the prompt for a summary of `interactions`, given the past summary (`None`: "Not Provided.").
    ///
    /// Template fields: `past`, `interactions[]` (`query`, `chosen`, `rejected`, `domain`, `task`).
    ///
    /// # Errors
    /// [`PromptError`] if the template is missing or does not render.
    pub fn summarize(&self, past: Option<&str>, interactions: &[Interaction]) -> Result<Vec<Message>, PromptError> {
        self.messages("summarize", context! { past => past.unwrap_or(NO_PAST), interactions })
    }

    /// Renders the question which of two items the user described by `preference` would choose.
    ///
    /// Template fields: `query` (none if there is none; it renders as `None`), `preference`, `item_a`, `item_b`.
    ///
    /// # Errors
    /// Same as [`Self::summarize`].
    pub fn judge(
        &self,
        query: Option<&str>,
        preference: &str,
        item_a: &str,
        item_b: &str,
    ) -> Result<Vec<Message>, PromptError> {
        self.messages("judge", context! { query, preference, item_a, item_b })
    }

    /// Renders the teacher's prompt for a summary of `interactions` that helps to predict a later, unlabeled choice.
    ///
    /// Template fields: those of `summarize`, and `query` (none if there is none), `item_a`, `item_b` of the later choice.
    ///
    /// # Errors
    /// Same as [`Self::summarize`].
    pub fn teach(
        &self,
        past: Option<&str>,
        interactions: &[Interaction],
        query: Option<&str>,
        item_a: &str,
        item_b: &str,
    ) -> Result<Vec<Message>, PromptError> {
        let past = past.unwrap_or(NO_PAST);
        self.messages("teach", context! { past, interactions, query, item_a, item_b })
    }

    /// Renders the teacher's prompt to merge verified candidates.
    ///
    /// Template fields: `past`, `candidates[]` (`reasoning`, `preference`).
    ///
    /// # Errors
    /// Same as [`Self::summarize`].
    pub fn merge(&self, past: Option<&str>, candidates: &[Candidate]) -> Result<Vec<Message>, PromptError> {
        self.messages("merge", context! { past => past.unwrap_or(NO_PAST), candidates })
    }

    /// Renders the question whether a summary contradicts the past summary, to be answered with yes or no.
    ///
    /// Template fields: `past`, `summary`.
    ///
    /// # Errors
    /// Same as [`Self::summarize`].
    pub fn contradict(&self, past: &str, summary: &str) -> Result<Vec<Message>, PromptError> {
        self.messages("contradict", context! { past, summary })
    }

    /// Renders the prompt whose answer is an item for the user, who is described by `preference` if it is given.
    ///
    /// Template fields: `query`, `preference`; both may be empty.
    ///
    /// # Errors
    /// Same as [`Self::summarize`].
    pub fn respond(&self, query: Option<&str>, preference: Option<&str>) -> Result<Vec<Message>, PromptError> {
        let (query, preference) = (query.unwrap_or_default(), preference.unwrap_or_default());
        self.messages("respond", context! { query, preference })
    }

    /// Renders the raw history as text, for the setting in which the judge reads interactions instead of a summary.
    ///
    /// Template fields: `interactions[]`.
    ///
    /// # Errors
    /// Same as [`Self::summarize`].
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
