//! All rows of some files to sequences, in parallel and in order.

use std::path::{Path, PathBuf};

use chat::tokenizer::Tokenizer;
use configs::sft::{LossOn, SftData, Truncation, Unusable};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::mask::{MaskError, sequence};
use crate::raw::{self, RawRow};
use crate::{CorpusError, Row, Sequence, Unfit};

/// Bytes of rows that are tokenized together: enough to keep all cores busy, and all that is held of a file.
const CHUNK: usize = 8 << 20;

/// How rows become sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// Which tokens are trained.
    pub loss_on: LossOn,
    /// Longest sequence, in tokens.
    pub max_length: usize,
    /// What is done with longer ones.
    pub truncation: Truncation,
    /// What is done with rows that cannot be trained on.
    pub unusable: Unusable,
}

impl From<&SftData> for Rules {
    fn from(data: &SftData) -> Self {
        let SftData { loss_on, max_length, truncation, unusable, .. } = *data;
        Self { loss_on, max_length, truncation, unusable }
    }
}

/// Rows that were left out, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Longer than `max_length`.
    pub too_long: u64,
    /// No token to train on, or none left after the cut.
    pub no_trained_token: u64,
    /// The tokens of the prompt do not begin those of the whole.
    pub prompt_no_prefix: u64,
    /// The chat template does not render the turns one after another.
    pub turns_rewritten: u64,
    /// An index names no trainable token.
    pub bad_index: u64,
}

impl Skipped {
    /// All of them.
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

/// What became of the rows of a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Rows read.
    pub rows: u64,
    /// Rows that can be trained on.
    pub kept: u64,
    /// Of these, rows that were cut to `max_length`.
    pub truncated: u64,
    /// Rows that were left out.
    pub skipped: Skipped,
    /// Tokens of the rows kept.
    pub tokens: u64,
    /// Tokens trained in one pass.
    pub trained_tokens: u64,
    /// Tokens of the longest row kept.
    pub longest: u64,
    /// Whether all this was found in the cache.
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
    /// Its tokens.
    pub sequence: Sequence,
    /// Whether it was cut to `max_length`.
    pub truncated: bool,
}

/// A row of `path`, or why it is left out whatever [`Rules::unusable`] says.
///
/// # Errors
/// A row of no known form, or one that tokenizer or template refuse.
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

fn cut(mut sequence: Sequence, rules: Rules) -> Result<Tokenized, Unfit> {
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

/// Whether a row that cannot be trained on is left out, or else ends the run.
fn leaves_out(rules: Rules, unfit: Unfit) -> bool {
    match unfit {
        Unfit::TooLong { .. } => rules.truncation == Truncation::Skip,
        _ => rules.unusable == Unusable::Skip,
    }
}

/// Gives the sequences of all rows of `files` to `keep`, in order. `progress` is told how many bytes are done.
///
/// # Errors
/// The first file or row at fault, and what `keep` says.
pub fn files(
    files: &[PathBuf],
    rules: Rules,
    tokenizer: &Tokenizer,
    progress: &mut dyn FnMut(u64),
    keep: &mut dyn FnMut(&Sequence) -> Result<(), CorpusError>,
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

/// Rows of [`CHUNK`] bytes, or one that is longer; none at the end.
fn next_chunk(rows: &mut raw::RawRows) -> Result<Vec<RawRow>, CorpusError> {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    while bytes < CHUNK {
        let Some(row) = rows.next().transpose()? else { break };
        bytes += row.json.len();
        chunk.push(row);
    }
    Ok(chunk)
}
