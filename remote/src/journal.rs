//! Answers on disk: one JSON line each, keyed by a digest of the request.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

/// The journal file and its contents.
#[derive(Debug)]
pub struct Journal {
    file: File,
    answers: HashMap<String, Json>,
}

#[derive(Serialize, Deserialize)]
struct JournalLine {
    asked: String,
    answer: Json,
}

fn key(body: &Json) -> String {
    Sha256::digest(body.to_string()).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Journal {
    /// Opens or creates a journal. An incomplete last line, left by a process that was killed, is dropped, unless another run has the
    /// journal open and may be writing that line.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // Several runs may share a journal: each line is appended by one write, after those of the others.
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        // A file system without locks is treated as one without other runs.
        let alone = !matches!(file.try_lock(), Err(TryLockError::WouldBlock));
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let mut answers = HashMap::new();
        for (index, line) in text[..whole].lines().enumerate() {
            let line: JournalLine = serde_json::from_str(line).map_err(|e| {
                std::io::Error::other(format!("line {} is not an entry ({e}); remove the line or the file", index + 1))
            })?;
            answers.insert(line.asked, line.answer);
        }
        if alone && whole < text.len() {
            file.set_len(whole as u64)?;
        }
        // Shared as long as the journal is open.
        let _ = file.unlock().and_then(|()| file.lock_shared());
        Ok(Self { file, answers })
    }

    /// Returns the answer to this request, if the journal has one.
    pub fn get(&self, body: &Json) -> Option<Json> {
        self.answers.get(&key(body)).cloned()
    }

    /// Appends an answer.
    pub fn put(&mut self, body: &Json, answer: &Json) -> std::io::Result<()> {
        let line = JournalLine { asked: key(body), answer: answer.clone() };
        let mut text = serde_json::to_string(&line)?;
        text.push('\n');
        self.file.write_all(text.as_bytes())?;
        self.answers.insert(line.asked, line.answer);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_incomplete_line_is_dropped_only_if_no_other_run_may_be_writing_it() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("journal.jsonl");
        let mut first = Journal::open(&path).unwrap();
        first.put(&json!("asked"), &json!("answered")).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        let cut = format!("{whole}{{\"asked\":");
        std::fs::write(&path, &cut).unwrap();
        let second = Journal::open(&path).unwrap();
        assert_eq!(second.get(&json!("asked")), Some(json!("answered")));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), cut);
        drop((first, second));
        let third = Journal::open(&path).unwrap();
        assert_eq!(third.get(&json!("asked")), Some(json!("answered")));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
    }
}
