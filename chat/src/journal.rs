//! Answers on disk, by the content of the request.
//!
//! A journal is a file of JSON lines, each with the digest of a request and its answer. A line is appended by one write as the answer
//! arrives. A process that is killed therefore loses the answers of the requests in flight and no others; the incomplete last line
//! that it may leave is dropped. Memory holds digests and positions, about 100 bytes per answer; the answers stay on disk.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::digest::{from_hex, hex};

/// The digest (SHA-256) of a request.
pub type Key = [u8; 32];

/// Returns the digest of a request, given as text or bytes.
pub fn key(request: impl AsRef<[u8]>) -> Key {
    Sha256::digest(request).into()
}

/// The journal file, and where it holds which answer.
#[derive(Debug)]
pub struct Journal {
    file: File,
    answers: HashMap<Key, Span>,
    damaged: usize,
    /// Whether the file may end in an incomplete line, which the next line must not continue.
    torn: bool,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    start: u64,
    length: usize,
}

#[derive(Serialize, Deserialize)]
struct Line<T> {
    asked: String,
    answer: T,
}

impl Journal {
    /// Opens or creates a journal. An incomplete last line, left by a process that was killed, is dropped, unless another run has the
    /// journal open and may be writing that line.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read and written, or if it has lines but none is a journal's. Single lines that are not are
    /// skipped, so that what they answered is asked again; [`Self::damaged`] counts them.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        // Several runs may share a journal: each line is appended by one write, after those of the others.
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        // A file system without locks is treated as one without other runs.
        let alone = !matches!(file.try_lock(), Err(TryLockError::WouldBlock));
        let mut journal = Self { file, answers: HashMap::new(), damaged: 0, torn: false };
        let (whole, read) = journal.index()?;
        match alone {
            true if whole < read => journal.file.set_len(whole)?,
            true => {}
            false => journal.torn |= whole < read,
        }
        // Shared as long as the journal is open.
        let _ = journal.file.unlock().and_then(|()| journal.file.lock_shared());
        Ok(journal)
    }

    /// Returns the number of answers.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Returns whether the journal has no answer.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Returns the number of lines that were skipped because they are not a journal's.
    pub fn damaged(&self) -> usize {
        self.damaged
    }

    /// Returns the answer to a request, if the journal has one.
    pub fn get<T: DeserializeOwned>(&mut self, key: &Key) -> Option<T> {
        let Span { start, length } = self.answers.get(key).copied()?;
        let mut text = vec![0; length];
        let read = self.file.seek(SeekFrom::Start(start)).and_then(|_| self.file.read_exact(&mut text));
        let line: Option<Line<T>> = read.ok().and_then(|()| serde_json::from_slice(&text).ok());
        let line = line.filter(|line| line.asked == hex(key));
        if line.is_none() {
            // Asked again, and appended again.
            self.answers.remove(key);
        }
        line.map(|line| line.answer)
    }

    /// Appends an answer.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn put<T: Serialize>(&mut self, key: &Key, answer: &T) -> io::Result<()> {
        let mut text = Vec::new();
        if self.torn {
            text.push(b'\n');
        }
        let begin = text.len();
        serde_json::to_writer(&mut text, &Line { asked: hex(key), answer })?;
        text.push(b'\n');
        // Whatever a failed write leaves is a line of its own.
        self.torn = true;
        self.file.write_all(&text)?;
        self.torn = false;
        // Appending moves the position to the end of what this process wrote, after the lines of others.
        let end = self.file.stream_position()?;
        let length = text.len() - begin;
        self.answers.insert(*key, Span { start: end - length as u64, length });
        Ok(())
    }

    /// Adds all complete lines to the index. Returns their length in bytes, and that of everything read.
    fn index(&mut self) -> io::Result<(u64, u64)> {
        let mut lines = BufReader::new(&self.file);
        let (mut start, mut number, mut text, mut first) = (0, 0, Vec::new(), None);
        loop {
            text.clear();
            let length = lines.read_until(b'\n', &mut text)?;
            number += 1;
            if text.last() != Some(&b'\n') {
                let mut whole = start;
                if !is_torn(&text) {
                    // Nobody's incomplete entry, so it stays.
                    first = first.or(Some((number, "it does not begin as one".to_owned())));
                    (whole, self.torn) = (start + length as u64, true);
                    self.damaged += 1;
                }
                return match first {
                    Some((number, cause)) if self.answers.is_empty() => Err(io::Error::other(format!(
                        "line {number} is not an entry of a journal ({cause}), and neither is another line; name another file"
                    ))),
                    _ => Ok((whole, start + length as u64)),
                };
            }
            let line = serde_json::from_slice::<Line<IgnoredAny>>(&text).map_err(|e| e.to_string());
            match line.and_then(|line| from_hex(&line.asked).ok_or_else(|| "`asked` is no digest".to_owned())) {
                Ok(key) => {
                    self.answers.insert(key, Span { start, length });
                }
                Err(_) if text.trim_ascii().is_empty() => {}
                Err(cause) => {
                    first = first.or(Some((number, cause)));
                    self.damaged += 1;
                }
            }
            start += length as u64;
        }
    }
}

/// Returns whether the end of a file may be the beginning of an entry, or what a power failure leaves of one.
fn is_torn(text: &[u8]) -> bool {
    const BEGIN: &[u8] = b"{\"asked\":\"";
    text.starts_with(BEGIN) || BEGIN.starts_with(text) || text.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(journal: &mut Journal, asked: &str) -> Option<Value> {
        journal.get(&key(asked))
    }

    #[test]
    fn answers_are_found_again_and_the_last_one_counts() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("new/journal.jsonl");
        let mut journal = Journal::open(&path).unwrap();
        for n in 0..40 {
            assert_eq!(at(&mut journal, &format!("asked {n}")), None);
            journal.put(&key(format!("asked {n}")), &json!({ "text": "é\n".repeat(n) })).unwrap();
        }
        journal.put(&key("asked 7"), &json!("again")).unwrap();
        for mut journal in [journal, Journal::open(&path).unwrap()] {
            assert_eq!((journal.len(), journal.damaged()), (40, 0));
            assert_eq!(at(&mut journal, "asked 7"), Some(json!("again")));
            assert_eq!(at(&mut journal, "asked 39"), Some(json!({ "text": "é\n".repeat(39) })));
        }
    }

    #[test]
    fn an_incomplete_line_is_dropped_only_if_no_other_run_may_be_writing_it() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("journal.jsonl");
        let mut first = Journal::open(&path).unwrap();
        first.put(&key("asked"), &json!("answered")).unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        let cut = format!("{whole}{{\"asked\":");
        fs::write(&path, &cut).unwrap();
        let mut second = Journal::open(&path).unwrap();
        assert_eq!(at(&mut second, "asked"), Some(json!("answered")));
        assert_eq!(fs::read_to_string(&path).unwrap(), cut);
        // What the second appends does not continue the incomplete line.
        second.put(&key("other"), &json!("also answered")).unwrap();
        assert_eq!(at(&mut second, "other"), Some(json!("also answered")));
        drop((first, second));
        let mut third = Journal::open(&path).unwrap();
        assert_eq!((third.len(), third.damaged()), (2, 1));
        assert_eq!(at(&mut third, "other"), Some(json!("also answered")));
        drop(third);
        fs::write(&path, &cut).unwrap();
        assert_eq!(at(&mut Journal::open(&path).unwrap(), "asked"), Some(json!("answered")));
        assert_eq!(fs::read_to_string(&path).unwrap(), whole);
    }

    #[test]
    fn a_journal_cut_at_any_byte_keeps_what_was_complete() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("journal.jsonl");
        let mut journal = Journal::open(&path).unwrap();
        let mut ends = vec![0];
        for n in 0..4_u8 {
            journal.put(&key([n]), &n).unwrap();
            ends.push(fs::metadata(&path).unwrap().len() as usize);
        }
        drop(journal);
        let bytes = fs::read(&path).unwrap();
        for cut in 0..=bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            let complete = ends.iter().filter(|&&end| end <= cut).count() - 1;
            let mut journal = Journal::open(&path).unwrap();
            assert_eq!(journal.len(), complete, "cut at {cut}");
            journal.put(&key("next"), &9).unwrap();
            drop(journal);
            let mut again = Journal::open(&path).unwrap();
            assert_eq!((again.len(), again.get(&key("next"))), (complete + 1, Some(9)), "cut at {cut}");
        }
    }

    #[test]
    fn two_runs_append_to_one_file() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("journal.jsonl");
        let (mut first, mut second) = (Journal::open(&path).unwrap(), Journal::open(&path).unwrap());
        for n in 0..10_u8 {
            first.put(&key([1_u8, n]), &n).unwrap();
            second.put(&key([2_u8, n]), &(100 + u32::from(n))).unwrap();
        }
        assert_eq!((first.get(&key([1_u8, 3])), second.get(&key([2_u8, 9]))), (Some(3), Some(109)));
        drop((first, second));
        assert_eq!(Journal::open(&path).unwrap().len(), 20);
    }

    #[test]
    fn another_file_is_refused_and_a_damaged_answer_is_asked_again() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("journal.jsonl");
        for other in ["{\"uid\":\"a\"}\n", "secret-key", "{\"uid\":\"a\"}", "{\"uid\":\"a\"}\n{\"asked\":\""] {
            fs::write(&path, other).unwrap();
            let error = Journal::open(&path).unwrap_err().to_string();
            assert!(error.contains("line 1 is not an entry of a journal"), "{error}");
            assert!(error.contains("name another file") && fs::read_to_string(&path).unwrap() == other, "{error}");
        }
        // What a power failure may leave.
        fs::write(&path, [0_u8; 40]).unwrap();
        assert!(Journal::open(&path).unwrap().is_empty());
        fs::remove_file(&path).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        for n in 0..3_u8 {
            journal.put(&key([n]), &n).unwrap();
        }
        let text = fs::read_to_string(&path).unwrap().replacen("\"answer\":1}", "\"answer\":1 ", 1);
        fs::write(&path, &text).unwrap();
        assert_eq!((journal.get::<u8>(&key([1_u8])), journal.get(&key([2_u8]))), (None, Some(2_u8)));
        drop(journal);
        let again = Journal::open(&path).unwrap();
        assert_eq!((again.len(), again.damaged()), (2, 1));
        drop(again);
        // A damaged first line costs its own answer only.
        fs::write(&path, text.replacen("{\"asked\"", "{\"asxed\"", 1)).unwrap();
        let again = Journal::open(&path).unwrap();
        assert_eq!((again.len(), again.damaged()), (1, 2));
        drop(again);
        // The end of another text stays, and is not continued.
        fs::write(&path, format!("{text}notes")).unwrap();
        let mut again = Journal::open(&path).unwrap();
        again.put(&key([9_u8]), &9).unwrap();
        drop(again);
        let again = Journal::open(&path).unwrap();
        assert_eq!((again.len(), again.damaged()), (3, 2));
        assert!(fs::read_to_string(&path).unwrap().contains("}\nnotes\n{"));
    }
}
