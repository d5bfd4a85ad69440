//! When checkpoints are written.

use serde::{Deserialize, Serialize};

use crate::check::{Verdict, at_least};

/// Checkpoints on the way. The last step is always written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Steps between checkpoints; 0 writes only the last. Default: 0 (SFT), 30 (RL, published).
    pub every: usize,
    /// How many of the newest are kept; at least 1. Default: 2.
    pub keep_last: usize,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every: 0, keep_last: 2 }
    }
}

impl CheckpointConfig {
    pub(crate) fn check(&self) -> Verdict {
        at_least("keep_last", self.keep_last, 1)
    }
}
