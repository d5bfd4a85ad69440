//! Reward term `teacher_similarity`.

use serde::Deserialize;

use crate::batch::{RewardBatch, RewardResponse};
use crate::error::RewardError;
use crate::terms::{RewardTerm, TermInput};
use crate::words::{common_subsequence, words};

/// ROUGE-L of the summary and the reference summary of its stage: F₁ of L / words of the summary and L / words of the reference, where
/// L is the length of their longest common subsequence of words.
///
/// Range: 0 to 1. A malformed response and an empty summary get 0, and so do all responses of a row without `references`. Source: Lin,
/// "ROUGE: A package for automatic evaluation of summaries" (2004).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherSimilarity {}

impl RewardTerm for TeacherSimilarity {
    fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError> {
        let score = |r: &RewardResponse<'_>| Some(rouge_l(r.summary()?, r.reference?));
        Ok(batch.responses.iter().map(|r| score(r).unwrap_or(0.0)).collect())
    }

    fn needs(&self) -> &'static [TermInput] {
        &[TermInput::References]
    }
}

fn rouge_l(summary: &str, reference: &str) -> f64 {
    let (summary, reference) = (words(summary), words(reference));
    // 2PR / (P + R) with P = L / |summary| and R = L / |reference|.
    let both = summary.len() + reference.len();
    if both == 0 { 0.0 } else { 2.0 * common_subsequence(&summary, &reference) as f64 / both as f64 }
}
