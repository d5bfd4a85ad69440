//! Term `judge`.

use crate::{Judged, RewardTerm};

/// The probability that the judge, given the summary, picks what the person picked; 0 for a response that fails the
/// format gate. This is AlignXplore+'s reward.
pub struct JudgeChoice;

impl RewardTerm for JudgeChoice {
    fn name(&self) -> &'static str {
        "judge"
    }

    fn score(&self, responses: &[Judged<'_>]) -> Vec<f64> {
        responses.iter().map(|r| r.p_chosen.unwrap_or(0.0)).collect()
    }
}
