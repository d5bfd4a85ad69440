//! Resolves a path of the configuration to files.

use std::path::{Path, PathBuf};

use hub::HubSettings;

use crate::CorpusError;

/// Returns the files of `given`: a file, the data files in a folder sorted by name, or a dataset of the hub (see
/// [`hub::dataset`]).
///
/// # Errors
/// Returns [`CorpusError::Source`] if it is not available.
pub fn files(given: &Path, settings: &HubSettings) -> Result<Vec<PathBuf>, CorpusError> {
    if given.is_dir() { Ok(hub::files_of_rows(given)?) } else { Ok(hub::dataset(given, settings)?) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_folders_stand_for_themselves() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a.jsonl"), folder.path().join("b.parquet"));
        std::fs::write(&a, "").unwrap();
        std::fs::write(&b, "").unwrap();
        let settings = HubSettings { offline: true, ..HubSettings::from_environment() };
        assert_eq!(files(&a, &settings).unwrap(), std::slice::from_ref(&a));
        assert_eq!(files(folder.path(), &settings).unwrap(), [a, b]);
        let missing = Path::new("hf://datasets/nobody/nothing-here");
        assert!(files(missing, &settings).unwrap_err().to_string().contains("HF_HUB_OFFLINE"));
    }
}
