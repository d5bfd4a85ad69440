//! Reward term `brevity`.

use serde::Deserialize;

use crate::batch::RewardBatch;
use crate::error::RewardError;
use crate::terms::RewardTerm;

/// 1 − tokens / limit: 1 for an empty response, 0 for a response that reaches its limit. Tokens include the reasoning.
///
/// Range: 0 to 1. A malformed response and one with an empty summary are scored by their length like any other. Source: the linear
/// length reward of Kimi k1.5 (arXiv 2501.12599), without its reference lengths.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Brevity {}

impl RewardTerm for Brevity {
    fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError> {
        Ok(batch.responses.iter().map(|r| (1.0 - r.tokens as f64 / r.token_limit.max(1) as f64).max(0.0)).collect())
    }
}
