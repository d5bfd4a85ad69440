//! Turns data files into token sequences with loss masks.
//!
//! - [`source`]: resolves a path of the configuration to files.
//! - [`raw`], [`rows`]: rows of JSON lines, JSON arrays and Parquet, read one at a time, and their formats.
//! - [`mask`]: the tokens of a row, and which of them are trained.
//! - [`tokenize`]: tokenizes all rows of a list of files, in parallel, keeping their order.
//! - [`tokenized_cache`]: tokens on disk, keyed by a hash of their inputs, and read row by row.
//! - [`mix`]: mixes several datasets, orders each epoch, and holds out rows for validation.
//! - [`batches`]: the rows of each update, and of each of its micro-batches.
//! - [`users()`]: rows for reinforcement learning, which stay text.
//! - [`mod@preview`]: rows as the model will see them, for display.
//!
//! Memory does not grow with the size of the files, except for 12 bytes per row and the order of an epoch. This crate
//! does not depend on libtorch.

pub mod batches;
pub mod error;
mod json_array;
pub mod mask;
pub mod mix;
mod open;
mod parquet;
pub mod preview;
pub mod raw;
mod raw_row;
pub mod rows;
pub mod source;
mod texts;
pub mod tokenize;
pub mod tokenized_cache;
mod users;

pub use batches::{Batch, BatchPlan, pack, plan};
pub use error::CorpusError;
pub use mask::{MaskedSequence, Unfit};
pub use mix::{Mixture, RowId};
pub use open::{Corpus, CorpusReport, open};
pub use preview::preview;
pub use raw_row::{RawRow, RawRows, RowLocation};
pub use rows::Row;
pub use texts::texts;
pub use tokenize::{Report, Rules};
pub use tokenized_cache::TokenFile;
pub use users::{Users, users};
