//! Reward term `cross_task`.

use serde::Deserialize;

use crate::batch::{JudgeRequest, RewardBatch};
use crate::error::RewardError;
use crate::terms::{RewardTerm, TermInput, asking};

const NAME: &str = "cross_task";

/// The probability that the judges pick what the user chose in other domains, given the summary; mean over the choices that
/// `reward.transfer_per_stage` samples from the row's `transfer`. `judge` names one judge to ask in place of the panel.
///
/// Range: 0 to 1. A malformed response gets 0, and so do all responses of a row without `transfer`. An empty summary that passes the
/// gate is judged like any other. Source: the cross-task transfer that AlignXplore+ (arXiv 2601.04963) evaluates, as a reward.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CrossTask {
    judge: Option<String>,
}

impl RewardTerm for CrossTask {
    fn judgments(&self, batch: &RewardBatch<'_>) -> Result<Vec<JudgeRequest>, RewardError> {
        asking::about_summaries((NAME, self.judge.as_deref()), batch, |r| r.transfer)
    }

    fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError> {
        let means = asking::means(NAME, batch, &self.judgments(batch)?)?;
        Ok(means.into_iter().map(Option::unwrap_or_default).collect())
    }

    fn needs(&self) -> &'static [TermInput] {
        &[TermInput::Transfer]
    }

    fn judge(&self) -> Option<&str> {
        self.judge.as_deref()
    }
}
