//! Training of one model on several ranks: sharding and collectives.
//!
//! Every rank makes the same decisions from the same inputs: it samples the same rows and users, sees every rollout, and
//! computes the advantages and losses of all of them. The expensive work is divided: generation, judging, and forward and
//! backward passes. Sampling therefore does not depend on the number of ranks, and every normalization counts the tokens of the
//! whole batch.
//!
//! - [`context`]: the ranks, their process groups, and how work is divided.
//! - [`shards`]: the elements of a model that a rank holds.
//! - [`split`]: division of rows into micro-batches over ranks.
//! - [`sharded_params`], [`sharded_gradients`]: param units that are unsharded for their use.
//! - [`memory_report`]: the memory of each rank.

pub mod context;
pub mod memory_report;
pub mod sharded_gradients;
pub mod sharded_params;
pub mod shards;
pub mod split;

pub use context::ParallelContext;
