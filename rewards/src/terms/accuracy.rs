//! Term `accuracy`.

use crate::{Judged, RewardTerm};

/// 1 where the judge, given the summary, finds what the person picked the likelier one, else 0: what [`super::JudgeChoice`]
/// rounds to, as a verifier of right and wrong would give it.
pub struct Accuracy;

impl RewardTerm for Accuracy {
    fn name(&self) -> &'static str {
        "accuracy"
    }

    fn score(&self, responses: &[Judged<'_>]) -> Vec<f64> {
        responses.iter().map(|r| if r.p_chosen.is_some_and(|p| p > 0.5) { 1.0 } else { 0.0 }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_likelier_choice_counts() {
        let judged = |p_chosen| Judged { text: "", tokens: 1, token_limit: 9, p_chosen };
        assert_eq!(Accuracy.score(&[judged(Some(0.51)), judged(Some(0.5)), judged(None)]), [1.0, 0.0, 0.0]);
    }
}
