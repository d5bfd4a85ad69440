//! The files of an import.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::import::error::ImportError;

/// Returns the files of the inputs in their order; those of a folder by name, without those of its folders.
pub(super) fn list(inputs: &[PathBuf]) -> Result<Vec<PathBuf>, ImportError> {
    let mut files = Vec::new();
    for input in inputs {
        files.extend(inside(input, false)?.map_or_else(|| vec![input.clone()], |names| paths(input, &names)));
    }
    Ok(files)
}

/// Returns the files of the inputs in their order: a file stands for itself, a folder for the files in it and in its folders whose
/// path there is `wanted`, sorted.
///
/// # Errors
/// [`ImportError::Missing`] for a folder without such a file, [`ImportError::Io`] for an input that cannot be read.
pub(super) fn files(
    inputs: &[PathBuf],
    expected: &str,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<PathBuf>, ImportError> {
    let mut files = Vec::new();
    for input in inputs {
        let Some(mut names) = inside(input, true)? else {
            files.push(input.clone());
            continue;
        };
        names.retain(|name| wanted(name));
        if names.is_empty() {
            return Err(ImportError::Missing { path: input.clone(), expected: expected.into() });
        }
        files.extend(paths(input, &names));
    }
    Ok(files)
}

fn paths(folder: &Path, names: &[String]) -> Vec<PathBuf> {
    names.iter().map(|name| folder.join(name)).collect()
}

/// Returns the paths of the files in a folder, sorted; `None` if `input` is a file. Names that begin with a period are hidden.
fn inside(input: &Path, deep: bool) -> Result<Option<Vec<String>>, ImportError> {
    let unread = |source| ImportError::unread(input, source);
    if !fs::metadata(input).map_err(unread)?.is_dir() {
        return Ok(None);
    }
    let mut names = Vec::new();
    walk(input, "", deep, &mut names).map_err(unread)?;
    names.sort_unstable();
    Ok(Some(names))
}

/// Adds the paths of the files in `folder`, each behind `prefix`.
fn walk(folder: &Path, prefix: &str, deep: bool, found: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        match (entry.path().is_dir(), deep) {
            (false, _) => found.push(format!("{prefix}{name}")),
            (true, true) => walk(&entry.path(), &format!("{prefix}{name}/"), deep, found)?,
            (true, false) => {}
        }
    }
    Ok(())
}

/// Returns whether the name of a file ends with `.gz`.
pub(super) fn is_gzip(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gz"))
}

/// Returns the name of a file without `.gz`, in lower case, split at its last period: `("meta_books", "jsonl")`.
pub(super) fn name_of(path: &Path) -> (String, String) {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let (stem, ending) = name.rsplit_once('.').unwrap_or((name, ""));
    (stem.to_owned(), ending.to_owned())
}

/// Returns the files whose names begin with `begin` and end with one of `endings` (or one of them and `.gz`).
pub(super) fn named(inputs: &[PathBuf], begin: &str, endings: &[&str]) -> Result<Vec<PathBuf>, ImportError> {
    Ok(list(inputs)?
        .into_iter()
        .filter(|path| {
            let (stem, ending) = name_of(path);
            stem.starts_with(begin) && endings.contains(&ending.as_str())
        })
        .collect())
}

/// Returns the files of [`named`], of which there must be one.
pub(super) fn required(
    inputs: &[PathBuf],
    begin: &str,
    endings: &[&str],
    expected: &str,
) -> Result<Vec<PathBuf>, ImportError> {
    let found = named(inputs, begin, endings)?;
    if !found.is_empty() {
        return Ok(found);
    }
    Err(ImportError::Missing { path: inputs.first().cloned().unwrap_or_default(), expected: expected.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["news.tsv", "behaviors.tsv.gz", "news.vec", "Behaviors_dev.TSV"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        fs::create_dir(folder.path().join("news.tsv.d")).unwrap();
        for name in ["news.tsv.d/part.tsv", ".hidden"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let inputs = [folder.path().to_owned()];
        let names = |begin| -> Vec<String> {
            let found = named(&inputs, begin, &["tsv"]).unwrap();
            found.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names("news"), ["news.tsv"]);
        assert_eq!(names("behaviors"), ["Behaviors_dev.TSV", "behaviors.tsv.gz"]);
        assert_eq!(list(&inputs).unwrap().len(), 4);
        let error = required(&inputs, "ratings", &["csv"], "ratings.csv").unwrap_err().to_string();
        assert!(error.contains("expected ratings.csv"), "{error}");
        let found = files(&inputs, "tables", |name| name.ends_with(".tsv")).unwrap();
        assert_eq!(found, ["news.tsv", "news.tsv.d/part.tsv"].map(|name| folder.path().join(name)));
        let error = files(&inputs, "tables", |name| name.ends_with(".csv")).unwrap_err().to_string();
        assert!(error.contains("expected tables"), "{error}");
        let absent = [PathBuf::from("not/there")];
        assert!(files(&absent, "tables", |_| true).unwrap_err().to_string().contains("cannot read not/there"));
        assert!(list(&absent).unwrap_err().to_string().contains("cannot read not/there"));
    }
}
