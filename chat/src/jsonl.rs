//! Reading and writing of JSON Lines. An error reports the file, line, and field of a bad row, and the fix.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
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
        rows.push((index + 1, checked(&line, index + 1, name)?));
    }
    if rows.is_empty() { Err(JsonlError::Empty { path: name.into() }) } else { Ok(rows) }
}

/// Returns an iterator over the rows of a file, each with its line number, from 1, that holds one row at a time; blank lines are
/// skipped. It ends after the first error; a file without rows is not an error.
///
/// # Errors
/// [`JsonlError::Io`] if the file cannot be opened. The items are errors as those of [`read`].
pub fn stream<T: DeserializeOwned + Checked>(
    path: &Path,
) -> Result<impl Iterator<Item = Result<(usize, T), JsonlError>> + use<T>, JsonlError> {
    let file = File::open(path).map_err(|source| JsonlError::Io { action: "read", path: path.into(), source })?;
    let (mut lines, name, mut failed) = (BufReader::new(file).lines().enumerate(), path.to_owned(), false);
    Ok(std::iter::from_fn(move || {
        if failed {
            return None;
        }
        let (index, line) = lines.by_ref().find(|(_, line)| !line.as_ref().is_ok_and(|text| text.trim().is_empty()))?;
        let row = line
            .map_err(|source| JsonlError::Io { action: "read", path: name.clone(), source })
            .and_then(|line| checked(&line, index + 1, &name));
        failed = row.is_err();
        Some(row.map(|row| (index + 1, row)))
    }))
}

/// Parses one line and checks the row.
fn checked<T: DeserializeOwned + Checked>(line: &str, number: usize, name: &Path) -> Result<T, JsonlError> {
    let at = |message| JsonlError::Line { path: name.into(), line: number, message };
    let row: T = parse(line)
        .map_err(|(field, cause)| at(if field.is_empty() { cause } else { format!("field `{field}`: {cause}") }))?;
    match row.defect() {
        None => Ok(row),
        Some(defect) => Err(at(format!("field `{}` {}", defect.field, defect.message))),
    }
}

/// Parses one line.
///
/// # Errors
/// The field where parsing failed, empty for the row itself, and the cause.
pub fn parse<T: DeserializeOwned>(line: &str) -> Result<T, (String, String)> {
    let mut json = serde_json::Deserializer::from_str(line);
    let row = serde_path_to_error::deserialize(&mut json).map_err(|e| match e.path().to_string() {
        // "?" is a key that could not be read.
        path if path == "." || path == "?" => (String::new(), in_words(e.inner())),
        field => (field, in_words(e.inner())),
    })?;
    json.end().map_err(|e| (String::new(), in_words(&e)))?;
    Ok(row)
}

/// Returns serde_json's message, with its position (the line is always 1 here) reduced to the column.
pub fn in_words(error: &serde_json::Error) -> String {
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
    files::replace(path, |out| rows.iter().try_for_each(|row| write_row(out, row))).map_err(io)
}

/// Writes one object and the end of its line.
///
/// # Errors
/// Any error of `out`.
pub fn write_row(out: &mut dyn Write, row: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, row)?;
    out.write_all(b"\n")
}

/// Writes one object per line and replaces the file atomically, one row at a time: `fill` is called with the function that writes a
/// row. If it fails, the file stays what it was.
///
/// # Errors
/// The error of `fill`, or [`JsonlError::Io`] if the folder cannot be written.
pub fn write_with<T: Serialize, E: From<JsonlError>>(
    path: &Path,
    fill: impl FnOnce(&mut dyn FnMut(&T) -> Result<(), E>) -> Result<(), E>,
) -> Result<(), E> {
    let cannot = |source: io::Error| E::from(JsonlError::Io { action: "write", path: path.into(), source });
    let mut failed = None;
    let written = files::replace(path, |out| {
        let mut write = |row: &T| write_row(&mut *out, row).map_err(cannot);
        fill(&mut write).map_err(|error| {
            failed = Some(error);
            io::Error::other("the rows end early")
        })
    });
    match failed {
        Some(error) => Err(error),
        None => written.map_err(cannot),
    }
}

/// Returns the number of rows of a file, which is read to the end: the lines that are not blank.
///
/// # Errors
/// [`JsonlError::Io`] if the file cannot be read, as a folder cannot.
pub fn count(path: &Path) -> Result<usize, JsonlError> {
    let cannot = |source| JsonlError::Io { action: "read", path: path.into(), source };
    let mut lines = BufReader::new(File::open(path).map_err(cannot)?);
    let (mut rows, mut line) = (0, Vec::new());
    while lines.read_until(b'\n', &mut line).map_err(cannot)? > 0 {
        rows += usize::from(!line.trim_ascii().is_empty());
        line.clear();
    }
    Ok(rows)
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
        assert_eq!(rows[1].1, History { uid: "a".into(), interactions: vec![interaction], ..History::default() });
    }

    #[test]
    fn a_stream_gives_the_rows_before_the_first_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let row = r#"{"uid":"a","interactions":[{"chosen":"x"}]}"#;
        std::fs::write(&path, format!("{row}\n\n{row}\n{{\"uid\":1}}\n{row}\n")).unwrap();
        let rows: Vec<Result<(usize, History), JsonlError>> = stream(&path).unwrap().collect();
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[..2].iter().map(|row| row.as_ref().unwrap().0).collect::<Vec<_>>(), [1, 3]);
        let error = rows[2].as_ref().unwrap_err().to_string();
        assert!(error.contains("rows.jsonl:4: "), "{error}");
        assert!(stream::<History>(&folder.path().join("absent")).is_err());
    }

    #[test]
    fn rows_are_counted_and_a_folder_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, "{}\n\n  \n{}\n{}").unwrap();
        assert_eq!(count(&path).unwrap(), 3);
        let error = count(folder.path()).unwrap_err().to_string();
        assert!(error.starts_with("cannot read "), "{error}");
    }

    #[test]
    fn rows_are_written_one_by_one_and_a_failure_keeps_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let written = write_with::<u32, JsonlError>(&path, |write| {
            write(&1)?;
            write(&2)
        });
        written.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n2\n");
        let failed = write_with::<u32, JsonlError>(&path, |write| {
            write(&3)?;
            Err(JsonlError::Empty { path: "input.jsonl".into() })
        });
        assert!(failed.unwrap_err().to_string().starts_with("input.jsonl has no rows"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n2\n");
    }

    #[test]
    fn errors_name_line_and_field() {
        for (bad, message) in [
            (r#"{"uid":"a","interactions":[]}"#, "field `interactions` is missing or empty"),
            (r#"{"interactions":[{"chosen":"x"}]}"#, "rows.jsonl:2: missing field `uid`"),
            (
                r#"{"uid":"a"}"#,
                "field `interactions` is missing or empty; expected at least one interaction, or at least one message",
            ),
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
