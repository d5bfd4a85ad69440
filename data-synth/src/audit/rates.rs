//! How far users and candidates came, by stage.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::teach::record::TaughtUser;

/// The pass rates of one stage of the synthesis.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageRates {
    /// The number of users who entered the stage.
    pub entered: usize,
    /// The number of users by outcome.
    pub outcomes: BTreeMap<String, usize>,
    /// The number of candidate summaries.
    pub candidates: usize,
    /// The number of candidates without well-formed reasoning and summary.
    pub malformed: usize,
    /// The number of candidates by which the verifier predicts their target.
    pub correct: usize,
    /// The number of targets in the re-test of merged summaries.
    pub retested: usize,
    /// The number of those that the verifier predicts.
    pub retested_correct: usize,
}

/// Adds a user to the rates of each stage.
pub(super) fn add(rates: &mut Vec<StageRates>, user: &TaughtUser) {
    for (index, stage) in user.stages.iter().enumerate() {
        if rates.len() <= index {
            rates.resize(index + 1, StageRates::default());
        }
        let found = &mut rates[index];
        found.entered += 1;
        *found.outcomes.entry(stage.outcome.clone()).or_default() += 1;
        found.candidates += stage.candidates.len();
        found.malformed += stage.candidates.iter().filter(|candidate| candidate.summary.is_empty()).count();
        found.correct += stage.candidates.iter().filter(|candidate| candidate.verdict.is_some_and(|p| p > 0.5)).count();
        found.retested += stage.retest.len();
        found.retested_correct += stage.retest.iter().filter(|&&p| p > 0.5).count();
    }
}
