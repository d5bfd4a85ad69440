//! The effects of the config keys of `xplore sft`, observed in metrics.jsonl or in the other files of a run.

mod adapter;
mod checkpoints;
mod fixture;
#[path = "../harness/mod.rs"]
mod harness;
mod logging;
mod measuring;
mod optimizer;
#[path = "../rows/mod.rs"]
mod rows;
#[path = "../tiny/mod.rs"]
mod tiny;
mod train;
