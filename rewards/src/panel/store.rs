//! Verdicts of a judge in this process, on disk.
//!
//! A folder holds the verdicts of one model, one JSON line each. Every process appends to a file of its own, which it locks, and
//! reads those of all others, so that ranks and parallel runs share a folder. A line names its own hash: an incomplete or altered
//! line is not a verdict, and the question is asked again.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use chat::digest::{from_hex, hex};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Key;
use crate::judge::{JudgeError, Verdict};

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    /// SHA-256 of judge and query, in hexadecimal.
    key: String,
    verdict: Verdict,
    /// SHA-256 of key and verdict, in hexadecimal.
    check: String,
}

impl Line {
    fn new(key: &Key, verdict: &Verdict) -> Self {
        let key = hex(key);
        let check = check(&key, verdict);
        Self { key, verdict: verdict.clone(), check }
    }
}

/// Where a verdict is.
#[derive(Clone, Copy)]
struct LineLocation {
    file: usize,
    offset: u64,
    length: usize,
}

/// The verdicts of one model on disk.
pub struct VerdictStore {
    model: String,
    /// The files of the folder; the first is that of this process.
    files: Vec<(PathBuf, File)>,
    end: u64,
    locations: HashMap<Key, LineLocation>,
}

impl VerdictStore {
    /// Opens the verdicts of a model in `folder`, which is created if necessary. `model` identifies the model by its contents, such
    /// as a hash of its files.
    ///
    /// # Errors
    /// Returns [`JudgeError::Cache`] if the folder cannot be read or written.
    pub fn open(folder: &Path, model: &str) -> Result<Self, JudgeError> {
        let folder = folder.join(model.chars().take(16).collect::<String>());
        let bad = |e: io::Error| failed(&folder, &e);
        fs::create_dir_all(&folder).map_err(bad)?;
        let own = own_file(&folder).map_err(bad)?;
        let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
            .map_err(bad)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()
            .map_err(bad)?;
        paths.retain(|path| path.extension().is_some_and(|e| e == "jsonl") && *path != own.0);
        paths.sort();
        let mut store = Self { model: model.into(), files: vec![own], end: 0, locations: HashMap::new() };
        for path in paths {
            let file = File::open(&path).map_err(bad)?;
            store.files.push((path, file));
        }
        for file in (0..store.files.len()).rev() {
            let whole = store.index(file).map_err(|e| failed(&store.files[file].0, &e))?;
            if file == 0 {
                // What a killed process left of a line.
                store.files[0].1.set_len(whole).map_err(|e| failed(&store.files[0].0, &e))?;
                store.end = whole;
            }
        }
        Ok(store)
    }

    /// Returns the identity of the model.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Returns the number of verdicts.
    pub fn len(&self) -> usize {
        self.locations.len()
    }

    /// Returns whether there is no verdict.
    pub fn is_empty(&self) -> bool {
        self.locations.is_empty()
    }

    /// Adds the complete lines of a file to the index, and returns their length in bytes.
    fn index(&mut self, file: usize) -> io::Result<u64> {
        let mut lines = BufReader::new(&self.files[file].1);
        let (mut offset, mut text) = (0, Vec::new());
        loop {
            text.clear();
            let length = lines.read_until(b'\n', &mut text)?;
            if text.last() != Some(&b'\n') {
                return Ok(offset);
            }
            if let Some(key) = serde_json::from_slice::<Line>(&text).ok().and_then(|line| from_hex(&line.key)) {
                self.locations.insert(key, LineLocation { file, offset, length });
            }
            offset += length as u64;
        }
    }

    pub(super) fn get(&mut self, key: &Key) -> Result<Option<Verdict>, JudgeError> {
        let Some(LineLocation { file, offset, length }) = self.locations.get(key).copied() else { return Ok(None) };
        let (path, from) = &mut self.files[file];
        let mut text = vec![0; length];
        let read = from.seek(SeekFrom::Start(offset)).and_then(|_| from.read_exact(&mut text));
        read.map_err(|e| failed(path, &e))?;
        let line: Option<Line> = serde_json::from_slice(&text).ok();
        let intact = line.filter(|line| line.key == hex(key) && line.check == check(&line.key, &line.verdict));
        if intact.is_none() {
            self.locations.remove(key);
        }
        Ok(intact.map(|line| line.verdict))
    }

    pub(super) fn put(&mut self, key: &Key, verdict: &Verdict) -> Result<(), JudgeError> {
        let (path, file) = &mut self.files[0];
        let mut text = serde_json::to_vec(&Line::new(key, verdict)).expect("texts and numbers always serialize");
        text.push(b'\n');
        let written = file.seek(SeekFrom::Start(self.end)).and_then(|_| file.write_all(&text));
        written.map_err(|e| failed(path, &e))?;
        self.locations.insert(*key, LineLocation { file: 0, offset: self.end, length: text.len() });
        self.end += text.len() as u64;
        Ok(())
    }
}

/// Opens the first file that no other process has locked.
fn own_file(folder: &Path) -> io::Result<(PathBuf, File)> {
    for n in 0.. {
        let path = folder.join(format!("verdicts-{n:03}.jsonl"));
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
        match file.try_lock() {
            Ok(()) => return Ok((path, file)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
    unreachable!("a new file is not locked")
}

fn failed(path: &Path, error: &io::Error) -> JudgeError {
    let message = format!("{error}; the folder of judge_cache must be readable and writable, with free disk space");
    JudgeError::Cache { path: path.display().to_string(), message }
}

fn check(key: &str, verdict: &Verdict) -> String {
    let text = serde_json::to_vec(&(key, verdict)).expect("texts and numbers always serialize");
    hex(&Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(p_chosen: f64) -> Verdict {
        Verdict { malformed: p_chosen == 0.5, ..Verdict::new(p_chosen) }
    }

    #[test]
    fn verdicts_are_found_again_and_damaged_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let open = || VerdictStore::open(folder.path(), "abc").unwrap();
        let key = |n: u8| [n; 32];
        let mut store = open();
        for (n, p) in [(1, 1.0 / 3.0), (2, 0.5), (3, 0.75)] {
            assert_eq!(store.get(&key(n)).unwrap(), None);
            store.put(&key(n), &verdict(p)).unwrap();
        }
        drop(store);
        let path = folder.path().join("abc/verdicts-000.jsonl");
        let text = fs::read_to_string(&path).unwrap();
        // One verdict is altered, and the last line is cut.
        let text = text.replacen("0.5", "0.9", 1);
        fs::write(&path, &text[..text.len() - 5]).unwrap();
        let mut store = open();
        assert_eq!(store.len(), 2);
        assert_eq!(store.get(&key(1)).unwrap(), Some(verdict(1.0 / 3.0)));
        assert_eq!((store.get(&key(2)).unwrap(), store.get(&key(3)).unwrap()), (None, None));
        store.put(&key(3), &verdict(0.25)).unwrap();
        drop(store);
        assert_eq!(open().get(&key(3)).unwrap(), Some(verdict(0.25)));
    }

    #[test]
    fn concurrent_processes_append_to_files_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let open = |model| VerdictStore::open(folder.path(), model).unwrap();
        let (mut first, mut second) = (open("m"), open("m"));
        first.put(&[1; 32], &verdict(0.1)).unwrap();
        second.put(&[2; 32], &verdict(0.2)).unwrap();
        drop((first, second));
        let mut both = open("m");
        assert_eq!(both.get(&[1; 32]).unwrap(), Some(verdict(0.1)));
        assert_eq!(both.get(&[2; 32]).unwrap(), Some(verdict(0.2)));
        assert!(open("another").is_empty());
    }
}
