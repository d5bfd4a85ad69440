//! Distributed training of one model.

use serde::{Deserialize, Serialize};

use crate::check::{CheckResult, ensure};

/// The part of a model's state that each rank holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharding {
    /// DDP: every rank holds the full state; gradients are all-reduced.
    #[default]
    Replicate,
    /// ZeRO-2: every rank holds all parameters and a shard of the gradients, moments, and master weights.
    Optimizer,
    /// FSDP (ZeRO-3): every rank holds a shard of everything; layers are unsharded while they are used.
    Full,
}

/// Settings of multi-process runs, as `xplore launch`, torchrun, or Slurm start them. A single process ignores them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ParallelConfig {
    /// The part of the state that each rank holds. Changes memory and speed, not the result. Adapters (`[lora]`) are always
    /// replicated; with them, `full` shards the frozen base weights. Default: replicate.
    pub sharding: Sharding,
    /// Number of consecutive ranks (those of a node) over which `full` shards; each such group holds the full state (HSDP). 0 (the
    /// default): all ranks.
    pub hsdp_shard_size: usize,
    /// Timeout of a collective in seconds. If a collective exceeds it, a rank is gone or stuck and the job ends. It must cover the
    /// differences in generation and judging time between ranks. Default: 1800.
    pub timeout_seconds: f64,
}

impl Default for ParallelConfig {
    fn default() -> Self {
        Self { sharding: Sharding::Replicate, hsdp_shard_size: 0, timeout_seconds: 1800.0 }
    }
}

impl ParallelConfig {
    pub(crate) fn check(&self) -> CheckResult {
        let used = self.hsdp_shard_size == 0 || self.sharding == Sharding::Full;
        ensure(used, "hsdp_shard_size", self.hsdp_shard_size, "0, or sharding = \"full\" to use it")?;
        let seconds = self.timeout_seconds;
        ensure(seconds > 0.0 && seconds <= 86_400.0, "timeout_seconds", seconds, "above 0, at most 86400 (one day)")
    }
}
