//! Reward term `accuracy`.

use serde::Deserialize;

use crate::batch::RewardBatch;
use crate::error::RewardError;
use crate::terms::RewardTerm;

/// 1 if the judge, given the summary, assigns the user's choice a probability above 0.5, else 0: [`super::JudgeChoice`] rounded to
/// a binary reward, as a verifier of right and wrong returns it.
///
/// Range: 0 or 1. A malformed response gets 0. An empty summary that passes the gate is judged like any other. Source: the judge
/// reward of AlignXplore (arXiv 2505.18071).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accuracy {}

impl RewardTerm for Accuracy {
    fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError> {
        Ok(batch.responses.iter().map(|r| if r.p_chosen.is_some_and(|p| p > 0.5) { 1.0 } else { 0.0 }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::response;

    #[test]
    fn only_the_likelier_choice_counts() {
        let responses = [response(Some(0.51), 1), response(Some(0.5), 1), response(None, 1)];
        let batch = RewardBatch { step: 0, responses: &responses, verdicts: &[] };
        assert_eq!(Accuracy {}.score(&batch), Ok(vec![1.0, 0.0, 0.0]));
    }
}
