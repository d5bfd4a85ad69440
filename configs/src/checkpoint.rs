//! When checkpoints are written and which of them are kept.

use serde::{Deserialize, Serialize};

use crate::check::{CheckResult, at_least};

/// The metric by which checkpoints are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Best {
    /// The minimum loss on validation rows.
    #[serde(rename = "validation/loss")]
    Loss,
    /// The maximum accuracy of the judge with the model's summaries.
    #[serde(rename = "validation/accuracy")]
    Accuracy,
}

impl Best {
    /// Returns the name of the metric in metrics.jsonl.
    pub fn key(self) -> &'static str {
        match self {
            Self::Loss => "validation/loss",
            Self::Accuracy => "validation/accuracy",
        }
    }
}

/// When checkpoints are written during a run. The last step always writes one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Number of steps between checkpoints; 0 writes only the last. Default: 0 (SFT), 30 (RL, published).
    pub every: usize,
    /// Whether the last step of each epoch writes a checkpoint too, as published; SFT only. Default: false.
    pub every_epoch: bool,
    /// Number of most recent checkpoints to keep; at least 1. Default: 2.
    pub keep_last: usize,
    /// Checkpoints of steps that are multiples of this value are kept permanently; 0 keeps none. Default: 0.
    pub keep_every: usize,
    /// The metric whose best checkpoint is kept too. `checkpoints/best` points to that checkpoint, and one is written whenever the
    /// metric improves. Absent (the default): none.
    pub best: Option<Best>,
    /// Whether the last step writes a checkpoint. If false, a run that is only measured writes no weights. Default: true.
    pub at_end: bool,
    /// Whether checkpoints hold the optimizer state, which `--resume` needs in addition to the weights. Default: true.
    pub state: bool,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every: 0, every_epoch: false, keep_last: 2, keep_every: 0, best: None, at_end: true, state: true }
    }
}

impl CheckpointConfig {
    pub(crate) fn check(&self) -> CheckResult {
        at_least("keep_last", self.keep_last, 1)
    }
}
