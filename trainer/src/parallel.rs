//! Several processes that train one model: who holds what, and how it comes together.
//!
//! Every rank decides the same from the same numbers: it draws the same rows and people, sees every rollout, and works out
//! advantages and losses of all of them. What costs time is spread: generation, judging, and the passes through the model.
//! So no draw depends on how many ranks there are, and every normalisation counts the tokens of the whole batch.
//!
//! - [`team`]: the ranks, their groups, and how work is spread over them.
//! - [`shards`]: which numbers of a model a rank holds.
//! - [`split`]: rows into passes, over ranks.
//! - [`weights`], [`gradients`]: parts of a model that come together and go apart.
//! - [`held`]: what each rank holds.

pub mod gradients;
pub mod held;
pub mod shards;
pub mod split;
pub mod team;
pub mod weights;

pub use team::Team;
