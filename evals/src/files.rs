//! Writes results as JSON files, for programs.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{EvalRow, Gain};

/// The name of the file of accuracies in a run folder.
pub const ROWS: &str = "eval.json";
/// The name of the file of paired differences in a run folder.
pub const GAINS: &str = "eval-gains.json";

/// A file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}; free space or choose another run folder", path.display())]
pub struct WriteError {
    path: PathBuf,
    source: std::io::Error,
}

/// Writes [`ROWS`] and [`GAINS`] to a folder, each as a JSON list. Each file is replaced atomically.
///
/// # Errors
/// Returns [`WriteError`] if the folder cannot be created or written.
pub fn write(folder: &Path, rows: &[EvalRow], gains: &[Gain]) -> Result<(), WriteError> {
    list(&folder.join(ROWS), rows)?;
    list(&folder.join(GAINS), gains)
}

/// Writes a JSON list with one object per line, so that it can be compared by eye and with `diff`.
fn list<T: Serialize>(path: &Path, items: &[T]) -> Result<(), WriteError> {
    let lines = |out: &mut dyn Write| {
        for (i, item) in items.iter().enumerate() {
            out.write_all(if i == 0 { b"[\n" } else { b",\n" })?;
            serde_json::to_writer(&mut *out, item)?;
        }
        out.write_all(if items.is_empty() { b"[]\n" } else { b"\n]\n" })
    };
    ::files::replace(path, lines).map_err(|source| WriteError { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::{Setting, TargetKind};

    use super::*;

    #[test]
    fn rows_have_the_documented_fields_and_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let row = EvalRow {
            model: "rl".into(),
            setting: Setting::Streaming,
            targets: TargetKind::InDomain,
            judge: "second".into(),
            accuracy: 0.75,
            ci_low: 0.5,
            ci_high: 1.0,
            users: 3,
            targets_judged: 12,
            no_answer: 0.25,
        };
        let rows = vec![row.clone(), EvalRow { targets: TargetKind::Transfer, ..row }];
        let run = folder.path().join("runs/a");
        write(&run, &rows, &[]).unwrap();
        let text = fs::read_to_string(run.join(ROWS)).unwrap();
        let first = r#"{"model":"rl","setting":"streaming","targets":"in_domain","judge":"second","accuracy":0.75,"ci_low":0.5,"ci_high":1.0,"users":3,"targets_judged":12,"no_answer":0.25}"#;
        assert_eq!(text, format!("[\n{first},\n{}\n]\n", first.replace("in_domain", "transfer")));
        assert_eq!(serde_json::from_str::<Vec<EvalRow>>(&text).unwrap(), rows);
        let gains: Vec<Gain> = serde_json::from_str(&fs::read_to_string(run.join(GAINS)).unwrap()).unwrap();
        assert!(gains.is_empty());
        assert_eq!(fs::read_dir(&run).unwrap().count(), 2, "nothing partial is left");
    }

    #[test]
    fn a_file_in_the_folder_s_place_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("taken");
        fs::write(&blocked, "").unwrap();
        let error = write(&blocked, &[], &[]).unwrap_err().to_string();
        assert!(error.starts_with("cannot write ") && error.contains("taken/eval.json"), "{error}");
    }
}
