//! The rows of `prompts.json`: which prompt set each model of a run has, and whether it was trained on that wording.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number of characters of a hash in messages.
const SHORT: usize = 12;

/// A prompt set, identified by its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptSetId {
    /// Name of the set: built in, or the folder that it came from.
    pub name: String,
    /// SHA-256 of its templates, in hexadecimal.
    pub hash: String,
}

impl fmt::Display for PromptSetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({:.SHORT$})", self.name, self.hash)
    }
}

/// The prompt set of one model of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptUse {
    /// The setting that chooses the set, such as `prompts`, `judge.prompts` or `--prompts`.
    pub key: String,
    /// Whether the setting names the set. Otherwise it is the model's own, or the default if the model carries none.
    pub named: bool,
    /// The model.
    pub model: String,
    /// The set that the run uses.
    pub used: PromptSetId,
    /// The set that the model was trained on; `None` if its folder does not say.
    pub trained: Option<PromptSetId>,
    /// File names of the templates for this model in which the two sets differ.
    pub differ: Vec<String>,
}

impl PromptUse {
    /// Returns the warning for a model that was trained on another wording: the templates that differ, both hashes, and how to take
    /// the model's own set. `None` if the wording is the same, or if what the model was trained on is not known.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let trained = self.trained.as_ref().filter(|_| !self.differ.is_empty())?;
        let Self { key, model, used, .. } = self;
        let fix = match self.named {
            true if key.starts_with("--") => format!("omit {key} to take the model's own set"),
            true => format!("remove `{key}`, or set it to \"\", to take the model's own set"),
            false => format!("restore the templates in {model}/prompts, which were edited after the training"),
        };
        Some(format!(
            "{key}: the wording is not the one that {model} was trained on: {} of {used} differ{} from {trained}; a model can answer \
             badly to other words; {fix}",
            self.differ.join(", "),
            if self.differ.len() == 1 { "s" } else { "" }
        ))
    }
}

impl fmt::Display for PromptUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, model, used, .. } = self;
        match &self.trained {
            None => write!(f, "{key}: {used}; {model} carries no set for this task"),
            Some(_) if self.differ.is_empty() => write!(f, "{key}: {used}, the wording that {model} was trained on"),
            Some(trained) => write!(f, "{key}: {used}; {model} was trained on {trained}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(named: bool, differ: &[&str]) -> PromptUse {
        let id = |name: &str, digit: &str| PromptSetId { name: name.into(), hash: digit.repeat(64) };
        PromptUse {
            key: "prompts".into(),
            named,
            model: "runs/sft".into(),
            used: id("plain", "a"),
            trained: Some(id("compact", "b")),
            differ: differ.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_warning_names_templates_hashes_and_the_fix() {
        let warning = used(true, &["summarize.j2", "summarize.system.j2"]).warning().unwrap();
        for words in [
            "prompts: the wording is not the one that runs/sft was trained on",
            "summarize.j2, summarize.system.j2 of `plain` (aaaaaaaaaaaa) differ from `compact` (bbbbbbbbbbbb)",
            "remove `prompts`, or set it to \"\"",
        ] {
            assert!(warning.contains(words), "{warning}");
        }
        let edited = used(false, &["summarize.j2"]).warning().unwrap();
        assert!(edited.contains("summarize.j2 of `plain` (aaaaaaaaaaaa) differs from"), "{edited}");
        assert!(edited.contains("restore the templates in runs/sft/prompts"), "{edited}");
        let flag = PromptUse { key: "--prompts".into(), ..used(true, &["summarize.j2"]) };
        assert!(flag.warning().unwrap().contains("omit --prompts"));
    }

    #[test]
    fn the_same_wording_and_an_unknown_one_are_no_warning() {
        assert_eq!(used(true, &[]).warning(), None);
        let unknown = PromptUse { trained: None, ..used(true, &[]) };
        assert_eq!(unknown.warning(), None);
        assert_eq!(unknown.to_string(), "prompts: `plain` (aaaaaaaaaaaa); runs/sft carries no set for this task");
        let same = used(false, &[]).to_string();
        assert_eq!(same, "prompts: `plain` (aaaaaaaaaaaa), the wording that runs/sft was trained on");
    }
}
