//! Trains preference reasoning models: language models that read a user's interactions and write a natural-language summary of the
//! user's preferences.
//!
//! - [`runtime`]: threads, device, ranks and stop flag of a process.
//! - [`sft`], [`grpo`]: training from a configuration.
//! - [`eval`]: evaluation on held-out users with several judges.
//! - [`generate`]: loading of models, generation of summaries.
//! - [`model_paths`]: models that a configuration names by the run that trained them.
//! - [`certify`]: what runs share with the published recipe, and hashes of their files.
//! - [`quickstart`]: the full pipeline on the built-in world.
//! - [`protocols`]: the rules of training and evaluation, applied to JSON lines without a model.
//! - [`parts`]: construction of the components that a configuration names: prompts, rows, judges, rewards.
//! - [`wording`]: the prompt sets of a run, and whether its models were trained on them.
//!
//! This crate does not print: a [`Reporter`] receives progress and warnings. See `examples/` for complete programs.

pub mod certify;
pub mod error;
pub mod eval;
pub mod generate;
pub mod grpo;
pub mod model_paths;
pub mod parts;
pub mod protocols;
pub mod quickstart;
pub mod reporter;
pub mod run_start;
pub mod runtime;
pub mod sft;
pub mod validation;
pub mod wording;

pub use configs;
pub use error::{Error, ErrorKind};
pub use reporter::{Reporter, Silent, Task};
pub use rewards::{Registry, RewardBatch, RewardError, RewardTerm};
