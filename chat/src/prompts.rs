//! The wording of every prompt of the framework: MiniJinja templates, one per task.
//!
//! The texts come from `configs/prompts/<set>/<task>.j2` (and optionally `<task>.system.j2` for a system turn) or from a user
//! folder. A task's template may use the fields that the method of the same name passes. [`crate::prompt_manifest::PromptManifest`] identifies a set by its
//! hash.

use std::collections::BTreeMap;

use minijinja::{Environment, UndefinedBehavior, context};
use serde::{Deserialize, Serialize};

use crate::history_items::first_of_each_kind;
use crate::{HistoryItems, Message};

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
    /// The set has no template for a task that reads messages.
    #[error(
        "prompt set `{set}` has no template `{task}.j2`, which a history of messages needs; add it to the folder of the set \
         (template field `messages[]` with `role` and `content`), or name a set that has it, such as `plain`"
    )]
    MissingForMessages {
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

    /// Renders the prompt for a summary of `items`, given the past summary (`None`: "Not Provided."). Messages have a template of
    /// their own, `summarize_messages.j2`.
    ///
    /// Template fields: `past`, and `interactions[]` (`query`, `chosen`, `rejected`, `domain`, `task`) or `messages[]` (`role`,
    /// `content`).
    ///
    /// # Errors
    /// [`PromptError`] if the template is missing or does not render.
    pub fn summarize<'h>(
        &self,
        past: Option<&str>,
        items: impl Into<HistoryItems<'h>>,
    ) -> Result<Vec<Message>, PromptError> {
        let past = past.unwrap_or(NO_PAST);
        match items.into() {
            HistoryItems::Interactions(interactions) => self.messages("summarize", context! { past, interactions }),
            HistoryItems::Messages(messages) => self.messages("summarize_messages", context! { past, messages }),
        }
    }

    /// Renders the summary prompt of the first of `histories` of each kind, so that a template that is missing for some of them is found
    /// before a model is loaded.
    ///
    /// # Errors
    /// Same as [`Self::summarize`].
    pub fn check_summaries<'h>(
        &self,
        histories: impl IntoIterator<Item = HistoryItems<'h>>,
    ) -> Result<(), PromptError> {
        first_of_each_kind(histories).try_for_each(|items| self.summarize(None, items).map(drop))
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

    /// Renders the teacher's prompt for a summary of `items` that helps to predict a later, unlabeled choice. Messages have a template
    /// of their own, `teach_messages.j2`.
    ///
    /// Template fields: those of `summarize`, and `query` (none if there is none), `item_a`, `item_b` of the later choice.
    ///
    /// # Errors
    /// Same as [`Self::summarize`].
    pub fn teach<'h>(
        &self,
        past: Option<&str>,
        items: impl Into<HistoryItems<'h>>,
        query: Option<&str>,
        item_a: &str,
        item_b: &str,
    ) -> Result<Vec<Message>, PromptError> {
        let past = past.unwrap_or(NO_PAST);
        match items.into() {
            HistoryItems::Interactions(interactions) => {
                self.messages("teach", context! { past, interactions, query, item_a, item_b })
            }
            HistoryItems::Messages(messages) => {
                self.messages("teach_messages", context! { past, messages, query, item_a, item_b })
            }
        }
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

    /// Renders the raw history as text, for the setting in which the judge reads the history instead of a summary. Messages have a
    /// template of their own, `history_messages.j2`.
    ///
    /// Template fields: `interactions[]` or `messages[]`.
    ///
    /// # Errors
    /// Same as [`Self::summarize`].
    pub fn history<'h>(&self, items: impl Into<HistoryItems<'h>>) -> Result<String, PromptError> {
        match items.into() {
            HistoryItems::Interactions(interactions) => self.render("history.j2", "history", context! { interactions }),
            HistoryItems::Messages(messages) => {
                self.render("history_messages.j2", "history_messages", context! { messages })
            }
        }
    }

    /// Renders the first of `histories` of each kind as text; see [`Self::check_summaries`].
    ///
    /// # Errors
    /// Same as [`Self::summarize`].
    pub fn check_histories<'h>(
        &self,
        histories: impl IntoIterator<Item = HistoryItems<'h>>,
    ) -> Result<(), PromptError> {
        first_of_each_kind(histories).try_for_each(|items| self.history(items).map(drop))
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
        let missing = |_| {
            let set = self.name.clone();
            match task.ends_with("_messages") {
                true => PromptError::MissingForMessages { set, task },
                false => PromptError::Missing { set, task },
            }
        };
        let template = self.templates.get_template(file).map_err(missing)?;
        template.render(context).map_err(|e| PromptError::Template {
            set: self.name.clone(),
            template: file.into(),
            message: format!("{e:#}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Interaction;

    fn set(templates: &[(&str, &str)]) -> PromptSet {
        let sources = templates.iter().map(|&(file, text)| (file.to_owned(), text.to_owned())).collect();
        PromptSet::new("mine", &sources).unwrap()
    }

    const MESSAGES: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}|{% endfor %}";

    fn messages() -> Vec<Message> {
        vec![Message::system("be kind"), Message::user("{{ q }}"), Message::assistant("r")]
    }

    #[test]
    fn messages_have_templates_of_their_own() {
        let summarize = format!("{{{{ past }}}} {MESSAGES}");
        let teach = format!("{summarize} {{{{ query }}}} {{{{ item_a }}}} {{{{ item_b }}}}");
        let prompts = set(&[
            ("summarize.j2", "of interactions"),
            ("summarize_messages.j2", summarize.as_str()),
            ("summarize_messages.system.j2", "a system turn"),
            ("teach_messages.j2", teach.as_str()),
            ("history_messages.j2", MESSAGES),
        ]);
        let shown = "system: be kind|user: {{ q }}|assistant: r|";
        let messages = messages();
        let summary = prompts.summarize(None, &messages).unwrap();
        assert_eq!(summary, [Message::system("a system turn"), Message::user(format!("Not Provided. {shown}"))]);
        let taught = prompts.teach(Some("old"), &messages, Some("q"), "x", "y").unwrap();
        assert_eq!(taught, [Message::user(format!("old {shown} q x y"))]);
        assert_eq!(prompts.history(&messages).unwrap(), shown);
        assert_eq!(prompts.history(&messages[1..2]).unwrap(), "user: {{ q }}|");
        let interactions = [Interaction { chosen: "a".into(), ..Interaction::default() }];
        assert_eq!(prompts.summarize(None, &interactions).unwrap(), [Message::user("of interactions")]);
    }

    #[test]
    fn a_set_without_them_names_the_template_and_the_fix() {
        let prompts = set(&[("summarize.j2", "s"), ("teach.j2", "t"), ("history.j2", "h")]);
        let messages = messages();
        for (error, file) in [
            (prompts.summarize(None, &messages).unwrap_err(), "summarize_messages.j2"),
            (prompts.teach(None, &messages, None, "x", "y").unwrap_err(), "teach_messages.j2"),
            (prompts.history(&messages).unwrap_err(), "history_messages.j2"),
        ] {
            let said = error.to_string();
            assert!(
                said.contains("prompt set `mine`") && said.contains(file) && said.contains("such as `plain`"),
                "{said}"
            );
        }
        // A check finds it at a later row too.
        let interactions = [Interaction { chosen: "a".into(), ..Interaction::default() }];
        let of_choices = HistoryItems::from(&interactions);
        let both = [of_choices, of_choices, HistoryItems::from(&messages)];
        assert!(prompts.check_summaries(both[..2].iter().copied()).is_ok());
        assert!(prompts.check_histories(both[..2].iter().copied()).is_ok());
        let refused = [prompts.check_summaries(both), prompts.check_histories(both)];
        let files = refused.map(|checked| checked.unwrap_err().to_string());
        assert!(files[0].contains("summarize_messages.j2") && files[1].contains("history_messages.j2"), "{files:?}");
        let other = prompts.judge(None, "p", "a", "b").unwrap_err().to_string();
        assert_eq!(other, "prompt set `mine` has no template `judge.j2`");
    }
}
