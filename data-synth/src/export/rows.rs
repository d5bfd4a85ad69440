//! Reads rows one at a time, and writes each to the files of its split.

use std::collections::HashSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use chat::jsonl::{self, JsonlError};
use chat::records::Checked;
use chat::{Draw, SftRow};
use configs::synth::ExportFormat;
use corpus::RawRow;
use files::Replacement;
use parquet::errors::ParquetError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::schema::Field;
use super::table::Table;
use super::{ExportError, ExportJob, Split, SplitSize, split_of, write_error};
use crate::any_row::AnyRowError;

const FORMATS: [ExportFormat; 2] = [ExportFormat::Jsonl, ExportFormat::Parquet];

/// The rows of a file, read one at a time.
type Rows<T> = Box<dyn Iterator<Item = Result<T, ExportError>>>;

/// Opens a file of rows: JSON lines, a JSON array (`.json`) or a Parquet table (`.parquet`).
pub(super) fn read<T: DeserializeOwned + Checked + 'static>(path: &Path) -> Result<Rows<T>, ExportError> {
    if path.extension().is_some_and(|ending| ending == "json" || ending == "parquet") {
        let name = path.to_owned();
        let rows = corpus::raw::open(path).map_err(AnyRowError::from)?;
        return Ok(Box::new(rows.map(move |row| parse::<T>(&name, &row.map_err(AnyRowError::from)?))));
    }
    // As the steps read lines, whatever the name of the file is.
    Ok(Box::new(jsonl::stream::<T>(path)?.map(|row| row.map(|(_, row)| row).map_err(ExportError::from))))
}

fn parse<T: DeserializeOwned + Checked>(path: &Path, row: &RawRow) -> Result<T, ExportError> {
    let bad = |message: String| AnyRowError::Row {
        path: path.into(),
        place: row.place,
        message: format!("{message}; fix or remove this row"),
    };
    let parsed: T = serde_json::from_str(&row.json).map_err(|e| bad(e.to_string()))?;
    match parsed.defect() {
        None => Ok(parsed),
        Some(defect) => Err(bad(format!("field `{}` {}", defect.field, defect.message)).into()),
    }
}

/// Returns a short name for the texts of a prompt, which stands for a user without a name.
pub(super) fn fingerprint(row: &SftRow) -> String {
    let draw = row.prompt.iter().fold(Draw::new(0), |draw, message| draw.text(&message.content));
    format!("{:016x}", draw.bits())
}

/// The files of one set. They are written in one pass over its rows, and replace those of an earlier export together.
pub(super) struct SetWriter<'a> {
    job: &'a ExportJob<'a>,
    name: &'static str,
    columns: &'static [Field],
    parts: BTreeMap<Split, Part>,
    /// Hashes of 64 bits in place of the users' names, which bounds the memory.
    seen: HashSet<u64>,
}

/// The files of a split that has rows.
struct Part {
    size: SplitSize,
    lines: Option<(PathBuf, Replacement)>,
    table: Option<(PathBuf, Table<Replacement>)>,
}

impl<'a> SetWriter<'a> {
    /// Creates a set without rows.
    pub fn new(job: &'a ExportJob<'a>, name: &'static str, columns: &'static [Field]) -> Self {
        Self { job, name, columns, parts: BTreeMap::new(), seen: HashSet::new() }
    }

    /// Writes a row of a user.
    pub fn push(&mut self, user: &str, row: &impl Serialize) -> Result<(), ExportError> {
        let split = split_of(user, self.job.seed, self.job.config.validation_share);
        let part = match self.parts.entry(split) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => free.insert(Part::create(self.job, self.name, self.columns, split)?),
        };
        part.size.rows += 1;
        part.size.users += usize::from(self.seen.insert(Draw::new(0).text(user).bits()));
        part.push(row)
    }

    /// Ends the files, and removes those of an earlier export that have no rows now. `path` is the file that was read.
    pub fn finish(mut self, path: &Path) -> Result<BTreeMap<Split, SplitSize>, ExportError> {
        let share = self.job.config.validation_share;
        match (self.parts.contains_key(&Split::Train), self.parts.get(&Split::Validation)) {
            (false, None) => return Err(JsonlError::Empty { path: path.into() }.into()),
            (false, Some(held_out)) => {
                return Err(ExportError::Share { path: path.into(), share, users: held_out.size.users });
            }
            (true, _) => {}
        }
        let mut sizes = BTreeMap::new();
        for split in Split::ALL {
            let part = self.parts.remove(&split);
            let formats: &[ExportFormat] = if part.is_some() { &self.job.config.formats } else { &[] };
            for format in FORMATS.into_iter().filter(|format| !formats.contains(format)) {
                remove_stale(&file(self.job.folder, self.name, split, format))?;
            }
            if let Some(part) = part {
                sizes.insert(split, part.finish()?);
            }
        }
        Ok(sizes)
    }
}

impl Part {
    fn create(job: &ExportJob<'_>, name: &str, columns: &'static [Field], split: Split) -> Result<Self, ExportError> {
        let open = |format: ExportFormat| -> Result<Option<(PathBuf, Replacement)>, ExportError> {
            if !job.config.formats.contains(&format) {
                return Ok(None);
            }
            let path = file(job.folder, name, split, format);
            match Replacement::create(&path) {
                Ok(out) => Ok(Some((path, out))),
                Err(source) => Err(write_error(&path, source)),
            }
        };
        let table = match open(ExportFormat::Parquet)? {
            Some((path, out)) => match Table::new(out, columns) {
                Ok(table) => Some((path, table)),
                Err(source) => return Err(rejected(&path, source)),
            },
            None => None,
        };
        Ok(Self { size: SplitSize::default(), lines: open(ExportFormat::Jsonl)?, table })
    }

    fn push(&mut self, row: &impl Serialize) -> Result<(), ExportError> {
        if let Some((path, out)) = &mut self.lines {
            jsonl::write_row(out, row).map_err(|source| write_error(path, source))?;
        }
        if let Some((path, table)) = &mut self.table {
            let row = serde_json::to_value(row).map_err(|e| write_error(path, e.into()))?;
            table.push(&row).map_err(|source| rejected(path, source))?;
        }
        Ok(())
    }

    /// Ends the files; the size of the split is that of the Parquet file if there is one.
    fn finish(self) -> Result<SplitSize, ExportError> {
        let mut size = self.size;
        if let Some((path, out)) = self.lines {
            size.bytes = finished(&path, out)?;
        }
        if let Some((path, table)) = self.table {
            let out = table.finish().map_err(|source| rejected(&path, source))?;
            size.bytes = finished(&path, out)?;
        }
        Ok(size)
    }
}

/// Gives a file its name; returns its size.
fn finished(path: &Path, out: Replacement) -> Result<u64, ExportError> {
    let size = out.finish().and_then(|()| fs::metadata(path));
    size.map(|found| found.len()).map_err(|source| write_error(path, source))
}

/// Returns the error of a table: that of its file, or that of the library.
fn rejected(path: &Path, source: ParquetError) -> ExportError {
    let source = match source {
        ParquetError::External(cause) => match cause.downcast::<io::Error>() {
            Ok(cause) => return write_error(path, *cause),
            Err(cause) => ParquetError::External(cause),
        },
        other => other,
    };
    ExportError::Parquet { path: path.into(), source }
}

fn file(folder: &Path, set: &str, split: Split, format: ExportFormat) -> PathBuf {
    let ending = match format {
        ExportFormat::Jsonl => "jsonl",
        ExportFormat::Parquet => "parquet",
    };
    folder.join(set).join(format!("{}.{ending}", split.name()))
}

/// Returns the paths of all files that a set may have.
pub(super) fn all_files(folder: &Path, set: &str) -> Vec<PathBuf> {
    let of_split = |split| FORMATS.map(|format| file(folder, set, split, format));
    Split::ALL.into_iter().flat_map(of_split).collect()
}

/// Removes a file of an earlier export, if there is one.
pub(super) fn remove_stale(path: &Path) -> Result<(), ExportError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(write_error(path, source)),
        _ => Ok(()),
    }
}
