//! The subcommands, one file each.

pub mod config;
pub mod eval;
pub mod export;
pub mod generate;
pub mod input;
pub mod launch;
pub mod model;
pub mod questions;
pub mod quickstart;
pub mod replay;
pub mod report;
pub mod rl;
mod rl_plan;
pub mod score;
pub mod serve;
pub mod sft;
mod sft_plan;
pub mod stats;
pub mod summarize;
