//! The subcommands, one file each.

pub mod certify;
mod checkpoints;
pub mod config;
mod data_free_plan;
pub mod eval;
pub mod export;
pub mod generate;
pub mod input;
pub mod judge;
pub mod launch;
pub mod model;
pub mod prompts;
pub mod questions;
pub mod quickstart;
pub mod replay;
pub mod report;
pub mod reward;
pub mod rl;
mod rl_plan;
pub mod score;
pub mod serve;
pub mod sft;
mod sft_plan;
pub mod stats;
pub mod summarize;
mod wording;
