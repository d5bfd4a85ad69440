//! Imports of small files for tests.

use std::fs;
use std::path::{Path, PathBuf};

use chat::{History, Interaction};
use configs::synth::ImportConfig;

use crate::import::{DataCard, import};

/// What an import wrote.
#[derive(Debug)]
pub(super) struct Imported {
    pub(super) train: Vec<History>,
    pub(super) test: Vec<History>,
    pub(super) card: DataCard,
}

/// Writes files, whose names may have a folder, and imports them. The inputs are the folders in the order of the files.
///
/// # Errors
/// The text of the error of the import.
pub(super) fn import_files(files: &[(&str, &[u8])], config: &ImportConfig, seed: u64) -> Result<Imported, String> {
    let folder = tempfile::tempdir().unwrap();
    let mut input: Vec<PathBuf> = Vec::new();
    for (name, content) in files {
        let path = folder.path().join("raw").join(name);
        let parent = path.parent().unwrap().to_owned();
        fs::create_dir_all(&parent).unwrap();
        fs::write(&path, content).unwrap();
        if !input.contains(&parent) {
            input.push(parent);
        }
    }
    let out = folder.path().join("import");
    let config = ImportConfig { input, ..config.clone() };
    let card = import(&config, seed, &out, &mut |_, _| false).map_err(|e| e.to_string())?;
    let stored: DataCard = serde_json::from_str(&fs::read_to_string(out.join("card.json")).unwrap()).unwrap();
    assert_eq!(stored, card);
    Ok(Imported { train: histories(&out.join("train.jsonl")), test: histories(&out.join("test.jsonl")), card })
}

fn histories(path: &Path) -> Vec<History> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns the texts of the chosen items.
pub(super) fn texts(interactions: &[Interaction]) -> Vec<&str> {
    interactions.iter().map(|interaction| interaction.chosen.as_str()).collect()
}
