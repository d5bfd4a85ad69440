//! Tokenized rows on disk, keyed by a hash of their inputs, and read one row at a time.
//!
//! Each entry is a folder named by the SHA-256 of the data files, the tokenizer and the rules. It holds three files:
//!
//! - `tokens`: 32-bit little-endian integers whose highest bit marks a trained token.
//! - `index`: the end of each row and its number of trained tokens.
//! - `report.json`: the counts of kept and skipped rows.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use chat::tokenizer::Tokenizer;
use sha2::{Digest, Sha256};

use crate::raw_row::unread;
use crate::tokenize::{self, Report, Rules};
use crate::{CorpusError, MaskedSequence};

/// The version of the format. Must change whenever the same files give other tokens or are stored differently.
const FORMAT: &[u8; 16] = b"xplore tokens  1";
const TRAINED: u32 = 1 << 31;

/// Tokenized rows on disk. Uses 12 bytes of memory per row.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    tokens: File,
    /// The end of each row, in tokens.
    ends: Vec<u64>,
    /// The number of trained tokens of each row.
    trained: Vec<u32>,
    report: Report,
}

impl TokenFile {
    /// Opens the tokenized rows of `files`. Reads them from the folder `cache` if the same files were tokenized there
    /// with the same rules; otherwise tokenizes them and stores the result there. A damaged cache entry is rebuilt.
    /// `progress` receives the stage, the bytes of the files done, and the total bytes.
    ///
    /// # Errors
    /// Returns an error if the files are invalid ([`tokenize::files`]) or the cache folder cannot be used.
    pub fn open(
        files: &[PathBuf],
        rules: Rules,
        tokenizer: &Tokenizer,
        cache: &Path,
        progress: &mut dyn FnMut(LoadStage, u64, u64),
    ) -> Result<Self, CorpusError> {
        let mut total = 0;
        for file in files {
            total += fs::metadata(file).map_err(|e| unread(file, e))?.len();
        }
        let name = fingerprint(files, rules, tokenizer, &mut |done| progress(LoadStage::Reading, done, total))?;
        let folder = cache.join(name);
        if let Some(found) = Self::read_folder(&folder) {
            return Ok(found);
        }
        write_folder(&folder, cache, &mut |writer| {
            tokenize::files(
                files,
                rules,
                tokenizer,
                &mut |done| progress(LoadStage::Tokenizing, done, total),
                &mut |row| writer.row(row),
            )
        })?;
        let written = Self::read_folder(&folder).ok_or_else(|| {
            let other = std::io::Error::other("damaged right after writing; check whether the disk is full or failing");
            CorpusError::Io { action: "read", path: folder, source: other }
        })?;
        Ok(Self { report: Report { from_cache: false, ..written.report }, ..written })
    }

    /// Reads a complete folder; returns `None` for one that is missing, damaged or of another format.
    fn read_folder(folder: &Path) -> Option<Self> {
        let report: Report = serde_json::from_slice(&fs::read(folder.join("report.json")).ok()?).ok()?;
        let mut index = BufReader::new(File::open(folder.join("index")).ok()?);
        let rows = usize::try_from(report.kept).ok()?;
        let size = index.get_ref().metadata().ok()?.len();
        let mut format = [0; FORMAT.len()];
        index.read_exact(&mut format).ok()?;
        if &format != FORMAT || size != FORMAT.len() as u64 + 12 * report.kept {
            return None;
        }
        let (mut ends, mut trained) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        let mut entry = [0; 12];
        for _ in 0..rows {
            index.read_exact(&mut entry).ok()?;
            let (end, count) = entry.split_at(8);
            // An entry of 12 bytes splits into 8 and 4, so neither conversion fails.
            ends.push(u64::from_le_bytes(end.try_into().ok()?));
            trained.push(u32::from_le_bytes(count.try_into().ok()?));
        }
        let path = folder.join("tokens");
        let tokens = File::open(&path).ok()?;
        let whole = ends.is_sorted()
            && ends.last().copied().unwrap_or(0) == report.tokens
            && tokens.metadata().ok()?.len() == 4 * report.tokens;
        whole.then_some(Self { path, tokens, ends, trained, report: Report { from_cache: true, ..report } })
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns the number of tokens of row `i` (below [`Self::len`]).
    pub fn length(&self, i: usize) -> usize {
        (self.ends[i] - self.begin(i)) as usize
    }

    /// Returns the number of trained tokens of row `i` (below [`Self::len`]).
    pub fn trained(&self, i: usize) -> usize {
        self.trained[i] as usize
    }

    fn begin(&self, i: usize) -> u64 {
        if i == 0 { 0 } else { self.ends[i - 1] }
    }

    /// Reads row `i` (below [`Self::len`]) from disk.
    ///
    /// # Errors
    /// Returns [`CorpusError::Io`] if the file can no longer be read.
    pub fn read(&self, i: usize) -> Result<MaskedSequence, CorpusError> {
        let mut bytes = vec![0; 4 * self.length(i)];
        self.tokens.read_exact_at(&mut bytes, 4 * self.begin(i)).map_err(|e| unread(&self.path, e))?;
        let words = bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        let (ids, trained) = words.map(|word| (word & !TRAINED, word & TRAINED != 0)).unzip();
        Ok(MaskedSequence { ids, trained })
    }

    /// Returns the counts of kept and skipped rows.
    pub fn report(&self) -> &Report {
        &self.report
    }
}

/// The stages of opening rows that take time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadStage {
    /// The files are read to compute their hash.
    Reading,
    /// The rows of the files are tokenized.
    Tokenizing,
}

/// Returns the hash, in hexadecimal, that names the tokenized rows of `files`.
fn fingerprint(
    files: &[PathBuf],
    rules: Rules,
    tokenizer: &Tokenizer,
    progress: &mut dyn FnMut(u64),
) -> Result<String, CorpusError> {
    let mut hash = Sha256::new();
    // Each part is prefixed with its length, so no two lists of parts concatenate to the same bytes.
    let part = |hash: &mut Sha256, bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(&mut hash, FORMAT);
    part(&mut hash, tokenizer.to_json()?.as_bytes());
    part(&mut hash, tokenizer.template().source().as_bytes());
    // The special tokens reach rows through the template and the end of texts.
    part(&mut hash, format!("{:?}", tokenizer.template().special()).as_bytes());
    part(&mut hash, format!("{rules:?}").as_bytes());
    let mut done = 0;
    let mut buffer = vec![0; 1 << 20];
    for path in files {
        part(&mut hash, path.extension().unwrap_or_default().as_encoded_bytes());
        let mut file = File::open(path).map_err(|e| unread(path, e))?;
        let mut content = Sha256::new();
        loop {
            let n = file.read(&mut buffer).map_err(|e| unread(path, e))?;
            if n == 0 {
                break;
            }
            content.update(&buffer[..n]);
            done += n as u64;
            progress(done);
        }
        part(&mut hash, &content.finalize());
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The files of a cache folder while they are written.
struct Writer {
    path: PathBuf,
    tokens: BufWriter<File>,
    index: BufWriter<File>,
    end: u64,
}

impl Writer {
    fn row(&mut self, row: &MaskedSequence) -> Result<(), CorpusError> {
        self.write(row).map_err(|e| unwritten(&self.path, e))
    }

    fn write(&mut self, row: &MaskedSequence) -> std::io::Result<()> {
        for (&id, &trained) in row.ids.iter().zip(&row.trained) {
            self.tokens.write_all(&(id | if trained { TRAINED } else { 0 }).to_le_bytes())?;
        }
        self.end += row.ids.len() as u64;
        self.index.write_all(&self.end.to_le_bytes())?;
        self.index.write_all(&(row.trained_tokens() as u32).to_le_bytes())
    }
}

fn unwritten(path: &Path, source: std::io::Error) -> CorpusError {
    CorpusError::Io { action: "write", path: path.into(), source }
}

/// Writes a folder under a temporary name and renames it once it is complete.
fn write_folder(
    folder: &Path,
    cache: &Path,
    fill: &mut dyn FnMut(&mut Writer) -> Result<Report, CorpusError>,
) -> Result<(), CorpusError> {
    let io = |e| unwritten(folder, e);
    fs::create_dir_all(cache).map_err(|e| unwritten(cache, e))?;
    let partial = tempfile::Builder::new().prefix(".partial-").tempdir_in(cache).map_err(|e| unwritten(cache, e))?;
    let create = |name: &str| File::create(partial.path().join(name)).map(|f| BufWriter::with_capacity(1 << 20, f));
    let (tokens, mut index) = (create("tokens").map_err(io)?, create("index").map_err(io)?);
    index.write_all(FORMAT).map_err(io)?;
    let mut writer = Writer { path: folder.into(), tokens, index, end: 0 };
    let report = fill(&mut writer)?;
    for file in [writer.tokens, writer.index] {
        file.into_inner().map_err(|e| io(e.into_error()))?.sync_all().map_err(io)?;
    }
    let json = serde_json::to_vec_pretty(&report).map_err(|e| io(e.into()))?;
    fs::write(partial.path().join("report.json"), json).map_err(io)?;
    // An existing folder is damaged, or another process wrote it in the meantime and it is equivalent to this one.
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(io)?;
    }
    fs::rename(partial.path(), folder).map_err(io)
}
