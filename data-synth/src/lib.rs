//! From interactions to training rows: importers, signal scoring, pruning, synthesis, and the built-in world.
//!
//! For any data:
//! - [`importer`]: a user's JSONL files, checked;
//! - [`signal`]: how decidable each choice is, by a judge with and without knowledge of the person;
//! - [`rl_rows`]: pruning to hard-but-solvable targets, RL rows in the published format;
//! - [`synthesis`]: generate → verify → merge → re-test with a teacher, SFT rows in the published format.
//!
//! The built-in world, a population whose truth is known:
//! - [`lexicon`], [`render`]: its words, and items as text;
//! - [`person`], [`world`]: latent taste, and lives with histories, later choices and oracle summaries;
//! - [`summary`], [`tally`]: what is said about a person, and the evidence for it;
//! - [`teacher`], [`ideal`]: programs that stand where a large teacher and a perfect judge would;
//! - [`judge_rows`], [`policy_rows`], [`curriculum`]: training rows for small judges and policies, easy ones first;
//! - [`reading`]: how well a policy reads histories.
//!
//! A judge reaches this crate as a function from questions to probabilities ([`signal::Verify`]), a teacher as a
//! [`chat::Completer`]; nothing here knows libtorch.

pub mod curriculum;
pub mod ideal;
pub mod importer;
pub mod judge_rows;
pub mod lexicon;
pub mod person;
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
pub mod world;
