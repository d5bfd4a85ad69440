//! Opens a data file of any format, whose rows are read one at a time regardless of its size.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use crate::CorpusError;
use crate::json_array::Elements;
use crate::raw_row::{RawRow, RawRows, RowLocation, text, unread};

/// What some programs write at the start of a UTF-8 file.
pub const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// Opens a data file: JSON lines (`.jsonl`, `.ndjson`, `.json`), a JSON array (`.json`) or Parquet, by its extension.
/// Blank lines and a byte order mark are skipped.
///
/// # Errors
/// Returns [`CorpusError::Kind`] for another extension, and [`CorpusError::Io`] for a file that cannot be read. Each
/// item may be an error of its row.
pub fn open(path: &Path) -> Result<RawRows, CorpusError> {
    let reader = || {
        let file = File::open(path).map_err(|e| unread(path, e))?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let marked = reader.fill_buf().map_err(|e| unread(path, e))?.starts_with(&BYTE_ORDER_MARK);
        let mark = if marked { BYTE_ORDER_MARK.len() } else { 0 };
        reader.consume(mark);
        Ok::<_, CorpusError>((reader, mark as u64))
    };
    let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
    match ending.as_deref() {
        Some("jsonl" | "ndjson") => {
            let (reader, read) = reader()?;
            Ok(Box::new(Lines { read, ..Lines::new(reader, path) }))
        }
        Some("json") => {
            let (mut reader, mark) = reader()?;
            let (skipped, first) = first_sign(&mut reader).map_err(|e| unread(path, e))?;
            let read = mark + skipped.bytes;
            if first == Some(b'[') {
                reader.consume(1);
                return Ok(Box::new(Elements::new(reader, path, read + 1)));
            }
            Ok(Box::new(Lines { line: skipped.lines, read, ..Lines::new(reader, path) }))
        }
        Some("parquet") => crate::parquet::open(path),
        _ => Err(CorpusError::Kind { path: path.into() }),
    }
}

#[derive(Default)]
struct Skipped {
    bytes: u64,
    lines: u64,
}

/// Skips to the first byte that is not whitespace.
fn first_sign(reader: &mut impl BufRead) -> std::io::Result<(Skipped, Option<u8>)> {
    let mut skipped = Skipped::default();
    loop {
        let Some(&byte) = reader.fill_buf()?.first() else { return Ok((skipped, None)) };
        if !byte.is_ascii_whitespace() {
            return Ok((skipped, Some(byte)));
        }
        reader.consume(1);
        skipped.bytes += 1;
        skipped.lines += u64::from(byte == b'\n');
    }
}

struct Lines<R> {
    reader: R,
    path: PathBuf,
    line: u64,
    read: u64,
}

impl<R: BufRead> Lines<R> {
    fn new(reader: R, path: &Path) -> Self {
        Self { reader, path: path.into(), line: 0, read: 0 }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<RawRow, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut bytes = Vec::new();
            match self.reader.read_until(b'\n', &mut bytes) {
                Ok(0) => return None,
                Ok(n) => self.read += n as u64,
                Err(e) => return Some(Err(unread(&self.path, e))),
            }
            self.line += 1;
            if !bytes.trim_ascii().is_empty() {
                return Some(text(bytes, &self.path, RowLocation::Line(self.line), self.read));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(name: &str, content: &[u8]) -> Vec<Result<RawRow, String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        open(&path).unwrap().map(|row| row.map_err(|e| e.to_string())).collect()
    }

    fn texts(name: &str, content: &str) -> Vec<(RowLocation, String)> {
        rows(name, content.as_bytes())
            .into_iter()
            .map(|r| r.unwrap())
            .map(|r| (r.place, r.json.trim().into()))
            .collect()
    }

    #[test]
    fn lines_are_counted_and_blank_ones_skipped() {
        let expected = [(RowLocation::Line(1), "{\"a\":1}".into()), (RowLocation::Line(4), "{}".into())];
        for name in ["x.jsonl", "x.ndjson", "x.json"] {
            assert_eq!(texts(name, "{\"a\":1}\n\n  \r\n{}"), expected, "{name}");
        }
        assert_eq!(texts("x.json", "\n\n{}\n"), [(RowLocation::Line(3), "{}".into())]);
        assert_eq!(texts("x.json", " \n"), []);
        let read: Vec<u64> = rows("x.json", b"\n{}\n{}\n").into_iter().map(|r| r.unwrap().read).collect();
        assert_eq!(read, [4, 7]);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_row() {
        assert_eq!(texts("x.jsonl", "\u{feff}{\"a\":1}\r\n"), [(RowLocation::Line(1), "{\"a\":1}".into())]);
        assert_eq!(
            texts("x.json", "\u{feff}[{}, 2]"),
            [(RowLocation::Row(1), "{}".into()), (RowLocation::Row(2), "2".into())]
        );
    }

    #[test]
    fn the_bytes_read_are_those_of_the_file() {
        let read = |name: &str, content: &str| -> Vec<u64> {
            rows(name, content.as_bytes()).into_iter().map(|row| row.unwrap().read).collect()
        };
        assert_eq!(read("x.jsonl", "{}\n{}\n"), [3, 6]);
        for (name, content) in [
            ("x.jsonl", "\u{feff}{}\n{}\n"),
            ("X.JSONL", "\u{feff}{}\n{}\n"),
            ("x.json", "\u{feff}{}\n{}\n"),
            // An element ends with the sign behind it.
            ("x.json", "\u{feff}[1,2]"),
        ] {
            let expected = if content.contains('[') { [6, 8] } else { [6, 9] };
            assert_eq!(read(name, content), expected, "{name}");
        }
    }

    #[test]
    fn an_array_gives_its_elements() {
        let array = " [ {\"a\": \"]},\\\" \\\\\", \"b\": [{}, 2]} ,\n{}, 3, \"x\" ]\n ";
        let expected = ["{\"a\": \"]},\\\" \\\\\", \"b\": [{}, 2]}", "{}", "3", "\"x\""];
        let found = texts("x.json", array);
        assert_eq!(found.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), expected);
        assert_eq!(found[1].0, RowLocation::Row(2));
        assert_eq!(texts("x.json", "[]"), []);
    }

    #[test]
    fn broken_arrays_say_where() {
        for (content, words) in
            [("[{}, {\"a\": 1", "row 2: the file ends"), ("[{}, ", "ends"), ("[{}] {}", "after the array")]
        {
            let all = rows("x.json", content.as_bytes());
            assert_eq!(all[0].as_ref().unwrap().json, "{}");
            assert_eq!(all.len(), 2, "{content}");
            assert!(all[1].as_ref().unwrap_err().contains(words), "{:?}", all[1]);
        }
    }

    #[test]
    fn other_bytes_and_other_files_are_refused() {
        let bad = rows("x.jsonl", b"{}\n{\"a\": \"\xff\"}\n{}\n");
        assert!(bad[1].as_ref().unwrap_err().contains("line 2: byte 8 is not UTF-8"), "{:?}", bad[1]);
        let error = |path: &str| open(Path::new(path)).err().unwrap().to_string();
        assert!(error("rows.csv").contains("rows.csv: unknown file type; expected .jsonl"));
        assert!(error("not/there.jsonl").contains("cannot read not/there.jsonl"));
    }
}
