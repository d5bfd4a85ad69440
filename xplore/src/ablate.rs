//! Ablations: trains the variants of a run with several seeds, evaluates them with held-out judges, and compares them.
//!
//! - [`plan`]: the runs of a configuration.
//! - [`state`]: what an earlier invocation has finished.
//! - [`runner`]: the processes that train and evaluate.
//! - [`results`]: what the runs left; [`report`]: tables, sentences, Markdown and HTML.
//! - [`slurm`]: the batch script of an array job.
//!
//! Each run is a process of its own, `xplore rl` and then `xplore eval`, so that the end of one does not end the others. Several
//! invocations may share an ablation, on one machine or on several with a shared file system: a run is locked by its process.

pub mod plan;
pub mod report;
pub mod results;
pub mod runner;
pub mod slurm;
pub mod state;

pub use plan::{AblatePlan, PlannedRun};
pub use runner::{Failure, Launch};
