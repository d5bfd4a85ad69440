//! How several processes train one model.

use serde::{Deserialize, Serialize};

use crate::check::{Verdict, ensure};

/// What of a model's state each rank holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharding {
    /// Everything; gradients are summed (DDP).
    #[default]
    Replicate,
    /// All parameters, but its share of gradients, moments and master weights (ZeRO-2).
    Optimizer,
    /// Its share of everything; layers come together while they are used (ZeRO-3, FSDP).
    Full,
}

/// Several processes, as `xplore launch`, torchrun or Slurm start them. One process has no use for any of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ParallelConfig {
    /// What each rank holds. Changes memory and speed, not the result. Adapters ([lora]) are always replicated; beside
    /// them `full` spreads the weights they stand on. Default: replicate.
    pub sharding: Sharding,
    /// With `full`: spread over so many neighbouring ranks only (those of a node), each such group holding everything
    /// (HSDP). 0 (the default): over all ranks.
    pub shard_within: usize,
    /// A collective that takes longer than so many seconds ends the job: some rank is gone or stuck. Generation and judging
    /// of different length lie within it. Default: 1800.
    pub timeout_seconds: f64,
}

impl Default for ParallelConfig {
    fn default() -> Self {
        Self { sharding: Sharding::Replicate, shard_within: 0, timeout_seconds: 1800.0 }
    }
}

impl ParallelConfig {
    pub(crate) fn check(&self) -> Verdict {
        let used = self.shard_within == 0 || self.sharding == Sharding::Full;
        ensure(used, "shard_within", self.shard_within, "0, or sharding = \"full\" beside it")?;
        let seconds = self.timeout_seconds;
        ensure(seconds > 0.0 && seconds <= 86_400.0, "timeout_seconds", seconds, "more than 0, at most 86400 (a day)")
    }
}
