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
    let file = File::open(path).map_err(|source| JsonlError::Io { action: "read", path: path.into(), source })?;
    Ok(read_numbered(BufReader::new(file), path)?.into_iter().map(|(_, row)| row).collect())
}

/// Reads every row from `input`, whose name in errors is `name`. Returns each row with its line number, from 1; blank lines are
/// skipped.
///
/// # Errors
/// Same as [`read`].
pub fn read_numbered<T: DeserializeOwned + Checked>(
    input: impl BufRead,
    name: &Path,
) -> Result<Vec<(usize, T)>, JsonlError> {
    let mut rows = Vec::new();
    for (index, line) in input.lines().enumerate() {
        let line = line.map_err(|source| JsonlError::Io { action: "read", path: name.into(), source })?;
        if line.trim().is_empty() {
            continue;
        }
        let at = |message| JsonlError::Line { path: name.into(), line: index + 1, message };
        let row: T = parse(&line).map_err(at)?;
        if let Some(defect) = row.defect() {
            return Err(at(format!("field `{}` {}", defect.field, defect.message)));
        }
        rows.push((index + 1, row));
    }
    if rows.is_empty() { Err(JsonlError::Empty { path: name.into() }) } else { Ok(rows) }
}

/// Parses one line. The message names the field where parsing failed, unless that is the row itself.
fn parse<T: DeserializeOwned>(line: &str) -> Result<T, String> {
    let mut json = serde_json::Deserializer::from_str(line);
    let row = serde_path_to_error::deserialize(&mut json).map_err(|e| match e.path().to_string().as_str() {
        "." => in_words(e.inner()),
        field => format!("field `{field}`: {}", in_words(e.inner())),
    })?;
    json.end().map_err(|e| in_words(&e))?;
    Ok(row)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{History, Interaction};

    fn read_text(text: &str) -> Result<Vec<(usize, History)>, String> {
        read_numbered(text.as_bytes(), Path::new("rows.jsonl")).map_err(|e| e.to_string())
    }

    #[test]
    fn rows_keep_their_line_numbers() {
        let row = r#"{"uid":"a","interactions":[{"chosen":"x"}]}"#;
        let rows = read_text(&format!("{row}\n\n{row}\n")).unwrap();
        assert_eq!(rows.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 3]);
        let interaction = Interaction { chosen: "x".into(), ..Interaction::default() };
        assert_eq!(rows[1].1, History { uid: "a".into(), interactions: vec![interaction], transfer: vec![] });
    }

    #[test]
    fn errors_name_line_and_field() {
        for (bad, message) in [
            (r#"{"uid":"a","interactions":[]}"#, "field `interactions` is empty"),
            (r#"{"uid":"a"}"#, "rows.jsonl:2: missing field `interactions`"),
            (
                r#"{"uid":"a","interactions":[{"chosen":1}]}"#,
                "field `interactions[0].chosen`: invalid type: integer `1`",
            ),
            (r#"{"uid":"a","interactions":[{"chosen":"x"}]} {}"#, "trailing characters"),
        ] {
            let error = read_text(&format!("\n{bad}\n")).unwrap_err();
            assert!(error.starts_with("rows.jsonl:2: ") && error.contains(message), "{error}");
        }
        assert!(read_text("\n").unwrap_err().contains("rows.jsonl has no rows"));
    }
}
