//! The hashes by which two prompt sets are compared.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::prompts::PromptSet;

/// A task for which a set has templates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptTask {
    /// To summarize a user's interactions.
    Summarize,
    /// To predict which of two items a user would choose.
    Judge,
    /// To show the raw history to a judge.
    History,
}

impl PromptTask {
    /// Returns the file names of the task's templates; a set needs the first one for the task.
    pub fn templates(self) -> &'static [&'static str] {
        match self {
            Self::Summarize => &["summarize.j2", "summarize.system.j2"],
            Self::Judge => &["judge.j2", "judge.system.j2"],
            Self::History => &["history.j2"],
        }
    }

    /// Returns the file names of the task's templates for histories of messages. A set may lack them.
    pub fn message_templates(self) -> &'static [&'static str] {
        match self {
            Self::Summarize => &["summarize_messages.j2", "summarize_messages.system.j2"],
            Self::Judge => &[],
            Self::History => &["history_messages.j2"],
        }
    }
}

/// The name and the hashes of a prompt set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptManifest {
    /// Name of the set.
    pub name: String,
    /// Hash of the set; see [`PromptSet::hash`].
    pub hash: String,
    /// SHA-256 of each template, in hexadecimal, by file name.
    pub templates: BTreeMap<String, String>,
}

impl PromptManifest {
    /// Returns whether the set has a template for `task`.
    pub fn has(&self, task: PromptTask) -> bool {
        self.templates.contains_key(task.templates()[0])
    }

    /// Returns the file names of the templates that differ between two sets, or that only one of them has. With a `task`, only its
    /// templates are compared. Those for messages are compared only if both sets have some of the same task: a set without them prompts
    /// with interactions only.
    pub fn differing(&self, other: &Self, task: Option<PromptTask>) -> Vec<String> {
        let more = other.templates.keys().filter(|name| !self.templates.contains_key(*name));
        let mut names: Vec<&String> = self.templates.keys().chain(more).collect();
        names.sort();
        let of_task =
            |task: PromptTask, name: &str| task.templates().contains(&name) || task.message_templates().contains(&name);
        names
            .into_iter()
            .filter(|name| task.is_none_or(|task| of_task(task, name)))
            .filter(|name| self.has_kind_of(name) && other.has_kind_of(name))
            .filter(|name| self.templates.get(*name) != other.templates.get(*name))
            .cloned()
            .collect()
    }

    /// Returns whether the set has templates for messages of the task of `name`, if that is one of them.
    fn has_kind_of(&self, name: &str) -> bool {
        let Some((task, _)) = name.split_once("_messages.") else { return true };
        self.templates.keys().any(|own| own.split_once("_messages.").is_some_and(|(of, _)| of == task))
    }
}

impl PromptSet {
    /// Returns whether the set has a template for `task`.
    pub fn has(&self, task: PromptTask) -> bool {
        self.sources().contains_key(task.templates()[0])
    }

    /// Returns whether the set has a template for `task` with histories of messages.
    pub fn has_for_messages(&self, task: PromptTask) -> bool {
        task.message_templates().first().is_some_and(|name| self.sources().contains_key(*name))
    }

    /// Returns the SHA-256 hash of the set's templates, in hexadecimal. In the folder of a set, this command prints the same:
    /// `LC_ALL=C; sha256sum *.j2 | sha256sum`.
    pub fn hash(&self) -> String {
        let lines = self.sources().iter().map(|(file, text)| format!("{}  {file}\n", sha256(text)));
        sha256(&lines.collect::<String>())
    }

    /// Returns the name and the hashes of the set.
    pub fn manifest(&self) -> PromptManifest {
        let templates = self.sources().iter().map(|(file, text)| (file.clone(), sha256(text))).collect();
        PromptManifest { name: self.name().to_owned(), hash: self.hash(), templates }
    }
}

fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(templates: &[(&str, &str)]) -> PromptSet {
        let sources = templates.iter().map(|&(file, text)| (file.to_owned(), text.to_owned())).collect();
        PromptSet::new("mine", &sources).unwrap()
    }

    #[test]
    fn the_hash_is_the_one_that_coreutils_print() {
        // printf hello > summarize.j2; printf 'world\n' > judge.j2; sha256sum *.j2 | sha256sum
        let two = set(&[("summarize.j2", "hello"), ("judge.j2", "world\n")]);
        assert_eq!(two.hash(), "23c43ae7d4f24f1495c1191e41f96b05f4091250478ed8aba69327e53c6fb974");
        let manifest = two.manifest();
        assert_eq!((manifest.name.as_str(), &manifest.hash), ("mine", &two.hash()));
        assert_eq!(
            manifest.templates["summarize.j2"],
            "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
        );
        // Text that moves from a template's name or neighbor to another changes the hash.
        assert_ne!(set(&[("summarize.j2", "world\n"), ("judge.j2", "hello")]).hash(), two.hash());
        assert_ne!(set(&[("summarize.j2", "hello"), ("judge.j2", "world")]).hash(), two.hash());
    }

    #[test]
    fn the_templates_of_a_task_are_compared() {
        let plain = set(&[("judge.j2", "a"), ("summarize.j2", "b"), ("teach.j2", "c")]).manifest();
        let other = set(&[("judge.j2", "a"), ("summarize.j2", "B"), ("summarize.system.j2", "s")]).manifest();
        let (forth, back) = (plain.differing(&other, None), other.differing(&plain, None));
        assert_eq!(forth, ["summarize.j2", "summarize.system.j2", "teach.j2"]);
        assert_eq!(forth, back);
        assert_eq!(plain.differing(&other, Some(PromptTask::Summarize)), ["summarize.j2", "summarize.system.j2"]);
        assert!(plain.differing(&other, Some(PromptTask::Judge)).is_empty());
        assert!(plain.has(PromptTask::Judge) && !plain.has(PromptTask::History));
    }

    #[test]
    fn a_set_may_lack_templates_for_messages() {
        let words =
            set(&[("summarize.j2", "a"), ("summarize_messages.j2", "m"), ("history.j2", "h"), ("judge.j2", "j")]);
        let has = |task| (words.has(task), words.has_for_messages(task));
        assert_eq!(has(PromptTask::Summarize), (true, true));
        assert_eq!(has(PromptTask::History), (true, false));
        assert_eq!(has(PromptTask::Judge), (true, false));
    }

    #[test]
    fn templates_for_messages_are_compared_if_both_sets_have_them() {
        let old = set(&[("summarize.j2", "a")]).manifest();
        let new = set(&[("summarize.j2", "a"), ("summarize_messages.j2", "m")]).manifest();
        let system = "summarize_messages.system.j2";
        let edited = set(&[("summarize.j2", "a"), ("summarize_messages.j2", "M"), (system, "s")]).manifest();
        for task in [Some(PromptTask::Summarize), None] {
            assert!(old.differing(&new, task).is_empty() && new.differing(&old, task).is_empty());
            assert_eq!(new.differing(&edited, task), ["summarize_messages.j2", system]);
            assert_eq!(edited.differing(&new, task), ["summarize_messages.j2", system]);
        }
        let taught = set(&[("summarize.j2", "b"), ("teach_messages.j2", "t")]).manifest();
        assert_eq!(new.differing(&taught, None), ["summarize.j2"]);
    }
}
