//! Supervised fine-tuning and GRPO.
//!
//! - [`start`]: the device, an existing model or a new one.
//! - [`optimizer`]: AdamW over the flat buffers, clipping, the schedule.
//! - [`trainee`]: what of a model is trained, its weights or adapters, and where gradients go.
//! - [`run`], [`tensorboard`]: the folder of a run and its metrics.
//! - [`checkpoints`], [`resume`]: which checkpoints are kept, and how a run goes on from one.
//! - [`flops`], [`memory`]: what a step costs.
//! - [`parallel`]: several processes.
//! - [`sft`]: rows → loss → steps.
//! - [`rl`]: roll out, judge, credit, advantages, update.

pub mod checkpoints;
pub mod error;
pub mod flops;
pub mod memory;
pub mod muon;
pub mod optimizer;
mod optimizer_file;
pub mod parallel;
pub mod resume;
pub mod rl;
pub mod run;
pub mod sft;
pub mod start;
pub mod tensorboard;
pub mod threads;
pub mod trainee;

pub use error::TrainError;
pub use parallel::Team;
pub use run::{Output, Run};
