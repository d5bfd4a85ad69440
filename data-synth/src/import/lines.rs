//! Lines of a text file, one at a time: plain or gzip, with or without a byte order mark, LF or CRLF, and a last line that may be
//! cut off.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use corpus::raw::BYTE_ORDER_MARK;
use flate2::bufread::MultiGzDecoder;

use crate::import::collector::Collector;
use crate::import::error::{BadRow, ImportError};

/// The size of the read buffer in bytes.
const BUFFER: usize = 1 << 18;
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// A line of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Number of the line, from 1.
    pub number: u64,
    /// The text without the line end.
    pub text: &'a str,
    /// Whether the line has an end. If it has none, it is the last, and the file may be cut off.
    pub ended: bool,
}

/// The encoding of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Utf8,
    /// UTF-8, where a line that is not is read as Latin-1.
    Utf8OrLatin1,
}

/// Reads a text file line by line. Gzip is recognized by its first bytes, whatever the file's name.
pub struct Lines {
    path: PathBuf,
    input: Box<dyn BufRead>,
    encoding: Encoding,
    number: u64,
    buffer: Vec<u8>,
    decoded: String,
    read: Rc<Cell<u64>>,
}

impl Lines {
    /// Opens a file.
    ///
    /// # Errors
    /// [`ImportError::Io`] if it cannot be read.
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        let read = Rc::new(Cell::new(0));
        let input = open_counted(path, Rc::clone(&read))?;
        let (buffer, decoded) = (Vec::new(), String::new());
        Ok(Self { path: path.into(), input, encoding: Encoding::Utf8, number: 0, buffer, decoded, read })
    }

    /// Reads lines that are not UTF-8 as Latin-1, instead of as an error.
    #[must_use]
    pub fn or_latin1(self) -> Self {
        Self { encoding: Encoding::Utf8OrLatin1, ..self }
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the number of bytes of the file that were read so far, compressed ones in a gzip file.
    pub fn bytes_read(&self) -> u64 {
        self.read.get()
    }

    /// Returns the next line; `None` at the end of the file.
    ///
    /// # Errors
    /// [`ImportError::BadRow`] for a line that is not UTF-8, and for a gzip file that is cut off. [`ImportError::Io`] for a file
    /// that cannot be read.
    #[allow(
        clippy::should_implement_trait,
        reason = "the line borrows the reader's buffer, which no Iterator can express"
    )]
    pub fn next(&mut self) -> Result<Option<Line<'_>>, ImportError> {
        self.buffer.clear();
        match self.input.read_until(b'\n', &mut self.buffer) {
            Ok(0) => return Ok(None),
            Ok(_) => self.number += 1,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                self.input = Box::new(io::empty());
                let message = "is where the compressed file is cut off; expected the rest of the file";
                return Err(ImportError::BadRow(BadRow::new(&self.path, self.number + 1, "", message)));
            }
            Err(e) => return Err(ImportError::unread(&self.path, e)),
        }
        let line = self.buffer.strip_suffix(b"\n");
        let ended = line.is_some();
        let line = line.unwrap_or(&self.buffer);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = match (std::str::from_utf8(line), self.encoding) {
            (Ok(text), _) => text,
            (Err(_), Encoding::Utf8OrLatin1) => {
                // The 256 characters of Latin-1 are the first 256 of Unicode.
                self.decoded.clear();
                self.decoded.extend(line.iter().map(|&byte| char::from(byte)));
                self.decoded.as_str()
            }
            (Err(e), Encoding::Utf8) => {
                let message =
                    format!("has byte {} that is not UTF-8; expected a text file in UTF-8", e.valid_up_to() + 1);
                return Err(ImportError::BadRow(BadRow::new(&self.path, self.number, "", message)));
            }
        };
        Ok(Some(Line { number: self.number, text, ended }))
    }
}

/// Calls `row` for each line of a file that is not blank, and tells `collector` the progress. A malformed row, which `row` returns
/// as [`ImportError::BadRow`], is counted or ends the import as the options say.
pub(super) fn for_each(
    mut lines: Lines,
    collector: &mut Collector<'_>,
    mut row: impl FnMut(&mut Collector<'_>, Line<'_>) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    collector.begin(lines.path());
    loop {
        let found = match lines.next() {
            Ok(None) => break,
            Ok(Some(line)) if line.text.trim().is_empty() => Ok(()),
            Ok(Some(line)) => row(collector, line).map_err(|e| cut_off(e, line.ended)),
            Err(e) => Err(e),
        };
        collector.accept(found)?;
        collector.advance(lines.bytes_read())?;
    }
    Ok(())
}

/// Adds to the error of a last line without an end that the file may be cut off.
pub(super) fn cut_off(error: ImportError, ended: bool) -> ImportError {
    match error {
        ImportError::BadRow(mut row) if !ended => {
            row.message += " (the last line of the file has no line end: the file may be cut off)";
            ImportError::BadRow(row)
        }
        other => other,
    }
}

/// Opens a file, decompresses it if it is gzip, and skips a byte order mark.
fn open_counted(path: &Path, read: Rc<Cell<u64>>) -> Result<Box<dyn BufRead>, ImportError> {
    let unread = |e| ImportError::unread(path, e);
    let file = Counted { file: File::open(path).map_err(unread)?, read };
    let mut raw = BufReader::with_capacity(BUFFER, file);
    let gzip = raw.fill_buf().map_err(unread)?.starts_with(&GZIP);
    let mut input: Box<dyn BufRead> =
        if gzip { Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(raw))) } else { Box::new(raw) };
    if input.fill_buf().map_err(unread)?.starts_with(&BYTE_ORDER_MARK) {
        input.consume(BYTE_ORDER_MARK.len());
    }
    Ok(input)
}

/// Counts the bytes that are read from a file.
struct Counted {
    file: File,
    read: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.read.set(self.read.get() + count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// Returns the lines, or errors, of a file with this content.
    fn lines(content: &[u8], latin1: bool) -> Vec<Result<(u64, String, bool), String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.tsv");
        std::fs::write(&path, content).unwrap();
        let mut lines = Lines::open(&path).unwrap();
        if latin1 {
            lines = lines.or_latin1();
        }
        let mut found = Vec::new();
        loop {
            match lines.next() {
                Ok(None) => return found,
                Ok(Some(line)) => found.push(Ok((line.number, line.text.to_owned(), line.ended))),
                Err(e) => found.push(Err(e.to_string())),
            }
        }
    }

    fn ok(number: u64, text: &str, ended: bool) -> Result<(u64, String, bool), String> {
        Ok((number, text.to_owned(), ended))
    }

    #[test]
    fn marks_line_ends_and_compression_leave_the_same_lines() {
        let expected = [ok(1, "a\tb", true), ok(2, "", true), ok(3, "é", false)];
        for text in ["a\tb\n\né", "\u{feff}a\tb\n\né", "a\tb\r\n\r\né", "\u{feff}a\tb\r\n\n\u{e9}"] {
            assert_eq!(lines(text.as_bytes(), false), expected, "{text:?}");
            assert_eq!(lines(&gzip(text.as_bytes()), false), expected, "{text:?}");
        }
        // Several members, as `cat a.gz b.gz` writes.
        assert_eq!(lines(&[gzip(b"a\n"), gzip(b"b\n")].concat(), false), [ok(1, "a", true), ok(2, "b", true)]);
        assert!(lines(b"", false).is_empty());
    }

    #[test]
    fn a_file_that_is_cut_off_ends_with_an_error() {
        // Random letters, so that cutting the compressed file cuts off more than one line.
        let text: String = (0..4000)
            .map(|i| if i % 40 == 39 { '\n' } else { char::from(b'a' + chat::Draw::new(i).below(26) as u8) })
            .collect();
        let compressed = gzip(text.as_bytes());
        let found = lines(&compressed[..compressed.len() / 2], false);
        let (last, before) = found.split_last().unwrap();
        assert!(before.iter().all(Result::is_ok) && before.len() < 100);
        let error = last.as_ref().unwrap_err();
        assert!(
            error.contains(&format!("file.tsv:{}: is where the compressed file is cut off", found.len())),
            "{error}"
        );
    }

    #[test]
    fn other_encodings_are_errors_or_latin1() {
        let found = lines(b"a\n\xe9t\xe9\nb\n", false);
        assert_eq!((&found[0], &found[2]), (&ok(1, "a", true), &ok(3, "b", true)));
        assert!(found[1].as_ref().unwrap_err().contains("file.tsv:2: has byte 1 that is not UTF-8"));
        assert_eq!(lines("Am\u{e9}lie\n".as_bytes(), true), [ok(1, "Am\u{e9}lie", true)]);
        assert_eq!(lines(b"Am\xe9lie\n", true), [ok(1, "Am\u{e9}lie", true)]);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Lines::open(Path::new("not/there.tsv")).err().unwrap().to_string();
        assert!(error.contains("cannot read not/there.tsv"), "{error}");
    }
}
