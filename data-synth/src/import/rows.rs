//! Rows of a table in any file format: CSV and TSV, JSON lines, a JSON array, Parquet. One row is in memory at a time.

use std::borrow::Cow;
use std::io;
use std::path::Path;

use chat::{History, Message, jsonl};
use configs::synth::{Duplicates, ImportOrder, NegativePolicy};
use corpus::{CorpusError, RowLocation};
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::delimited::{self, Record, Records};
use super::error::{BadRow, ImportError};
use super::lines::{self, Lines};
use super::{Collector, FormatDefaults, folder, literals};

/// The published values of formats whose rows are complete: their order is kept, and nothing is drawn.
pub(super) const READY: FormatDefaults = FormatDefaults {
    min_history: 2,
    order: ImportOrder::File,
    duplicates: Duplicates::Keep,
    negatives: NegativePolicy::GlobalUnseen,
    replacement: true,
};

/// The keys without an effect on such pairs.
pub(super) const UNUSED_BY_PAIRS: &[&str] = &["order", "rating_threshold", "negatives", "replacement", "message_users"];
/// The keys without an effect on messages.
pub(super) const UNUSED_BY_MESSAGES: &[&str] =
    &["order", "duplicates", "rating_threshold", "negatives", "replacement", "transfer_targets"];

/// The domain of choices between answers.
pub(super) const REPLY: &str = "reply";
/// The task of choices between answers.
pub(super) const RESPONSE_SELECTION: &str = "response selection";

/// A row, which knows its place for errors.
pub(super) struct Row<'a> {
    path: &'a Path,
    line: u64,
    /// What `line` counts; empty for the lines of a file.
    counted: &'static str,
    fields: Fields<'a>,
}

enum Fields<'a> {
    Json(Map<String, Json>),
    Cells { header: &'a [String], record: Record<'a> },
}

/// The type of a file of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    JsonLines,
    /// A list, or lines.
    Json,
    Parquet,
    /// Text with this byte between the fields.
    Cells(u8),
}

impl Kind {
    /// Returns the type of a file by its name; `None` for another one, and for `.json` and `.parquet` in gzip.
    fn of(path: &Path) -> Option<Self> {
        match (folder::name_of(path).1.as_str(), folder::is_gzip(path)) {
            ("jsonl" | "ndjson", _) => Some(Self::JsonLines),
            ("json", false) => Some(Self::Json),
            ("parquet", false) => Some(Self::Parquet),
            ("csv", _) => Some(Self::Cells(b',')),
            ("tsv", _) => Some(Self::Cells(b'\t')),
            _ => None,
        }
    }
}

/// Returns whether a file is one of rows, by its name.
pub(super) fn holds_rows(name: &str) -> bool {
    Kind::of(Path::new(name)).is_some()
}

/// Returns whether a file is one of rows in JSON or Parquet, by its name.
pub(super) fn holds_objects(name: &str) -> bool {
    matches!(Kind::of(Path::new(name)), Some(Kind::JsonLines | Kind::Json | Kind::Parquet))
}

/// Calls `on_row` for each row of a file, and tells `collector` the progress. A malformed row, which `on_row` returns as
/// [`ImportError::BadRow`], is counted or ends the import as the options say. `delimiter` separates the fields of a text file that is
/// not JSON; `None` selects it by the extension.
///
/// # Errors
/// The errors of `on_row`, those of a file that cannot be read, and [`ImportError::Missing`] for a file of another type.
pub(super) fn for_each(
    path: &Path,
    delimiter: Option<u8>,
    collector: &mut Collector<'_>,
    on_row: impl FnMut(&mut Collector<'_>, &Row<'_>) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    match (Kind::of(path), delimiter) {
        (Some(Kind::JsonLines), _) => json_lines(path, collector, on_row),
        (Some(kind @ (Kind::Json | Kind::Parquet)), _) => raw_rows(path, kind, collector, on_row),
        (_, Some(delimiter)) | (Some(Kind::Cells(delimiter)), None) => cells(path, delimiter, collector, on_row),
        (None, None) => Err(ImportError::Missing {
            path: path.into(),
            expected: "a file of rows: .jsonl, .ndjson, .csv or .tsv (each also .gz), .json or .parquet".into(),
        }),
    }
}

fn json_lines(
    path: &Path,
    collector: &mut Collector<'_>,
    mut on_row: impl FnMut(&mut Collector<'_>, &Row<'_>) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    lines::for_each(Lines::open(path)?, collector, |collector, line| {
        on_row(collector, &Row::of_json(path, line.number, "", line.text)?)
    })
}

fn cells(
    path: &Path,
    delimiter: u8,
    collector: &mut Collector<'_>,
    mut on_row: impl FnMut(&mut Collector<'_>, &Row<'_>) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    let mut header: Vec<String> = Vec::new();
    delimited::for_each(Records::new(Lines::open(path)?, delimiter, true), collector, |collector, path, record| {
        if header.is_empty() {
            header = (0..record.len()).map(|i| record.get(i).unwrap_or_default().trim().to_owned()).collect();
            return Ok(());
        }
        let row = Row { path, line: record.line, counted: "", fields: Fields::Cells { header: &header, record } };
        if record.len() != header.len() {
            let (found, columns) = (record.len(), header.len());
            return Err(row.bad("", format!("has {found} fields; expected {columns}, as in the first line")));
        }
        on_row(collector, &row)
    })
}

fn raw_rows(
    path: &Path,
    kind: Kind,
    collector: &mut Collector<'_>,
    mut on_row: impl FnMut(&mut Collector<'_>, &Row<'_>) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    let counted = if kind == Kind::Parquet { "table" } else { "array" };
    collector.begin(path);
    for found in corpus::raw::open(path).map_err(|e| of_corpus(path, e))? {
        let outcome = match found {
            Ok(raw) => {
                collector.advance(raw.read)?;
                let (line, counted) = place(raw.place, counted);
                Row::of_json(path, line, counted, &raw.json).and_then(|row| on_row(collector, &row))
            }
            // Nothing can be read behind a damaged part of a Parquet file, so no row of it can be skipped.
            Err(CorpusError::Row { place: at, message, .. }) if kind == Kind::Parquet => {
                let message = format!("damaged at {at}: {message}; download or write the file again");
                return Err(ImportError::unread(path, io::Error::other(message)));
            }
            Err(CorpusError::Row { place: at, message, .. }) => {
                let (line, counted) = place(at, counted);
                Err(Row { path, line, counted, fields: Fields::Json(Map::new()) }.bad("", message))
            }
            Err(other) => return Err(of_corpus(path, other)),
        };
        collector.accept(outcome)?;
    }
    Ok(())
}

fn place(at: RowLocation, counted: &'static str) -> (u64, &'static str) {
    match at {
        RowLocation::Line(line) => (line, ""),
        RowLocation::Row(row) => (row, counted),
    }
}

fn of_corpus(path: &Path, error: CorpusError) -> ImportError {
    match error {
        CorpusError::Io { source, .. } => ImportError::unread(path, source),
        other => ImportError::unread(path, io::Error::other(other.to_string())),
    }
}

impl<'a> Row<'a> {
    fn of_json(path: &'a Path, line: u64, counted: &'static str, text: &str) -> Result<Self, ImportError> {
        let mut row = Self { path, line, counted, fields: Fields::Json(Map::new()) };
        match serde_json::from_str(text) {
            Ok(Json::Object(fields)) => {
                row.fields = Fields::Json(fields);
                Ok(row)
            }
            Ok(_) => Err(row.bad("", "is not an object; expected one JSON object for each row")),
            Err(error) => Err(row.bad("", format!("is not JSON: {}", jsonl::in_words(&error)))),
        }
    }
}

impl Row<'_> {
    /// Returns the error of a malformed field of this row; an empty `field` stands for the row itself.
    pub(super) fn bad(&self, field: &str, message: impl Into<String>) -> ImportError {
        let mut message = message.into();
        if !self.counted.is_empty() {
            message += &format!(" (row {} of the {})", self.line, self.counted);
        }
        ImportError::BadRow(BadRow::new(self.path, self.line, field, message))
    }

    /// Hands a complete user to `collector`. A user with the id of an earlier one is malformed.
    pub(super) fn user(&self, history: History, collector: &mut Collector<'_>) -> Result<(), ImportError> {
        if collector.knows(&history.uid) {
            let message =
                format!("is `{}`, as in an earlier row; import files with equal ids one at a time", history.uid);
            return Err(self.bad("uid", message));
        }
        collector.history(history)
    }

    /// Returns whether the row is one of a text table, whose rows all have the same fields.
    pub(super) fn is_cells(&self) -> bool {
        matches!(self.fields, Fields::Cells { .. })
    }

    /// Returns the fields of a JSON or Parquet row.
    pub(super) fn object(&self) -> Result<&Map<String, Json>, ImportError> {
        match &self.fields {
            Fields::Json(fields) => Ok(fields),
            Fields::Cells { .. } => Err(self.bad("", "is of a text table; expected JSON or Parquet")),
        }
    }

    /// Returns the names of the fields, of those that are null or empty too.
    pub(super) fn names(&self) -> Vec<&str> {
        match &self.fields {
            Fields::Json(fields) => fields.keys().map(String::as_str).collect(),
            Fields::Cells { header, .. } => header.iter().map(String::as_str).collect(),
        }
    }

    /// Returns whether the row has the field, even if it is null or empty.
    pub(super) fn has(&self, field: &str) -> bool {
        match &self.fields {
            Fields::Json(fields) => fields.contains_key(field),
            Fields::Cells { header, .. } => header.iter().any(|name| name == field),
        }
    }

    /// Returns the text of a field; `None` if it is absent, null or blank. Numbers are texts too.
    pub(super) fn text(&self, field: &str) -> Result<Option<Cow<'_, str>>, ImportError> {
        match &self.fields {
            Fields::Json(fields) => self.text_in(fields, field, ""),
            Fields::Cells { header, record } => {
                let cell = header.iter().position(|name| name == field).and_then(|index| record.get(index));
                Ok(cell.filter(|cell| !cell.trim().is_empty()).map(Cow::Borrowed))
            }
        }
    }

    /// Returns the text of a field that must not be absent, null or blank.
    pub(super) fn required(&self, field: &str) -> Result<Cow<'_, str>, ImportError> {
        self.text(field)?.ok_or_else(|| self.absent(field))
    }

    /// Returns the text of a field of `object`, which is at `at` in this row.
    pub(super) fn text_in<'b>(
        &self,
        object: &'b Map<String, Json>,
        field: &str,
        at: &str,
    ) -> Result<Option<Cow<'b, str>>, ImportError> {
        let value = object.get(field).unwrap_or(&Json::Null);
        if value.is_array() || value.is_object() {
            return Err(self.bad(&within(at, field), "is a list or an object; expected a text"));
        }
        Ok(scalar(value).filter(|text| !text.trim().is_empty()))
    }

    /// Returns the text of a field of `object` that must not be absent, null or blank.
    pub(super) fn required_in<'b>(
        &self,
        object: &'b Map<String, Json>,
        field: &str,
        at: &str,
    ) -> Result<Cow<'b, str>, ImportError> {
        self.text_in(object, field, at)?.ok_or_else(|| self.absent(&within(at, field)))
    }

    fn absent(&self, field: &str) -> ImportError {
        self.bad(field, "is missing or empty; expected a text")
    }

    /// Returns a field that holds a list or an object, as such or as text in JSON or as Python writes it; `None` if it is absent, null
    /// or blank.
    pub(super) fn value(&self, field: &str) -> Result<Option<Cow<'_, Json>>, ImportError> {
        if let Fields::Json(fields) = &self.fields
            && let Some(value) = fields.get(field).filter(|value| value.is_array() || value.is_object())
        {
            return Ok(Some(Cow::Borrowed(value)));
        }
        let Some(text) = self.text(field)? else { return Ok(None) };
        literals::parse(&text).map(|value| Some(Cow::Owned(value))).map_err(|message| self.bad(field, message))
    }

    /// Returns a field that holds a text or an object, which in a text may be JSON or as Python writes it; `None` if it is absent, null or
    /// blank.
    pub(super) fn text_or_object(&self, field: &str) -> Result<Option<Json>, ImportError> {
        if let Fields::Json(fields) = &self.fields
            && let Some(object) = fields.get(field).filter(|value| value.is_object())
        {
            return Ok(Some(object.clone()));
        }
        let Some(text) = self.text(field)? else { return Ok(None) };
        let parsed = literals::parse(&text).ok().filter(Json::is_object);
        Ok(Some(parsed.unwrap_or_else(|| Json::String(text.into_owned()))))
    }

    /// Returns a field that holds a list of texts.
    pub(super) fn texts(&self, field: &str) -> Result<Vec<String>, ImportError> {
        let expected = || self.bad(field, "is not a list of texts");
        let value = self.value(field)?.ok_or_else(|| self.absent(field))?;
        let items = value.as_array().ok_or_else(expected)?;
        items.iter().map(|item| scalar(item).map(Cow::into_owned).ok_or_else(expected)).collect()
    }

    /// Returns the messages that the field `field` holds.
    pub(super) fn messages(&self, value: &Json, field: &str) -> Result<Vec<Message>, ImportError> {
        let items = value.as_array().ok_or_else(|| self.bad(field, "is not a list of messages {role, content}"))?;
        let of = |(index, item): (usize, &Json)| {
            Message::deserialize(item).map_err(|e| {
                self.bad(&format!("{field}[{index}]"), format!("is not a message: {e}; expected {{role, content}}"))
            })
        };
        items.iter().enumerate().map(of).collect()
    }
}

/// Returns the path of a field of an object that is at `at` in its row.
fn within(at: &str, field: &str) -> String {
    if at.is_empty() { field.into() } else { format!("{at}.{field}") }
}

/// Returns a text, number or truth value as text.
pub(super) fn scalar(value: &Json) -> Option<Cow<'_, str>> {
    match value {
        Json::String(text) => Some(Cow::Borrowed(text)),
        // A column of integers with empty cells becomes one of floats: 7 is written as 7.0, which Display shortens to 7.
        Json::Number(number) => match number.as_f64() {
            Some(real) if number.is_f64() => Some(Cow::Owned(real.to_string())),
            _ => Some(Cow::Owned(number.to_string())),
        },
        Json::Bool(truth) => Some(Cow::Owned(truth.to_string())),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_of_a_file_is_its_ending() {
        for (name, kind) in [
            ("a.jsonl", Some(Kind::JsonLines)),
            ("Train.JSONL.GZ", Some(Kind::JsonLines)),
            ("qa/test.NDJSON", Some(Kind::JsonLines)),
            ("a.Json", Some(Kind::Json)),
            ("a.parquet", Some(Kind::Parquet)),
            ("a.csv.gz", Some(Kind::Cells(b','))),
            ("a.tsv", Some(Kind::Cells(b'\t'))),
            ("a.json.gz", None),
            ("a.parquet.gz", None),
            ("jsonl", None),
            ("a.vec", None),
        ] {
            assert_eq!(Kind::of(Path::new(name)), kind, "{name}");
            assert_eq!(holds_rows(name), kind.is_some(), "{name}");
            assert_eq!(holds_objects(name), kind.is_some_and(|kind| !matches!(kind, Kind::Cells(_))), "{name}");
        }
    }
}
