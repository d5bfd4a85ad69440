//! Helpers for this crate's own tests.

use std::collections::BTreeMap;
use std::path::Path;

use chat::PromptSet;

/// Loads a committed prompt set.
pub(crate) fn prompt_set(name: &str) -> PromptSet {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/prompts").join(name);
    let sources: BTreeMap<String, String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(&path).unwrap())
        })
        .collect();
    PromptSet::new(name, &sources).unwrap()
}

/// Loads the prompt set for tiny models.
pub(crate) fn compact() -> PromptSet {
    prompt_set("compact")
}
