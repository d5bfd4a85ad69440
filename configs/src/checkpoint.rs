//! When checkpoints are written.

use serde::{Deserialize, Serialize};

use crate::check::{Verdict, at_least};

/// A number by which checkpoints are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Best {
    /// The least loss on validation rows.
    #[serde(rename = "validation/loss")]
    Loss,
    /// The highest accuracy of the judge with the model's summaries.
    #[serde(rename = "validation/accuracy")]
    Accuracy,
}

impl Best {
    /// Its name in metrics.jsonl.
    pub fn key(self) -> &'static str {
        match self {
            Self::Loss => "validation/loss",
            Self::Accuracy => "validation/accuracy",
        }
    }
}

/// Checkpoints on the way. The last step is always written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Steps between checkpoints; 0 writes only the last. Default: 0 (SFT), 30 (RL, published).
    pub every: usize,
    /// How many of the newest are kept; at least 1. Default: 2.
    pub keep_last: usize,
    /// Of steps that are multiples of this, checkpoints are kept for good; 0 keeps none. Default: 0.
    pub keep_every: usize,
    /// The checkpoint with the best of this number is kept too, and `checkpoints/best` leads to it; one is written
    /// wherever the number improves. Absent (the default): none.
    pub best: Option<Best>,
    /// Whether the last step leaves a checkpoint; without, a run that is only to be measured writes no weights. Default: true.
    pub at_end: bool,
    /// Whether checkpoints hold what `--resume` needs beside the weights: the optimizer's state. Default: true.
    pub state: bool,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every: 0, keep_last: 2, keep_every: 0, best: None, at_end: true, state: true }
    }
}

impl CheckpointConfig {
    pub(crate) fn check(&self) -> Verdict {
        at_least("keep_last", self.keep_last, 1)
    }
}
