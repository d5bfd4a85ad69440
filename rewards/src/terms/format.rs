//! Reward term `format`.

use serde::Deserialize;

use crate::batch::RewardBatch;
use crate::error::RewardError;
use crate::terms::RewardTerm;

/// 1 for a response that passes the format gate, 0 otherwise.
///
/// Range: 0 or 1. A malformed response gets 0; an empty summary gets 1 if the gate accepts it. Source: the format reward of
/// DeepSeek-R1 (arXiv 2501.12948).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Format {}

impl RewardTerm for Format {
    fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError> {
        Ok(batch.responses.iter().map(|r| if r.well_formed { 1.0 } else { 0.0 }).collect())
    }

    fn range(&self) -> (f64, f64) {
        (1.0, 1.0)
    }
}
