//! Reading and writing of JSON Lines. An error reports the file, line, and field of a bad row, and the fix.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::records::Checked;

/// An error of reading or writing rows.
#[derive(Debug, thiserror::Error)]
pub enum JsonlError {
    /// An I/O error of the file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// "read" or "write".
        action: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// The underlying I/O error.
        source: std::io::Error,
    },
    /// A line that is not the expected object.
    #[error("{}:{line}: {message}; fix or remove this line", path.display())]
    Line {
        /// Path of the file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong with the line: the field, and what was expected.
        message: String,
    },
    /// The file has no rows.
    #[error("{} has no rows; expected one JSON object per line", path.display())]
    Empty {
        /// Path of the file.
        path: PathBuf,
    },
}

/// Reads every row; blank lines are skipped.
///
/// # Errors
/// [`JsonlError`] for an unreadable file, for the first line that does not parse or has a defect, and for a file without rows.
pub fn read<T: DeserializeOwned + Checked>(path: &Path) -> Result<Vec<T>, JsonlError> {
    let io = |source| JsonlError::Io { action: "read", path: path.into(), source };
    let mut rows = Vec::new();
    for (index, line) in BufReader::new(File::open(path).map_err(io)?).lines().enumerate() {
        let line = line.map_err(io)?;
        if line.trim().is_empty() {
            continue;
        }
        let at = |message| JsonlError::Line { path: path.into(), line: index + 1, message };
        let row: T = serde_json::from_str(&line).map_err(|e| at(in_words(&e)))?;
        if let Some(defect) = row.defect() {
            return Err(at(format!("field `{}` {}", defect.field, defect.message)));
        }
        rows.push(row);
    }
    if rows.is_empty() { Err(JsonlError::Empty { path: path.into() }) } else { Ok(rows) }
}

/// Returns serde_json's message, with its position (the line is always 1 here) reduced to the column.
fn in_words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let cause = text.rsplit_once(" at line ").map_or(text.as_str(), |(cause, _)| cause);
    format!("{cause} (column {})", error.column())
}

/// Writes one object per line and replaces the file atomically ([`files::replace`]).
///
/// # Errors
/// [`JsonlError::Io`] if the folder cannot be written.
pub fn write<T: Serialize>(path: &Path, rows: &[T]) -> Result<(), JsonlError> {
    let io = |source| JsonlError::Io { action: "write", path: path.into(), source };
    let lines = |out: &mut dyn Write| {
        rows.iter().try_for_each(|row| {
            serde_json::to_writer(&mut *out, row)?;
            out.write_all(b"\n")
        })
    };
    files::replace(path, lines).map_err(io)
}
