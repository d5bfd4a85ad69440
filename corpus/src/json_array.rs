//! Splits one large JSON array into its elements, one at a time, without parsing them.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use crate::CorpusError;
use crate::raw_row::{RawRow, RowLocation, text, unread};

/// The elements of an array, read from behind its opening bracket.
pub(crate) struct Elements<R> {
    reader: R,
    path: PathBuf,
    row: u64,
    read: u64,
    /// Whether the end of the array was read.
    ended: bool,
    /// Whether the iterator is exhausted.
    over: bool,
}

/// The result of reading up to the next separator.
enum Cut {
    Element(Vec<u8>),
    ArrayEnds,
    FileEnds,
}

impl<R: BufRead> Elements<R> {
    pub(crate) fn new(reader: R, path: &Path, read: u64) -> Self {
        Self { reader, path: path.into(), row: 0, read, ended: false, over: false }
    }

    fn cut(&mut self) -> std::io::Result<Cut> {
        let (mut element, mut state) = (Vec::new(), ParserState::default());
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Ok(Cut::FileEnds);
            }
            let end = buffer.iter().position(|&byte| state.ends(byte));
            element.extend_from_slice(&buffer[..end.unwrap_or(buffer.len())]);
            let (used, last) = end.map_or((buffer.len(), 0), |at| (at + 1, buffer[at]));
            self.reader.consume(used);
            self.read += used as u64;
            match last {
                0 => {}
                b']' if element.trim_ascii().is_empty() => return Ok(Cut::ArrayEnds),
                sign => {
                    self.ended = sign == b']';
                    return Ok(Cut::Element(element));
                }
            }
        }
    }

    /// Returns whether only whitespace is left.
    fn rest_is_blank(&mut self) -> std::io::Result<bool> {
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Ok(true);
            }
            if !buffer.trim_ascii().is_empty() {
                return Ok(false);
            }
            let used = buffer.len();
            self.reader.consume(used);
        }
    }

    fn wrong(&self, message: &str) -> CorpusError {
        CorpusError::Row { path: self.path.clone(), place: RowLocation::Row(self.row), message: message.into() }
    }

    fn end(&mut self) -> Option<Result<RawRow, CorpusError>> {
        self.over = true;
        match self.rest_is_blank() {
            Ok(true) => None,
            Ok(false) => {
                Some(Err(self.wrong("unexpected content after the array; expected one array, or one object per line")))
            }
            Err(e) => Some(Err(unread(&self.path, e))),
        }
    }
}

impl<R: BufRead> Iterator for Elements<R> {
    type Item = Result<RawRow, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        if self.ended {
            return self.end();
        }
        self.row += 1;
        match self.cut() {
            Ok(Cut::Element(bytes)) => Some(text(bytes, &self.path, RowLocation::Row(self.row), self.read)),
            Ok(Cut::ArrayEnds) => self.end(),
            Ok(Cut::FileEnds) => {
                self.over = true;
                Some(Err(self.wrong("the file ends inside the array; expected a closing `]`")))
            }
            Err(e) => {
                self.over = true;
                Some(Err(unread(&self.path, e)))
            }
        }
    }
}

/// The position of a byte within an element.
#[derive(Default)]
struct ParserState {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl ParserState {
    /// Consumes the next byte and returns whether it ends the element: a comma or closing bracket of the array itself.
    fn ends(&mut self, byte: u8) -> bool {
        if self.in_string {
            (self.escaped, self.in_string) = match byte {
                _ if self.escaped => (false, true),
                b'\\' => (true, true),
                other => (false, other != b'"'),
            };
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' if self.depth > 0 => self.depth -= 1,
            b']' | b',' if self.depth == 0 => return true,
            _ => {}
        }
        false
    }
}
