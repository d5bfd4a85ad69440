//! What can be wrong with a corpus.

use std::path::PathBuf;

use crate::mask::Unfit;
use crate::raw::Place;

/// Why there is no corpus.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// A data set that is not to be had.
    #[error(transparent)]
    Source(#[from] hub::HubError),
    /// A file of data of an unknown kind.
    #[error("{}: expected a file of rows: .jsonl, .ndjson, .json or .parquet", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
    },
    /// A file or folder.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// "read" or "write".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A row that is not one of the known forms.
    #[error("{}, {place}: {message}; mend that row or remove it", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The row.
        place: Place,
        /// The field, what is wrong with it and what was expected.
        message: String,
    },
    /// A row that cannot be trained on.
    #[error("{}, {place}: {unfit}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The row.
        place: Place,
        /// Why, and what to do.
        unfit: Unfit,
    },
    /// A row that the tokenizer or the chat template refuses.
    #[error("{}, {place}: {source}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// The row.
        place: Place,
        /// What it said.
        source: chat::tokenizer::TokenizerError,
    },
    /// The tokenizer as a whole.
    #[error(transparent)]
    Library(#[from] chat::tokenizer::TokenizerError),
    /// Files without a row to train on.
    #[error("{name} has no rows to train on ({read} read); look at them with a preview, or name other files")]
    Empty {
        /// The set, as it was named.
        name: String,
        /// Rows read, all of which were left out.
        read: u64,
    },
    /// A share of validation rows that leaves one of the two parts empty.
    #[error(
        "data.validation_share = {share} holds {held_out} of {rows} rows out; expected at least one held out and one \
         left: change the share, or name a file in data.validation"
    )]
    Share {
        /// The share.
        share: f64,
        /// Rows held out.
        held_out: u64,
        /// All rows.
        rows: u64,
    },
}
