//! From interactions to training rows: importers, signal scoring, pruning, synthesis, and the built-in world.
//!
//! For any data:
//! - [`importer`]: loads and validates a user's JSONL files;
//! - [`signal`], [`scorer`]: how decidable each choice is, with and without knowledge of the user, for a judge or for a model that
//!   continues choices;
//! - [`mod@prune`], [`rl_rows`]: pruning to hard but solvable targets, and RL rows in the published format;
//! - [`synthesis`]: generate → verify → merge → re-test with a teacher, and SFT rows in the published format; [`teach`]: the same for
//!   a file of users, to be continued after an interruption;
//! - [`mod@export`]: training sets as JSON lines and Parquet, split by user, with a dataset card;
//! - [`mod@stats`], [`mod@inspect`], [`mod@audit`]: counts and histograms, single users, and problems of what was made; [`any_row`],
//!   [`histogram`]: what they share.
//!
//! The built-in world, a population with known preferences:
//! - [`lexicon`], [`render`]: its words, and items as text;
//! - [`user`], [`world`]: latent taste, and users with histories, later choices and oracle summaries;
//! - [`summary`], [`tally`]: summaries of a user, and the evidence for them;
//! - [`teacher`], [`ideal`]: programs that replace a large teacher and a perfect judge;
//! - [`judge_rows`], [`policy_rows`], [`curriculum`]: training rows for small judges and policies, easy ones first;
//! - [`reading`]: how accurately a policy reads histories;
//! - [`planted`]: choices that are known to be informative or not, to check a scorer;
//! - [`world_logs`]: choices as raw logs, for the offline example.
//!
//! A judge is passed to this crate as a function from questions to probabilities ([`signal::Verify`]), a teacher as a
//! [`chat::Completer`]. This crate does not depend on libtorch.

pub mod any_row;
pub mod audit;
pub mod curriculum;
pub mod export;
pub mod histogram;
pub mod ideal;
pub mod import;
pub mod importer;
pub mod inspect;
pub mod judge_rows;
pub mod lexicon;
pub mod planted;
pub mod policy_rows;
pub mod prune;
pub mod reading;
pub mod render;
pub mod rl_rows;
pub mod scorer;
pub mod signal;
pub mod stats;
pub mod summary;
pub mod synthesis;
pub mod tally;
pub mod teach;
pub mod teacher;
#[cfg(test)]
mod testing;
pub mod user;
pub mod world;
pub mod world_logs;
mod world_params;
