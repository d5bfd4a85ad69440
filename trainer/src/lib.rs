//! Supervised fine-tuning and GRPO.
//!
//! - [`start`]: the device, an existing model or a new one.
//! - [`optimizer`]: AdamW over the flat buffers, clipping, the schedule.
//! - [`microbatch`]: cutting a global batch into packed passes by a token budget.
//! - [`run`]: the folder of a run, its metrics and its checkpoints.
//! - [`sft`]: rows → loss → steps.
//! - [`rl`]: roll out, judge, credit, advantages, update.

pub mod error;
pub mod microbatch;
pub mod optimizer;
pub mod rl;
pub mod run;
pub mod sft;
pub mod start;
pub mod trainee;

pub use error::TrainError;
pub use run::{Output, Run};
