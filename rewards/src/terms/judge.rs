//! Reward term `judge`.

use serde::Deserialize;

use crate::batch::RewardBatch;
use crate::error::RewardError;
use crate::terms::RewardTerm;

/// The probability that the judge, given the summary, picks the user's choice; 0 for a response that fails the format gate. This is
/// the reward of AlignXplore+.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeChoice {}

impl RewardTerm for JudgeChoice {
    fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError> {
        Ok(batch.responses.iter().map(|r| r.p_chosen.unwrap_or(0.0)).collect())
    }
}
