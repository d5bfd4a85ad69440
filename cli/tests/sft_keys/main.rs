//! What the keys of `xplore sft` do: each is seen in metrics.jsonl or in the files that a run leaves.

mod adapter;
mod bench;
mod checkpoints;
#[path = "../fitting/mod.rs"]
mod fitting;
mod measuring;
mod optimizer;
#[path = "../rows/mod.rs"]
mod rows;
#[path = "../tiny/mod.rs"]
mod tiny;
mod train;
#[path = "../../../scripts/witness/ask.rs"]
mod witness;
