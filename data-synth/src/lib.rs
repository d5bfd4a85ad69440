//! From interactions to training rows: importers, signal scoring, pruning, synthesis, and the built-in world.
//!
//! For any data:
//! - [`importer`]: loads and validates a user's JSONL files;
//! - [`signal`]: how decidable each choice is for a judge, with and without knowledge of the user;
//! - [`rl_rows`]: pruning to hard but solvable targets, and RL rows in the published format;
//! - [`synthesis`]: generate → verify → merge → re-test with a teacher, and SFT rows in the published format.
//!
//! The built-in world, a population with known preferences:
//! - [`lexicon`], [`render`]: its words, and items as text;
//! - [`user`], [`world`]: latent taste, and users with histories, later choices and oracle summaries;
//! - [`summary`], [`tally`]: summaries of a user, and the evidence for them;
//! - [`teacher`], [`ideal`]: programs that replace a large teacher and a perfect judge;
//! - [`judge_rows`], [`policy_rows`], [`curriculum`]: training rows for small judges and policies, easy ones first;
//! - [`reading`]: how accurately a policy reads histories.
//!
//! A judge is passed to this crate as a function from questions to probabilities ([`signal::Verify`]), a teacher as a
//! [`chat::Completer`]. This crate does not depend on libtorch.

pub mod curriculum;
pub mod ideal;
pub mod importer;
pub mod judge_rows;
pub mod lexicon;
pub mod policy_rows;
pub mod reading;
pub mod render;
pub mod rl_rows;
pub mod signal;
pub mod summary;
pub mod synthesis;
pub mod tally;
pub mod teacher;
#[cfg(test)]
mod testing;
pub mod user;
pub mod world;
mod world_params;
