//! Errors of imports.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A malformed row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// Path of the file.
    pub path: PathBuf,
    /// Line of the row, from 1.
    pub line: u64,
    /// The malformed field; empty if it is the row itself.
    pub field: String,
    /// What is wrong, and what was expected.
    pub message: String,
}

impl BadRow {
    /// Describes a malformed field; an empty `field` stands for the row itself.
    pub fn new(path: &Path, line: u64, field: &str, message: impl Into<String>) -> Self {
        Self { path: path.into(), line, field: field.into(), message: message.into() }
    }

    /// Returns what the row is counted under: its file and its field.
    pub fn reason(&self) -> String {
        let file = self.path.file_name().map_or_else(|| self.path.display().to_string(), |f| f.display().to_string());
        if self.field.is_empty() { format!("{file}: row") } else { format!("{file}: field `{}`", self.field) }
    }
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = if self.field.is_empty() { String::new() } else { format!("field `{}` ", self.field) };
        write!(f, "{}:{}: {field}{}", self.path.display(), self.line, self.message)
    }
}

/// Parses a field as a number.
///
/// # Errors
/// [`ImportError::BadRow`] for another text.
pub(super) fn number<T: FromStr>(path: &Path, line: u64, field: &str, text: &str) -> Result<T, ImportError> {
    text.trim()
        .parse()
        .map_err(|_| ImportError::BadRow(BadRow::new(path, line, field, format!("is `{text}`; expected a number"))))
}

/// Parses a field as a rating.
///
/// # Errors
/// [`ImportError::BadRow`] for a text that is not a finite number.
pub(super) fn rating(path: &Path, line: u64, field: &str, text: &str) -> Result<f32, ImportError> {
    let value: f32 = number(path, line, field, text)?;
    if value.is_finite() {
        return Ok(value);
    }
    Err(ImportError::BadRow(BadRow::new(path, line, field, format!("is `{text}`; expected a number"))))
}

/// An error of an import.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A malformed row.
    #[error("{0}; fix or remove this row, or skip such rows with import.skip_bad = true (--skip-bad)")]
    BadRow(BadRow),
    /// A file that cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// "read" or "write".
        action: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A format that does not exist.
    #[error("unknown format `{name}`;{} formats: {}", suggestion(nearest), known.join(", "))]
    UnknownFormat {
        /// The name given.
        name: String,
        /// The name that was probably meant.
        nearest: Option<&'static str>,
        /// All names.
        known: Vec<&'static str>,
    },
    /// Files that the format needs and that are not there.
    #[error("{}: expected {expected}", path.display())]
    Missing {
        /// The file or folder given.
        path: PathBuf,
        /// The files that were expected.
        expected: String,
    },
    /// A key that the format does not use.
    #[error(
        "import.{key} is set, but format \"{format}\" does not use it; remove the key (formats that use it: {})",
        used_by.join(", ")
    )]
    Unused {
        /// The name of the format.
        format: &'static str,
        /// The key.
        key: &'static str,
        /// The formats that use the key.
        used_by: Vec<&'static str>,
    },
    /// A key that has no effect on these files.
    #[error("import.{key} has no effect: {why}; remove the key")]
    NoEffect {
        /// The key.
        key: &'static str,
        /// What the files lack.
        why: &'static str,
    },
    /// The caller ended the import.
    #[error("interrupted")]
    Interrupted,
    /// More different values than an import distinguishes.
    #[error("more than {} different {what}; check the column of the {what}", u16::MAX)]
    TooMany {
        /// What there are too many of.
        what: &'static str,
    },
    /// Files without a user to keep.
    #[error(
        "no user is left of {read} read ({reasons}); check the files, or lower import.min_history (now {min_history})"
    )]
    NoUsers {
        /// Number of users read.
        read: u64,
        /// What was left out, by reason.
        reasons: String,
        /// The minimum number of interactions.
        min_history: usize,
    },
}

fn suggestion(nearest: &Option<&'static str>) -> String {
    nearest.map_or_else(String::new, |name| format!(" did you mean `{name}`?"))
}

impl ImportError {
    /// Returns the error of a file that cannot be read.
    pub fn unread(path: &Path, source: io::Error) -> Self {
        Self::Io { action: "read", path: path.into(), source }
    }

    /// Returns the error of a file that cannot be written.
    pub fn unwritten(path: &Path, source: io::Error) -> Self {
        Self::Io { action: "write", path: path.into(), source }
    }
}
