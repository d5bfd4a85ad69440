//! Exports the training sets: SFT and RL rows as JSON lines and Parquet, split by user into training and validation, users to
//! evaluate, and a dataset card in the form of the Hugging Face hub.

mod card;
mod eval_users;
mod rows;
mod schema;
mod table;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use chat::jsonl::{self, JsonlError};
use chat::{Draw, RlRow, SftRow};
use configs::synth::ExportConfig;
use parquet::errors::ParquetError;

use crate::any_row::AnyRowError;
use crate::teach::record::TaughtUser;
use rows::{SetWriter, all_files, fingerprint, remove_stale};

/// The name of the dataset card in the folder of the export.
pub const CARD: &str = "README.md";

/// What made a file of the pipeline: a step, with the configuration that it ran with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The name of the step.
    pub step: String,
    /// The hash of its configuration, inputs and outputs.
    pub stamp: String,
    /// Its configuration as TOML.
    pub text: String,
    /// The names and SHA-256 hashes of the files that it read.
    pub inputs: Vec<(String, String)>,
}

/// A model that a step used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedModel {
    /// The role: scorer, teacher, verifier or policy.
    pub role: String,
    /// The path, the hub id or the name at its endpoint.
    pub name: String,
}

/// The files to export, and what the card says about them.
#[derive(Clone, Copy, Debug)]
pub struct ExportJob<'a> {
    /// SFT rows (`teach/sft.jsonl`).
    pub sft: Option<&'a Path>,
    /// The users of the SFT rows (`teach/users.jsonl`). Without it, rows with the same prompt count as one user.
    pub taught: Option<&'a Path>,
    /// RL rows (`prune/rl.jsonl`).
    pub rl: Option<&'a Path>,
    /// Users of the test set (`import/test.jsonl`).
    pub test: Option<&'a Path>,
    /// The folder to write to.
    pub folder: &'a Path,
    /// The section `[export]`.
    pub config: &'a ExportConfig,
    /// The seed of the split.
    pub seed: u64,
    /// The name of the pipeline.
    pub name: &'a str,
    /// The steps that made the rows.
    pub provenance: &'a [Provenance],
    /// The models that the steps used.
    pub models: &'a [UsedModel],
}

/// A part of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Split {
    /// Rows to train on.
    Train,
    /// Rows held out for validation.
    Validation,
}

impl Split {
    /// Both splits.
    pub const ALL: [Self; 2] = [Self::Train, Self::Validation];

    /// Returns the name of the split, which is also that of its files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
        }
    }
}

/// The size of an exported split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SplitSize {
    /// The number of rows.
    pub rows: usize,
    /// The number of users.
    pub users: usize,
    /// The size of its files in bytes: of the Parquet file if there is one, else of the JSON lines.
    pub bytes: u64,
}

/// What was exported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportReport {
    /// The splits of the SFT rows; empty without SFT rows.
    pub sft: BTreeMap<Split, SplitSize>,
    /// The splits of the RL rows; empty without RL rows.
    pub rl: BTreeMap<Split, SplitSize>,
    /// The number of users to evaluate.
    pub eval_users: usize,
    /// The number of test users left out, because their last choices have no rejected item or nothing precedes them.
    pub eval_left_out: usize,
    /// Whether the users of the SFT rows are known.
    pub sft_users_known: bool,
    /// Whether RL rows have histories of messages.
    pub messages: bool,
}

/// The error of an export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A file of rows that cannot be read, or a malformed row.
    #[error(transparent)]
    Rows(#[from] JsonlError),
    /// A file of another format that cannot be read, or a malformed row in it.
    #[error(transparent)]
    Row(#[from] AnyRowError),
    /// No rows were given.
    #[error("{}: nothing to export; run xplore synth prune or xplore synth teach first, or pass --input", folder.display())]
    Nothing {
        /// The folder of the export.
        folder: PathBuf,
    },
    /// The users' file and the SFT rows do not belong together.
    #[error(
        "{} has {rows} rows, but {} counts {counted}; run xplore synth teach again, so that both are of one run",
        sft.display(), taught.display()
    )]
    Counts {
        /// The file of SFT rows.
        sft: PathBuf,
        /// The file of their users.
        taught: PathBuf,
        /// The number of SFT rows.
        rows: usize,
        /// The number of rows that the users' file counts.
        counted: usize,
    },
    /// Nothing is left to train on.
    #[error(
        "{}: export.validation_share = {share} holds out all {users} users; expected at least one user for training: lower it",
        path.display()
    )]
    Share {
        /// The file of rows.
        path: PathBuf,
        /// The configured share.
        share: f64,
        /// The number of users.
        users: usize,
    },
    /// A file that cannot be written.
    #[error("cannot write {}: {source}; free disk space or fix permissions, and run the step again", path.display())]
    Write {
        /// The path of the file.
        path: PathBuf,
        /// The underlying error.
        source: io::Error,
    },
    /// The Parquet library rejects the rows.
    #[error("cannot write {} as Parquet: {source}; leave parquet out of export.formats", path.display())]
    Parquet {
        /// The path of the file.
        path: PathBuf,
        /// The underlying error.
        source: ParquetError,
    },
}

/// Writes `{sft,rl}/{train,validation}.{jsonl,parquet}`, `eval/users.jsonl` and the card to the folder of the job.
///
/// A user is in one split only, the same one in both sets: it depends on the seed and the user's id alone. A split without users has
/// no file. Files of an earlier export that this one does not write are removed.
///
/// # Errors
/// Returns [`ExportError`] if a file cannot be read or written, a row is malformed, or the share holds out every user.
pub fn export(job: &ExportJob<'_>) -> Result<ExportReport, ExportError> {
    if job.sft.is_none() && job.rl.is_none() {
        return Err(ExportError::Nothing { folder: job.folder.into() });
    }
    let (eval, card) = (job.folder.join("eval/users.jsonl"), job.folder.join(CARD));
    let sets = ["sft", "rl"].into_iter().flat_map(|set| all_files(job.folder, set));
    // Files that a killed export left may be large, and the folder is made to be uploaded.
    sets.chain([eval.clone(), card.clone()]).for_each(|path| files::remove_partial(&path));
    let mut report = ExportReport { sft_users_known: job.taught.is_some(), ..ExportReport::default() };
    match job.sft {
        Some(path) => report.sft = sft(job, path)?,
        None => remove_set(job, "sft")?,
    }
    match job.rl {
        Some(path) => (report.rl, report.messages) = rl(job, path)?,
        None => remove_set(job, "rl")?,
    }
    match job.test.filter(|_| job.config.eval_targets > 0) {
        Some(test) => {
            (report.eval_users, report.eval_left_out) = eval_users::write(test, &eval, job.config.eval_targets)?;
        }
        None => remove_stale(&eval)?,
    }
    let text = card::text(job, &report);
    files::replace(&card, |out| out.write_all(text.as_bytes())).map_err(|source| write_error(&card, source))?;
    Ok(report)
}

/// Removes a set of an earlier export.
fn remove_set(job: &ExportJob<'_>, name: &str) -> Result<(), ExportError> {
    all_files(job.folder, name).iter().try_for_each(|path| remove_stale(path))
}

/// The sizes of the splits of a set.
type Sizes = BTreeMap<Split, SplitSize>;

/// Writes the RL rows; returns also whether some have histories of messages.
fn rl(job: &ExportJob<'_>, path: &Path) -> Result<(Sizes, bool), ExportError> {
    let (mut set, mut messages) = (SetWriter::new(job, "rl", schema::RL), false);
    for row in rows::read::<RlRow>(path)? {
        let row = row?;
        messages |= !row.messages.is_empty();
        set.push(&row.uid, &row)?;
    }
    Ok((set.finish(path)?, messages))
}

/// Writes the SFT rows: a row belongs to its user in the users' file, or without one to those with the same prompt.
fn sft(job: &ExportJob<'_>, path: &Path) -> Result<Sizes, ExportError> {
    let mut set = SetWriter::new(job, "sft", schema::SFT);
    let mut rows = rows::read::<SftRow>(path)?;
    let Some(taught) = job.taught else {
        for row in rows {
            let row = row?;
            set.push(&fingerprint(&row), &row)?;
        }
        return set.finish(path);
    };
    let of_rows = |user: Result<(usize, TaughtUser), JsonlError>| -> Vec<Result<String, JsonlError>> {
        match user {
            Ok((_, user)) => (0..user.rows).map(|_| Ok(user.uid.clone())).collect(),
            Err(error) => vec![Err(error)],
        }
    };
    let mut users = jsonl::stream::<TaughtUser>(taught)?.flat_map(of_rows);
    let mut both = 0;
    loop {
        match (rows.next().transpose()?, users.next().transpose()?) {
            (Some(row), Some(user)) => set.push(&user, &row)?,
            (None, None) => return set.finish(path),
            (row, user) => {
                let rows = both + usize::from(row.is_some()) + count(rows)?;
                let counted = both + usize::from(user.is_some()) + count(users)?;
                return Err(ExportError::Counts { sft: path.into(), taught: taught.into(), rows, counted });
            }
        }
        both += 1;
    }
}

/// Returns the number of items up to the end.
fn count<T, E>(mut items: impl Iterator<Item = Result<T, E>>) -> Result<usize, E> {
    items.try_fold(0, |count, item| item.map(|_| count + 1))
}

/// Returns the split of a user.
pub fn split_of(uid: &str, seed: u64, validation_share: f64) -> Split {
    // The upper 53 bits of the draw, as a number from 0 to 1.
    let drawn = (Draw::new(seed).text("validation").text(uid).bits() >> 11) as f64 / (1u64 << 53) as f64;
    if drawn < validation_share { Split::Validation } else { Split::Train }
}

fn write_error(path: &Path, source: io::Error) -> ExportError {
    ExportError::Write { path: path.into(), source }
}

#[cfg(test)]
mod tests;
