//! A row of a data file before its format is parsed.

use std::fmt;
use std::path::Path;

use crate::CorpusError;

/// The location of a row in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowLocation {
    /// A line number, starting at 1.
    Line(u64),
    /// An index into an array or table, starting at 1.
    Row(u64),
}

impl fmt::Display for RowLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(n) => write!(f, "line {n}"),
            Self::Row(n) => write!(f, "row {n}"),
        }
    }
}

/// A row before its format is parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRow {
    /// The location of the row.
    pub place: RowLocation,
    /// The JSON of the row.
    pub json: String,
    /// The byte offset of the end of the row in the file; an estimate for Parquet.
    pub read: u64,
}

/// An iterator over rows in the order of the file.
pub type RawRows = Box<dyn Iterator<Item = Result<RawRow, CorpusError>>>;

pub(crate) fn unread(path: &Path, source: std::io::Error) -> CorpusError {
    CorpusError::Io { action: "read", path: path.into(), source }
}

/// Creates a row from its bytes.
pub(crate) fn text(bytes: Vec<u8>, path: &Path, place: RowLocation, read: u64) -> Result<RawRow, CorpusError> {
    match String::from_utf8(bytes) {
        Ok(json) => Ok(RawRow { place, json, read }),
        Err(e) => {
            let message = format!("byte {} is not UTF-8; expected JSON in UTF-8", e.utf8_error().valid_up_to() + 1);
            Err(CorpusError::Row { path: path.into(), place, message })
        }
    }
}
