//! Trains preference reasoning models: language models that read a user's interactions and write a natural-language summary of the
//! user's preferences.
//!
//! - [`runtime`]: threads, device, ranks and stop flag of a process.
//! - [`sft`], [`grpo`]: training from a configuration.
//! - [`eval`]: evaluation on held-out users with several judges.
//! - [`judge_tools`]: calibration of judges, scores of given choices, panels; [`explain`]: what each sentence of a summary earns.
//! - [`generate`]: loading of models, generation of summaries.
//! - [`model_paths`]: models that a configuration names by the run that trained them.
//! - [`ablate`]: variants of a run, trained with several seeds, evaluated and compared.
//! - [`certify`]: what runs share with the published recipe, and hashes of their files.
//! - [`quickstart`]: the full pipeline on the built-in world.
//! - [`protocols`]: the rules of training and evaluation, applied to JSON lines without a model.
//! - [`panel`]: the judges of a run.
//! - [`parts`]: construction of the components that a configuration names: prompts, rows, judges, rewards.
//! - [`reward`]: rewards of recorded or given responses, without training.
//! - [`reward_checks`]: the judges that reward terms ask, and terms that cannot have an effect.
//! - [`synth`]: training rows from raw interaction logs, as a resumable pipeline.
//! - [`wording`]: the prompt sets of a run, and whether its models were trained on them.
//!
//! This crate does not print: a [`Reporter`] receives progress and warnings. See `examples/` for complete programs.

pub mod ablate;
pub mod certify;
pub mod error;
pub mod eval;
pub mod explain;
pub mod generate;
pub mod grpo;
pub mod judge_tools;
pub mod model_paths;
pub mod panel;
pub mod parts;
pub mod protocols;
pub mod quickstart;
pub mod reporter;
pub mod reward;
pub mod reward_checks;
pub mod run_start;
pub mod runtime;
pub mod sft;
pub mod synth;
pub mod validation;
pub mod wording;

pub use configs;
pub use error::{Error, ErrorKind};
pub use reporter::{Reporter, Silent, Task};
pub use rewards::{
    JudgeQuery, JudgeRequest, PanelRequest, Registry, RewardBatch, RewardError, RewardResponse, RewardTerm, TermInput,
};
