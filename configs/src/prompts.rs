//! Prompt templates: built-in sets, and sets in user folders.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::error::ConfigError;
use crate::keys;

/// The prompt set for models that carry none.
pub const DEFAULT: &str = "plain";

/// The expected value of a `prompts` key, for errors.
pub(crate) const EXPECTED: &str = "a built-in prompt set or a folder of <task>.j2 files";

/// Set, file name, and text of each template, ordered by set and file.
const BUILT_IN: &[(&str, &str, &str)] = include!(concat!(env!("OUT_DIR"), "/built_in_prompts.rs"));

/// Returns the names of the built-in sets.
pub fn built_in() -> Vec<String> {
    let mut names: Vec<String> = BUILT_IN.iter().map(|(set, _, _)| (*set).to_string()).collect();
    names.dedup();
    names
}

/// Returns the templates of a set, as a map from file name (`summarize.j2`) to text: a built-in set by its name, otherwise the
/// `*.j2` files of a folder.
///
/// # Errors
/// [`ConfigError::Prompts`] if `set` is neither, or if the folder contains no templates or cannot be read.
pub fn sources(set: &str) -> Result<BTreeMap<String, String>, ConfigError> {
    let built_in: BTreeMap<_, _> = BUILT_IN
        .iter()
        .filter(|(name, _, _)| *name == set)
        .map(|(_, file, text)| ((*file).to_string(), (*text).to_string()))
        .collect();
    if built_in.is_empty() { from_folder(set) } else { Ok(built_in) }
}

fn from_folder(set: &str) -> Result<BTreeMap<String, String>, ConfigError> {
    let known = built_in();
    let wrong = |problem: String| ConfigError::Prompts { set: set.into(), problem, known: known.clone() };
    if !Path::new(set).is_dir() {
        let meant = keys::nearest(set, &known).map_or_else(String::new, |name| format!(" (did you mean `{name}`?)"));
        return Err(wrong(format!("neither a built-in set nor a folder{meant}")));
    }
    let unreadable = |path: &Path, e: std::io::Error| wrong(format!("cannot read {}: {e}", path.display()));
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(set).map_err(|e| unreadable(Path::new(set), e))? {
        let path = entry.map_err(|e| unreadable(Path::new(set), e))?.path();
        if let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| name.ends_with(".j2")) {
            files.insert(name.to_string(), fs::read_to_string(&path).map_err(|e| unreadable(&path, e))?);
        }
    }
    if files.is_empty() { Err(wrong("the folder has no .j2 files".into())) } else { Ok(files) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tasks for which the program prompts models.
    const TASKS: [&str; 10] = [
        "summarize",
        "judge",
        "teach",
        "merge",
        "history",
        "contradict",
        "respond",
        "summarize_messages",
        "teach_messages",
        "history_messages",
    ];

    #[test]
    fn every_built_in_set_has_every_task_and_compiles() {
        assert_eq!(built_in(), ["compact", "plain"]);
        for set in built_in() {
            let files = sources(&set).unwrap();
            for task in TASKS {
                assert!(files.contains_key(&format!("{task}.j2")), "{set} lacks {task}");
            }
            let mut templates = minijinja::Environment::new();
            for (file, text) in files {
                templates.add_template_owned(file.clone(), text).unwrap_or_else(|e| panic!("{set}/{file}: {e:#}"));
            }
        }
    }

    #[test]
    fn a_folder_gives_its_templates_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("judge.j2"), "who? {{ item_a }}").unwrap();
        fs::write(folder.path().join("notes.txt"), "not a template").unwrap();
        let files = sources(folder.path().to_str().unwrap()).unwrap();
        assert_eq!(files, BTreeMap::from([("judge.j2".to_string(), "who? {{ item_a }}".to_string())]));
    }

    #[test]
    fn an_unknown_set_is_told_the_known_ones() {
        let text = sources("compactt").unwrap_err().to_string();
        assert!(text.contains("`compactt`") && text.contains("did you mean `compact`?"), "{text}");
        assert!(text.contains("`compact` and `plain`"), "{text}");
        let empty = tempfile::tempdir().unwrap();
        let text = sources(empty.path().to_str().unwrap()).unwrap_err().to_string();
        assert!(text.contains("no .j2 files"), "{text}");
    }
}
