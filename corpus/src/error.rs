//! Errors of loading a corpus.

use std::path::PathBuf;

use crate::mask::Unfit;
use crate::raw_row::RowLocation;

/// The error of loading a corpus.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// A dataset that is not available.
    #[error(transparent)]
    Source(#[from] hub::HubError),
    /// A data file of an unknown format.
    #[error("{}: unknown file type; expected .jsonl, .ndjson, .json or .parquet", path.display())]
    Kind {
        /// The path of the file.
        path: PathBuf,
    },
    /// A file or folder that cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// "read" or "write".
        action: &'static str,
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A row in none of the known formats.
    #[error("{}, {place}: {message}; fix or remove this row", path.display())]
    Row {
        /// The path of the file.
        path: PathBuf,
        /// The location of the row.
        place: RowLocation,
        /// The field, what is wrong with it, and what was expected.
        message: String,
    },
    /// A row that cannot be trained on.
    #[error("{}, {place}: {unfit}", path.display())]
    Unusable {
        /// The path of the file.
        path: PathBuf,
        /// The location of the row.
        place: RowLocation,
        /// The reason, and the fix.
        unfit: Unfit,
    },
    /// A row of users that cannot be used.
    #[error(
        "{}, {place}: {message}; fix or remove this row, or skip such rows with data.unusable = \"skip\"",
        path.display()
    )]
    UnusableUser {
        /// The path of the file.
        path: PathBuf,
        /// The location of the row.
        place: RowLocation,
        /// The field, what is wrong with it, and what was expected.
        message: String,
    },
    /// Files of users of which no row can be used.
    #[error("{name}: none of its {read} rows can be used, so nothing is left with data.unusable = \"skip\"; {first}")]
    NoUsableUser {
        /// The dataset, as the configuration names it.
        name: String,
        /// The number of rows read.
        read: usize,
        /// The location of the first row, and what is wrong with it.
        first: String,
    },
    /// A row that the tokenizer or the chat template rejects.
    #[error("{}, {place}: {source}", path.display())]
    Tokenizer {
        /// The path of the file.
        path: PathBuf,
        /// The location of the row.
        place: RowLocation,
        /// The error of the tokenizer.
        source: chat::tokenizer::TokenizerError,
    },
    /// An error of the tokenizer that no single row causes.
    #[error(transparent)]
    Library(#[from] chat::tokenizer::TokenizerError),
    /// Files without a row to train on.
    #[error(
        "{name} has no rows to train on ({read} read); check its rows (SFT: xplore sft --preview) or use other files"
    )]
    Empty {
        /// The dataset, as the configuration names it.
        name: String,
        /// The number of rows read, all of which were skipped.
        read: u64,
    },
    /// A share of validation rows that leaves the training split, one of its sets, or the validation split empty.
    #[error(
        "data.validation_share = {share} holds out {held_out} of {rows} rows; expected at least one row for training \
         and one for validation: change the share, or set data.validation to a file"
    )]
    Share {
        /// The configured share.
        share: f64,
        /// The number of rows held out.
        held_out: u64,
        /// The total number of rows.
        rows: u64,
    },
}
