//! What is written down of each step.

use serde::{Deserialize, Serialize};

use crate::check::{Verdict, not_negative};

/// Numbers of each step, beside metrics.jsonl, which is always written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// Whether the same numbers are written for TensorBoard. Default: true.
    pub tensorboard: bool,
    /// What the device could do at best, TFLOP/s, against which the model FLOP utilisation (MFU) counts. 0 (the default):
    /// the maker's figure of a GPU that is known, on a CPU what a large product reaches at the run's start.
    pub peak_tflops: f64,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { tensorboard: true, peak_tflops: 0.0 }
    }
}

impl MetricsConfig {
    pub(crate) fn check(&self) -> Verdict {
        not_negative("peak_tflops", self.peak_tflops)
    }
}
