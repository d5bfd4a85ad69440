//! Tokenizes all rows of a list of files, in parallel and in order.

use std::path::{Path, PathBuf};

use chat::tokenizer::Tokenizer;
use configs::sft::{LossOn, SftData, Truncation, Unusable};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::mask::{MaskError, sequence};
use crate::raw;
use crate::raw_row::RawRow;
use crate::{CorpusError, MaskedSequence, Row, Unfit};

/// The number of bytes of rows that are tokenized together: enough to keep all cores busy, and the only part of a file
/// held in memory.
const CHUNK: usize = 8 << 20;

/// The rules for turning rows into sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// Which tokens are trained.
    pub loss_on: LossOn,
    /// The maximum sequence length, in tokens.
    pub max_length: usize,
    /// How longer sequences are handled.
    pub truncation: Truncation,
    /// How rows that cannot be trained on are handled.
    pub unusable: Unusable,
}

impl From<&SftData> for Rules {
    fn from(data: &SftData) -> Self {
        let SftData { loss_on, max_length, truncation, unusable, .. } = *data;
        Self { loss_on, max_length, truncation, unusable }
    }
}

/// The numbers of skipped rows, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Rows longer than `max_length`.
    pub too_long: u64,
    /// Rows without a trained token, before or after truncation.
    pub no_trained_token: u64,
    /// Rows whose prompt tokens are not a prefix of the tokens of the whole.
    pub prompt_no_prefix: u64,
    /// Rows whose earlier turns the chat template changes when it renders later ones.
    pub turns_rewritten: u64,
    /// Rows with an index that does not name a trainable token.
    pub bad_index: u64,
}

impl Skipped {
    /// Returns the total number of skipped rows.
    pub fn total(&self) -> u64 {
        self.too_long + self.no_trained_token + self.prompt_no_prefix + self.turns_rewritten + self.bad_index
    }

    fn add(&mut self, unfit: Unfit) {
        *match unfit {
            Unfit::TooLong { .. } => &mut self.too_long,
            Unfit::NoTrainedToken | Unfit::CutAway { .. } => &mut self.no_trained_token,
            Unfit::PromptNoPrefix => &mut self.prompt_no_prefix,
            Unfit::TurnsRewritten => &mut self.turns_rewritten,
            Unfit::BadIndex { .. } => &mut self.bad_index,
        } += 1;
    }
}

/// The counts of kept and skipped rows of a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The number of rows read.
    pub rows: u64,
    /// The number of rows kept for training.
    pub kept: u64,
    /// The number of kept rows that were truncated to `max_length`.
    pub truncated: u64,
    /// The numbers of skipped rows.
    pub skipped: Skipped,
    /// The number of tokens of the kept rows.
    pub tokens: u64,
    /// The number of trained tokens in one pass over the kept rows.
    pub trained_tokens: u64,
    /// The number of tokens of the longest kept row.
    pub longest: u64,
    /// Whether the rows were found in the cache.
    #[serde(skip)]
    pub from_cache: bool,
}

impl Report {
    fn keep(&mut self, row: &Tokenized) {
        let (length, trained) = (row.sequence.ids.len() as u64, row.sequence.trained_tokens() as u64);
        self.kept += 1;
        self.truncated += u64::from(row.truncated);
        self.tokens += length;
        self.trained_tokens += trained;
        self.longest = self.longest.max(length);
    }
}

/// A row that can be trained on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokenized {
    /// The token sequence.
    pub sequence: MaskedSequence,
    /// Whether the sequence was truncated to `max_length`.
    pub truncated: bool,
}

/// Tokenizes a row of `path`, or returns why it cannot be trained on, regardless of [`Rules::unusable`].
///
/// # Errors
/// Returns an error for a row in none of the known formats, or one that the tokenizer or the chat template rejects.
pub fn row(
    raw: &RawRow,
    path: &Path,
    rules: Rules,
    tokenizer: &Tokenizer,
) -> Result<Result<Tokenized, Unfit>, CorpusError> {
    let place = raw.place;
    let row = Row::parse(&raw.json).map_err(|message| CorpusError::Row { path: path.into(), place, message })?;
    match sequence(&row, rules.loss_on, tokenizer) {
        Ok(sequence) => Ok(cut(sequence, rules)),
        Err(MaskError::Unfit(unfit)) => Ok(Err(unfit)),
        Err(MaskError::Tokenizer(source)) => Err(CorpusError::Tokenizer { path: path.into(), place, source }),
    }
}

fn cut(mut sequence: MaskedSequence, rules: Rules) -> Result<Tokenized, Unfit> {
    let (length, max_length) = (sequence.ids.len(), rules.max_length);
    let truncated = length > max_length;
    if truncated {
        match rules.truncation {
            Truncation::KeepStart => {
                sequence.ids.truncate(max_length);
                sequence.trained.truncate(max_length);
            }
            Truncation::KeepEnd => {
                sequence.ids.drain(..length - max_length);
                sequence.trained.drain(..length - max_length);
            }
            Truncation::Skip | Truncation::Error => return Err(Unfit::TooLong { length, max_length }),
        }
    }
    if let Some(first) = sequence.trained.first_mut() {
        *first = false;
    }
    match (sequence.trained_tokens(), truncated) {
        (0, true) => Err(Unfit::CutAway { length, max_length }),
        (0, false) => Err(Unfit::NoTrainedToken),
        _ => Ok(Tokenized { sequence, truncated }),
    }
}

/// Returns whether a row that cannot be trained on is skipped; otherwise it is an error.
fn leaves_out(rules: Rules, unfit: Unfit) -> bool {
    match unfit {
        Unfit::TooLong { .. } => rules.truncation == Truncation::Skip,
        _ => rules.unusable == Unusable::Skip,
    }
}

/// Passes the sequences of all rows of `files` to `keep`, in order. `progress` receives the number of bytes done.
///
/// # Errors
/// Returns the error of the first invalid file or row, or the error of `keep`.
pub fn files(
    files: &[PathBuf],
    rules: Rules,
    tokenizer: &Tokenizer,
    progress: &mut dyn FnMut(u64),
    keep: &mut dyn FnMut(&MaskedSequence) -> Result<(), CorpusError>,
) -> Result<Report, CorpusError> {
    let (mut report, mut before) = (Report::default(), 0);
    for path in files {
        let mut rows = raw::open(path)?;
        loop {
            let chunk = next_chunk(&mut rows)?;
            let Some(last) = chunk.last() else { break };
            let done = before + last.read;
            let tokenized: Vec<_> = chunk.par_iter().map(|raw| row(raw, path, rules, tokenizer)).collect();
            for (raw, row) in chunk.iter().zip(tokenized) {
                report.rows += 1;
                match row? {
                    Ok(row) => {
                        keep(&row.sequence)?;
                        report.keep(&row);
                    }
                    Err(unfit) if leaves_out(rules, unfit) => report.skipped.add(unfit),
                    Err(unfit) => return Err(CorpusError::Unusable { path: path.clone(), place: raw.place, unfit }),
                }
            }
            progress(done);
        }
        before += std::fs::metadata(path).map_or(0, |m| m.len());
    }
    Ok(report)
}

/// Returns the next rows, up to about [`CHUNK`] bytes and at least one row; empty at the end.
fn next_chunk(rows: &mut crate::raw_row::RawRows) -> Result<Vec<RawRow>, CorpusError> {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    while bytes < CHUNK {
        let Some(row) = rows.next().transpose()? else { break };
        bytes += row.json.len();
        chunk.push(row);
    }
    Ok(chunk)
}
