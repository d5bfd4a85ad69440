//! From files of rows to token sequences with trained positions.
//!
//! - [`source`]: which files a path of the configuration stands for.
//! - [`raw`], [`rows`]: rows of JSON lines, JSON arrays and Parquet, one by one, and what they say.
//! - [`mask`]: a row to its tokens, and which of them are trained.
//! - [`tokenize`]: all rows of some files, in parallel, in their order.
//! - [`cache`]: the tokens on disk, found again by what they were made from, and read row by row.
//! - [`mix`]: several sets as one, the order of each epoch, and rows held out for validation.
//! - [`batches`]: the rows of each update, and of each pass of it.
//! - [`people`]: rows of reinforcement learning, which stay text.
//! - [`preview`]: rows as the model will see them, for people.
//!
//! Memory does not grow with the files, but for 12 bytes a row and the order of an epoch. Nothing here knows libtorch.

pub mod batches;
pub mod cache;
pub mod error;
mod json_array;
pub mod mask;
pub mod mix;
mod open;
mod parquet;
mod people;
pub mod preview;
pub mod raw;
pub mod rows;
pub mod source;
mod texts;
pub mod tokenize;

pub use batches::{Batch, Plan, pack, plan};
pub use cache::TokenFile;
pub use error::CorpusError;
pub use mask::{Sequence, Unfit};
pub use mix::{Mixture, RowId};
pub use open::{Corpus, CorpusReport, open};
pub use people::people;
pub use preview::preview;
pub use rows::Row;
pub use texts::texts;
pub use tokenize::{Report, Rules};
