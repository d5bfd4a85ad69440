//! Supervised fine-tuning and GRPO.
//!
//! - [`start`]: selects the device, and loads or initializes a model.
//! - [`optimizer`], [`muon`], [`lr_schedule`]: updates of flat buffers, gradient clipping, the learning rate.
//! - [`trainable_model`]: the trained parameters of a model, its weights or adapters, and their gradients.
//! - [`run`], [`tensorboard`]: the folder of a run and its metrics.
//! - [`checkpoints`], [`resume`]: which checkpoints are kept, and how a run resumes from one.
//! - [`flops`], [`memory`]: compute and memory of a step.
//! - [`parallel`]: training on several ranks.
//! - [`sft`]: supervised fine-tuning, from rows to loss to steps.
//! - [`grpo`]: rollout, judge, credit, advantages, update.

pub mod checkpoints;
pub mod error;
pub mod flops;
pub mod grpo;
pub mod lr_schedule;
pub mod memory;
pub mod muon;
pub mod optimizer;
mod optimizer_file;
pub mod parallel;
pub mod resume;
pub mod run;
pub mod sft;
pub mod start;
pub mod tensorboard;
pub mod threads;
pub mod trainable_model;

pub use error::TrainError;
pub use parallel::ParallelContext;
pub use run::{Output, Run};
