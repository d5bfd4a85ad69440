//! The files of a data set: a single named file, or the training files of its repository.

use std::path::{Path, PathBuf};

use hf_hub::{Cache, Repo, RepoType};

use crate::{HubError, HubSettings, api, network, parse};

/// Suffixes of files that contain rows.
const ROWS: [&str; 4] = [".jsonl", ".ndjson", ".json", ".parquet"];
/// Words in the paths of files that are not used for training.
const HELD_OUT: [&str; 7] = ["test", "validation", "valid", "val", "dev", "eval", "evaluation"];
/// Other JSON files that repositories commonly contain.
const ABOUT: [&str; 4] = ["dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"];

/// Returns the data files that `given` refers to, sorted by name; downloads them if necessary.
///
/// - A path that does not begin with `hf://` refers to itself.
/// - `hf://datasets/owner/name/…` refers to that file.
/// - `hf://datasets/owner/name` refers to the training files of the repository: the files of rows with the word `train` in their
///   path or, if there are none, those without `test`, `validation`, and similar words.
///
/// In offline mode, only files in the cache are considered.
///
/// # Errors
/// See [`HubError`].
pub fn dataset(given: &Path, settings: &HubSettings) -> Result<Vec<PathBuf>, HubError> {
    let text = given.to_string_lossy();
    // A slash after the revision starts the path of a file.
    let whole = text.strip_prefix("hf://datasets/").and_then(parse).filter(|(_, revision)| !revision.contains('/'));
    let Some((id, revision)) = whole else {
        return Ok(vec![crate::data(given, settings)?]);
    };
    let repo = Repo::with_revision(id.into(), RepoType::Dataset, revision.into());
    if settings.offline {
        // The empty name stands for the folder of the snapshot.
        let folder = Cache::new(settings.cache.clone()).repo(repo).get("");
        let not_cached = || HubError::NotCached { given: text.to_string(), cache: settings.cache.clone() };
        let folder = folder.ok_or_else(not_cached)?;
        let names = trained_on(&text, names_in(&folder))?;
        return Ok(names.iter().map(|name| folder.join(name)).collect());
    }
    let network = network(&text, settings);
    let remote = api(settings).map_err(&network)?.repo(repo);
    let names = remote.info().map_err(&network)?.siblings.into_iter().map(|file| file.rfilename).collect();
    trained_on(&text, names)?.iter().map(|name| remote.get(name).map_err(&network)).collect()
}

/// Returns the files of rows in a folder and its subfolders, sorted by name.
///
/// # Errors
/// [`HubError::NoRows`] with the files found.
pub fn files_of_rows(folder: &Path) -> Result<Vec<PathBuf>, HubError> {
    let names = names_in(folder);
    let rows: Vec<PathBuf> = names.iter().filter(|name| has_rows(name)).map(|name| folder.join(name)).collect();
    if rows.is_empty() { Err(no_rows(&folder.to_string_lossy(), &names)) } else { Ok(rows) }
}

/// Returns the paths of the files below `folder`, sorted. Skips hidden files and folders that cannot be read.
fn names_in(folder: &Path) -> Vec<String> {
    let (mut names, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(name) = path.strip_prefix(folder) {
                names.push(name.to_string_lossy().into_owned());
            }
        }
    }
    names.sort_unstable();
    names
}

fn has_rows(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    ROWS.iter().any(|ending| file.ends_with(ending)) && !ABOUT.contains(&file)
}

fn trained_on(given: &str, mut names: Vec<String>) -> Result<Vec<String>, HubError> {
    names.sort_unstable();
    let says = |name: &str, words: &[&str]| {
        name.to_lowercase().split(|c: char| !c.is_alphanumeric()).any(|word| words.contains(&word))
    };
    let rows: Vec<&String> = names.iter().filter(|name| has_rows(name)).collect();
    let mut chosen: Vec<String> = rows.iter().filter(|name| says(name, &["train"])).map(|&n| n.clone()).collect();
    if chosen.is_empty() {
        chosen = rows.iter().filter(|name| !says(name, &HELD_OUT)).map(|&n| n.clone()).collect();
    }
    if chosen.is_empty() { Err(no_rows(given, &names)) } else { Ok(chosen) }
}

fn no_rows(given: &str, names: &[String]) -> HubError {
    let mut there = names.iter().take(20).map(String::as_str).collect::<Vec<_>>().join(", ");
    if there.is_empty() {
        there = "nothing".into();
    }
    let more = names.len().saturating_sub(20);
    if more > 0 {
        there += &format!(" and {more} more");
    }
    HubError::NoRows { given: given.into(), there }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str]) -> Result<Vec<String>, HubError> {
        trained_on("hf://datasets/a/b", names.iter().map(|&n| n.to_owned()).collect())
    }

    #[test]
    fn the_files_to_train_on_say_so_or_say_nothing() {
        let both = ["data/train-00001-of-2.parquet", "data/train-00000-of-2.parquet", "data/test.parquet", "README.md"];
        assert_eq!(chosen(&both).unwrap(), ["data/train-00000-of-2.parquet", "data/train-00001-of-2.parquet"]);
        let none = ["rows.json", "extra_rows.jsonl", "valid.jsonl", "my-Dev.ndjson", "dataset_infos.json", "a.csv"];
        assert_eq!(chosen(&none).unwrap(), ["extra_rows.jsonl", "rows.json"]);
        assert_eq!(chosen(&["latest.jsonl", "constrained.jsonl"]).unwrap().len(), 2, "words, not parts of words");
    }

    #[test]
    fn nothing_to_train_on_is_said_with_what_is_there() {
        let error = chosen(&["test.jsonl", "notes.csv"]).unwrap_err().to_string();
        assert!(error.contains("notes.csv, test.jsonl") && error.contains("hf://datasets/a/b"), "{error}");
        let many: Vec<String> = (0..30).map(|i| format!("{i}.csv")).collect();
        let error = trained_on("x", many).unwrap_err().to_string();
        assert!(error.contains("and 10 more"), "{error}");
    }

    #[test]
    fn a_folder_has_its_files_of_rows_in_order() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        for name in ["b.jsonl", "a/c.parquet", "a/test.json", ".hidden.jsonl", "notes.md"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let names = files_of_rows(folder.path()).unwrap();
        assert_eq!(names, ["a/c.parquet", "a/test.json", "b.jsonl"].map(|n| folder.path().join(n)));
        let empty = tempfile::tempdir().unwrap();
        assert!(files_of_rows(empty.path()).unwrap_err().to_string().contains("nothing"));
    }
}
