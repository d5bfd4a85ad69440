//! One file a subcommand.

pub mod config;
pub mod eval;
pub mod quickstart;
pub mod report;
pub mod rl;
pub mod sft;
pub mod summarize;
