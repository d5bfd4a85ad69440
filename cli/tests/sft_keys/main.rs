//! The effects of the config keys of `xplore sft`, observed in metrics.jsonl or in the other files of a run.

mod adapter;
mod checkpoints;
mod fixture;
mod logging;
mod measuring;
mod optimizer;
mod runs;
mod train;
