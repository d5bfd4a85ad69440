//! Reward term `judge`.

use serde::Deserialize;

use crate::batch::RewardBatch;
use crate::error::RewardError;
use crate::terms::RewardTerm;

/// The probability p that the judges pick the user's choice given the summary, mean over the targets.
///
/// Range: 0 to 1. A malformed response gets 0. An empty summary that passes the gate is judged like any other. Source: AlignXplore+
/// (arXiv 2601.04963).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeChoice {}

impl RewardTerm for JudgeChoice {
    fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError> {
        Ok(batch.responses.iter().map(|r| r.p_chosen.unwrap_or(0.0)).collect())
    }
}
