//! Sampling of a model's responses.

use serde::{Deserialize, Serialize};

use crate::check::{CheckResult, at_least, ensure, not_negative};

/// Sampling parameters of a response. The defaults are those of the published evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingConfig {
    /// Sampling temperature, by which the logits are divided; 0 is greedy decoding. Default: 0.6.
    pub temperature: f64,
    /// Number of most likely tokens to sample from; 0 keeps all. Default: 20.
    pub top_k: usize,
    /// Nucleus sampling: keep the smallest set of tokens whose probabilities sum to at least this value; 1 keeps all.
    /// Default: 0.95.
    pub top_p: f64,
    /// Maximum response length in tokens. Default: 4096.
    pub max_new_tokens: usize,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self { temperature: 0.6, top_k: 20, top_p: 0.95, max_new_tokens: 4096 }
    }
}

impl SamplingConfig {
    pub(crate) fn check(&self) -> CheckResult {
        not_negative("temperature", self.temperature)?;
        check_top_p(self.top_p)?;
        at_least("max_new_tokens", self.max_new_tokens, 1)
    }
}

pub(crate) fn check_top_p(top_p: f64) -> CheckResult {
    ensure(top_p > 0.0 && top_p <= 1.0, "top_p", top_p, "a number above 0, at most 1")
}
