//! Supervised fine-tuning and GRPO.
//!
//! - [`start`]: selects the device, and loads or initializes a model.
//! - [`optimizer`], [`muon`], [`lr_schedule`]: updates of flat buffers, gradient clipping, the learning rate.
//! - [`trainable_model`]: the trained parameters of a model, its weights or adapters, and their gradients.
//! - [`run`], [`tensorboard`]: the folder of a run and its metrics.
//! - [`checkpoints`], [`resume`]: which checkpoints are kept, and how a run resumes from one.
//! - [`flops`], [`memory`], [`memory_plan`]: compute and memory of a step and of a run.
//! - [`parallel`]: training on several ranks.
//! - `train_loop`: restores, validates, logs and checkpoints, around the steps of the next two.
//! - [`sft`]: supervised fine-tuning, from rows to loss to steps.
//! - [`grpo`]: rollout, judge, credit, advantages, update.

pub mod checkpoints;
pub mod error;
pub mod flops;
pub mod grpo;
pub mod lr_schedule;
pub mod memory;
pub mod memory_plan;
pub mod metrics;
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
mod train_loop;
pub mod trainable_model;

pub use error::TrainError;
pub use parallel::ParallelContext;
pub use run::{Output, Run};
