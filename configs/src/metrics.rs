//! Metrics that are logged at each step.

use serde::{Deserialize, Serialize};

use crate::check::{CheckResult, not_negative};

/// Metrics of each step, in addition to metrics.jsonl, which is always written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// Whether the same metrics are written for TensorBoard. Default: true.
    pub tensorboard: bool,
    /// Peak throughput of the device in TFLOP/s, the denominator of the model FLOPs utilization (MFU). 0 (the default): the
    /// manufacturer's figure for a known GPU; on a CPU, the throughput of a large matrix product, measured at the start of the run.
    pub peak_tflops: f64,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { tensorboard: true, peak_tflops: 0.0 }
    }
}

impl MetricsConfig {
    pub(crate) fn check(&self) -> CheckResult {
        not_negative("peak_tflops", self.peak_tflops)
    }
}
