//! Records of a file of separated fields (TSV, CSV), whose quoted fields may contain the separator and line ends.

use std::path::Path;

use csv_core::{ReadRecordResult, ReaderBuilder, Terminator};

use crate::import::collector::Collector;
use crate::import::error::{BadRow, ImportError};
use crate::import::lines::{Lines, cut_off};

/// The maximum size of a record in bytes. A quotation mark that is never closed would otherwise take in the rest of the file.
const MAX_RECORD: usize = 1 << 20;

/// What helps if a quotation mark is none.
const PLAIN: &str = "MIND: import.quotes = \"plain\" reads quotation marks as text";

/// Reads the records of a file one at a time.
pub struct Records {
    lines: Lines,
    parser: csv_core::Reader,
    output: Vec<u8>,
    ends: Vec<usize>,
    filled: usize,
    fields: usize,
}

/// The fields of a record.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Number of the line on which the record starts, from 1.
    pub line: u64,
    /// Number of its last line.
    pub last_line: u64,
    /// Whether the record's last line has an end. If not, the file may be cut off.
    pub ended: bool,
    text: &'a str,
    ends: &'a [usize],
}

impl<'a> Record<'a> {
    /// Returns the number of fields.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether the record has no fields.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns a field, counted from 0, without its quotation marks; `None` if there are fewer fields.
    pub fn get(&self, field: usize) -> Option<&'a str> {
        let end = *self.ends.get(field)?;
        let start = if field == 0 { 0 } else { self.ends[field - 1] };
        self.text.get(start..end)
    }

    /// Returns the positions of fields with these names, in a header; `None` if one is missing.
    pub fn positions<const N: usize>(&self, names: [&str; N]) -> Option<[usize; N]> {
        let position = |name: &str| (0..self.len()).find(|&field| self.get(field) == Some(name));
        let mut positions = [0; N];
        for (place, name) in positions.iter_mut().zip(names) {
            *place = position(name)?;
        }
        Some(positions)
    }

    /// Checks the number of fields.
    ///
    /// # Errors
    /// [`ImportError::BadRow`] for another number.
    pub fn expect(&self, fields: usize, path: &Path) -> Result<(), ImportError> {
        if self.len() == fields {
            return Ok(());
        }
        let noun = if self.len() == 1 { "field" } else { "fields" };
        let mut message = format!("has {} {noun}; expected {fields}", self.len());
        if self.last_line > self.line {
            message += &format!(" (a field in quotation marks goes on up to line {}; {PLAIN})", self.last_line);
        }
        Err(ImportError::BadRow(BadRow::new(path, self.line, "", message)))
    }

    /// Returns a field that the record must have.
    ///
    /// # Errors
    /// [`ImportError::BadRow`] names the missing field as `name`.
    pub fn field(&self, index: usize, name: &str, path: &Path) -> Result<&'a str, ImportError> {
        self.get(index).ok_or_else(|| {
            let message = format!("is missing: the row has {} fields; expected at least {}", self.len(), index + 1);
            ImportError::BadRow(BadRow::new(path, self.line, name, message))
        })
    }
}

impl Records {
    /// Reads the records of `lines`, whose fields are separated by `delimiter`. With `quoting`, a field that begins with a quotation
    /// mark ends at the next one, and two of them stand for one; otherwise quotation marks have no meaning.
    pub fn new(lines: Lines, delimiter: u8, quoting: bool) -> Self {
        let mut builder = ReaderBuilder::new();
        builder.delimiter(delimiter).quoting(quoting).terminator(Terminator::Any(b'\n'));
        Self { lines, parser: builder.build(), output: vec![0; 4096], ends: vec![0; 16], filled: 0, fields: 0 }
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        self.lines.path()
    }

    /// Returns the number of bytes of the file that were read so far.
    pub fn bytes_read(&self) -> u64 {
        self.lines.bytes_read()
    }

    /// Returns the next record; `None` at the end of the file. Blank lines between records are skipped.
    ///
    /// # Errors
    /// The errors of [`Lines::next`], and [`ImportError::BadRow`] for a quotation mark that is not closed within 1 MiB.
    #[allow(
        clippy::should_implement_trait,
        reason = "the record borrows the reader's buffer, which no Iterator can express"
    )]
    pub fn next(&mut self) -> Result<Option<Record<'_>>, ImportError> {
        (self.filled, self.fields) = (0, 0);
        let (mut start, mut last, mut size) = (None, 0, 0);
        loop {
            let next = self.lines.next();
            let Some(line) = next.inspect_err(|_| self.parser.reset())? else {
                return match start {
                    None => Ok(None),
                    Some(line) => Err(self.unclosed(line, last, ", or the file is cut off")),
                };
            };
            if start.is_none() && line.text.is_empty() {
                continue;
            }
            let first = *start.get_or_insert(line.number);
            last = line.number;
            let (ended, text) = (line.ended, line.text.as_bytes());
            size += text.len();
            let mut into = Fields {
                output: &mut self.output,
                ends: &mut self.ends,
                filled: &mut self.filled,
                fields: &mut self.fields,
            };
            into.feed(&mut self.parser, text);
            if into.feed(&mut self.parser, b"\n") {
                // The parser copies bytes of a text and splits them at ASCII characters, so they are UTF-8.
                let text = std::str::from_utf8(&self.output[..self.filled]).unwrap_or_default();
                return Ok(Some(Record { line: first, last_line: last, ended, text, ends: &self.ends[..self.fields] }));
            }
            if size > MAX_RECORD {
                return Err(self.unclosed(first, last, ""));
            }
        }
    }

    /// Returns the error of a record whose quotation mark takes in all lines up to `last`.
    fn unclosed(&mut self, line: u64, last: u64, otherwise: &str) -> ImportError {
        self.parser.reset();
        let message = format!(
            "has a field that begins with a quotation mark which is not closed up to line {last}{otherwise}; expected a second \
             one ({PLAIN})"
        );
        ImportError::BadRow(BadRow::new(self.lines.path(), line, "", message))
    }
}

/// The buffers of a record.
struct Fields<'a> {
    output: &'a mut Vec<u8>,
    ends: &'a mut Vec<usize>,
    filled: &'a mut usize,
    fields: &'a mut usize,
}

impl Fields<'_> {
    /// Parses more of a record; returns whether it is complete.
    fn feed(&mut self, parser: &mut csv_core::Reader, mut input: &[u8]) -> bool {
        // The parser takes an empty input as the end of the file.
        while !input.is_empty() {
            let (output, ends) = (&mut self.output[*self.filled..], &mut self.ends[*self.fields..]);
            let (result, read, written, ended) = parser.read_record(input, output, ends);
            input = &input[read..];
            *self.filled += written;
            *self.fields += ended;
            match result {
                ReadRecordResult::Record => return true,
                ReadRecordResult::OutputFull => self.output.resize(self.output.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::InputEmpty | ReadRecordResult::End => {}
            }
        }
        false
    }
}

/// Calls `row` for each record of a file, and tells `collector` the progress. A malformed row, which `row` returns as
/// [`ImportError::BadRow`], is counted or ends the import as the options say.
pub(super) fn for_each(
    mut records: Records,
    collector: &mut Collector<'_>,
    mut row: impl FnMut(&mut Collector<'_>, &Path, Record<'_>) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    let path = records.path().to_owned();
    collector.begin(&path);
    loop {
        let found = match records.next() {
            Ok(None) => break,
            Ok(Some(record)) => row(collector, &path, record).map_err(|e| cut_off(e, record.ended)),
            Err(e) => Err(e),
        };
        collector.accept(found)?;
        collector.advance(records.bytes_read())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the records, or errors, of a file with this content: the line and the fields.
    fn records(content: &str, delimiter: u8, quoting: bool) -> Vec<Result<(u64, Vec<String>), String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.tsv");
        std::fs::write(&path, content).unwrap();
        let mut records = Records::new(Lines::open(&path).unwrap(), delimiter, quoting);
        let mut found = Vec::new();
        loop {
            match records.next() {
                Ok(None) => return found,
                Ok(Some(record)) => {
                    let fields = (0..record.len()).map(|i| record.get(i).unwrap().to_owned()).collect();
                    assert_eq!(record.get(record.len()), None);
                    found.push(Ok((record.line, fields)));
                }
                Err(e) => found.push(Err(e.to_string())),
            }
        }
    }

    fn ok(line: u64, fields: &[&str]) -> Result<(u64, Vec<String>), String> {
        Ok((line, fields.iter().map(|&field| field.to_owned()).collect()))
    }

    #[test]
    fn quotes_are_rules_or_text() {
        let text = "a\t\"b\tc\"\td\n\"x \"\"y\"\"\" z\t\tq\"r\"\n";
        assert_eq!(records(text, b'\t', true), [ok(1, &["a", "b\tc", "d"]), ok(2, &["x \"y\" z", "", "q\"r\""])]);
        let plain = [ok(1, &["a", "\"b", "c\"", "d"]), ok(2, &["\"x \"\"y\"\"\" z", "", "q\"r\""])];
        assert_eq!(records(text, b'\t', false), plain);
    }

    #[test]
    fn lines_are_those_of_the_start_of_a_record() {
        let text = "\r\na,\"b\r\n\r\nc\"\r\n\r\nd,e\r\nf,";
        assert_eq!(records(text, b',', true), [ok(2, &["a", "b\n\nc"]), ok(6, &["d", "e"]), ok(7, &["f", ""])]);
    }

    #[test]
    fn a_record_of_several_lines_says_so_if_it_is_malformed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.tsv");
        std::fs::write(&path, "a\t\"b\nc\td\ne\"\tf\ng\n").unwrap();
        let mut records = Records::new(Lines::open(&path).unwrap(), b'\t', true);
        let record = records.next().unwrap().unwrap();
        assert!(record.expect(3, &path).is_ok());
        let error = record.expect(2, &path).unwrap_err().to_string();
        assert!(
            error.contains("file.tsv:1: has 3 fields; expected 2 (a field in quotation marks goes on up to line 3;")
        );
        let error = records.next().unwrap().unwrap().expect(2, &path).unwrap_err().to_string();
        assert!(error.contains("file.tsv:4: has 1 field; expected 2; fix or remove"), "{error}");
    }

    #[test]
    fn long_records_grow_the_buffers() {
        let long = "x".repeat(10_000);
        let many = vec![long.as_str(); 40];
        assert_eq!(records(&many.join(","), b',', true), [ok(1, &many)]);
    }

    #[test]
    fn a_quote_that_is_not_closed_is_named_and_left_behind() {
        let found = records("a,\"b\nc,d\n", b',', true);
        assert!(found[0].as_ref().unwrap_err().contains("file.tsv:1: has a field that begins with a quotation mark"));
        assert!(found[0].as_ref().unwrap_err().contains("not closed up to line 2, or the file is cut off;"));
        assert_eq!(found.len(), 1);
        let text = format!("a,\"b\n{}\nc,d\n", "x".repeat(MAX_RECORD));
        let found = records(&text, b',', true);
        assert!(found[0].as_ref().unwrap_err().contains("not closed up to line 2; expected a second one"));
        assert_eq!(found[1..], [ok(3, &["c", "d"])]);
    }
}
