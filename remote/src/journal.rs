//! Answers on disk: one JSON line each, keyed by a digest of the request.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
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
    /// Opens or creates a journal. An incomplete last line, left by a process that was killed, is dropped.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
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
        file.set_len(whole as u64)?;
        file.seek(SeekFrom::End(0))?;
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
