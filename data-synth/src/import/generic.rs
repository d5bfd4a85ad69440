//! Tables whose columns the configuration names: choices between two items, or positives with the items in the rows or in a table of
//! their own.

use std::borrow::Cow;
use std::path::Path;

use chat::Interaction;
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use configs::synth::{ColumnsConfig, ImportOrder};

use super::rows::{self, READY, Row};
use super::{Choice, Collector, Format, FormatDefaults, ImportError, ItemId, Source, folder};

/// The format `generic`. Choices without a time are in the order of the file.
pub(super) const FORMAT: Format = Format {
    name: "generic",
    about: "JSON lines, JSON, CSV or Parquet whose columns import.columns names",
    defaults: FormatDefaults { order: ImportOrder::Time, ..READY },
    unused: &["message_users"],
    read,
};

fn read(source: &Source<'_>, collector: &mut Collector<'_>) -> Result<(), ImportError> {
    let columns = &source.options.columns;
    let delimiter = columns.delimiter.bytes().next();
    let files = folder::files(source.paths, "JSON lines, JSON, CSV or Parquet files", rows::holds_rows)?;
    if columns.items.as_os_str().is_empty() {
        source.plan(&files, collector)?;
    } else {
        source.plan(&[std::slice::from_ref(&columns.items), files.as_slice()].concat(), collector)?;
        read_items(columns, delimiter, collector)?;
    }
    let names = [
        ("user", &columns.user),
        ("query", &columns.query),
        ("chosen", &columns.chosen),
        ("rejected", &columns.rejected),
        ("item", &columns.item),
        ("text", &columns.text),
        ("rating", &columns.rating),
        ("time", &columns.time),
        ("domain", &columns.domain),
        ("task", &columns.task),
    ];
    for path in files {
        let mut absent = Absent::new(names.map(|(key, column)| (key, column.as_str())).to_vec());
        rows::for_each(&path, delimiter, collector, |collector, row| {
            absent.look(row, &path)?;
            if columns.item.is_empty() { pair(row, columns, collector) } else { choice(row, columns, collector) }
        })?;
        absent.check(&path)?;
    }
    Ok(())
}

/// Columns of the configuration that no row of a file had so far.
struct Absent<'a> {
    /// Keys of `import.columns` and the names that they have.
    columns: Vec<(&'static str, &'a str)>,
    /// The fields of the first row; `None` before it.
    first: Option<String>,
}

impl<'a> Absent<'a> {
    fn new(mut columns: Vec<(&'static str, &'a str)>) -> Self {
        columns.retain(|(_, column)| !column.is_empty());
        Self { columns, first: None }
    }

    /// Looks for the columns in a row; the first one of a text table has all of them.
    fn look(&mut self, row: &Row<'_>, path: &Path) -> Result<(), ImportError> {
        if self.first.is_none() {
            self.first = Some(row.names().join(", "));
        }
        self.columns.retain(|(_, column)| !row.has(column));
        if row.is_cells() { self.check(path) } else { Ok(()) }
    }

    /// Without this, a misspelled name would be a column that is empty in each row.
    fn check(&self, path: &Path) -> Result<(), ImportError> {
        match (self.columns.first(), &self.first) {
            (Some((key, column)), Some(found)) => Err(ImportError::Missing {
                path: path.into(),
                expected: format!("a column `{column}` (import.columns.{key}); found {found}"),
            }),
            _ => Ok(()),
        }
    }
}

fn read_items(
    columns: &ColumnsConfig,
    delimiter: Option<u8>,
    collector: &mut Collector<'_>,
) -> Result<(), ImportError> {
    let names = [
        ("item_id", columns.item_id.as_str()),
        ("item_text", columns.item_text.as_str()),
        ("item_domain", columns.item_domain.as_str()),
    ];
    let mut absent = Absent::new(names.to_vec());
    rows::for_each(&columns.items, delimiter, collector, |collector, row| {
        absent.look(row, &columns.items)?;
        let id = required(row, "item_id", &columns.item_id)?;
        let text = required(row, "item_text", &columns.item_text)?;
        collector.items.insert(&id, &text, optional(row, &columns.item_domain)?.as_deref());
        Ok(())
    })?;
    absent.check(&columns.items)
}

fn pair(row: &Row<'_>, columns: &ColumnsConfig, collector: &mut Collector<'_>) -> Result<(), ImportError> {
    let text = |column: &str| Ok::<_, ImportError>(optional(row, column)?.map(Cow::into_owned));
    let pair = Interaction {
        query: text(&columns.query)?,
        chosen: required(row, "chosen", &columns.chosen)?.into_owned(),
        rejected: text(&columns.rejected)?,
        domain: text(&columns.domain)?,
        task: text(&columns.task)?,
    };
    collector.pair(&required(row, "user", &columns.user)?, time(row, &columns.time)?, pair)
}

fn choice(row: &Row<'_>, columns: &ColumnsConfig, collector: &mut Collector<'_>) -> Result<(), ImportError> {
    let user = required(row, "user", &columns.user)?;
    let (time, rating) = (time(row, &columns.time)?, rating(row, &columns.rating)?);
    let query = optional(row, &columns.query)?;
    let Some(item) = item(row, columns, collector)? else {
        collector.dropped("choices of items that import.columns.items does not hold", 1);
        return Ok(());
    };
    collector.choice(&user, Choice { item, time, rating, query: query.as_deref(), unclicked: &[] })
}

/// Returns the chosen item; `None` if the table of the items does not hold it.
fn item(row: &Row<'_>, columns: &ColumnsConfig, collector: &mut Collector<'_>) -> Result<Option<ItemId>, ImportError> {
    let id = required(row, "item", &columns.item)?;
    if columns.text.is_empty() {
        return Ok(collector.items.get(&id));
    }
    let text = required(row, "text", &columns.text)?;
    Ok(Some(collector.items.insert(&id, &text, optional(row, &columns.domain)?.as_deref())))
}

/// Returns the text of the column that the configuration names as `key`. It must not be null or blank.
fn required<'a>(row: &'a Row<'_>, key: &str, column: &str) -> Result<Cow<'a, str>, ImportError> {
    if row.has(column) {
        return row.required(column);
    }
    let found = row.names().join(", ");
    Err(row.bad(column, format!("is missing; expected the column of import.columns.{key}; found {found}")))
}

/// Returns the text of a column; `None` if the configuration names none.
fn optional<'a>(row: &'a Row<'_>, column: &str) -> Result<Option<Cow<'a, str>>, ImportError> {
    if column.is_empty() { Ok(None) } else { row.text(column) }
}

fn rating(row: &Row<'_>, column: &str) -> Result<Option<f32>, ImportError> {
    let Some(text) = optional(row, column)? else { return Ok(None) };
    let rating = text.trim().parse::<f32>().ok().filter(|rating| rating.is_finite());
    rating.map(Some).ok_or_else(|| row.bad(column, format!("is `{text}`; expected a number")))
}

fn time(row: &Row<'_>, column: &str) -> Result<Option<i64>, ImportError> {
    if column.is_empty() {
        return Ok(None);
    }
    let text = required(row, "time", column)?;
    let expected = "expected a number, or a date in ISO 8601 such as 2026-01-31 or 2026-01-31T23:59:00Z";
    order(text.trim()).map(Some).ok_or_else(|| row.bad(column, format!("is `{text}`; {expected}")))
}

/// Returns the place of a number, or of a date as seconds since 1970, in the order of all such numbers.
fn order(text: &str) -> Option<i64> {
    if let Ok(number) = text.parse::<f64>() {
        return number.is_finite().then(|| place(number));
    }
    let date = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
    let local = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"]
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    let zoned = DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_micros());
    let micros = zoned.or_else(|| local.or_else(date).map(|time| time.and_utc().timestamp_micros()));
    micros.map(|micros| place(micros as f64 / 1e6))
}

/// Returns an integer that grows with a finite number: its bits, of a negative one the complement of those behind the sign.
fn place(number: f64) -> i64 {
    // Adding 0 makes the negative zero positive.
    let bits = (number + 0.0).to_bits() as i64;
    if bits < 0 { bits ^ i64::MAX } else { bits }
}

#[cfg(test)]
mod tests;
