//! Reward term `retention`.

use serde::Deserialize;

use crate::batch::{JudgeRequest, RewardBatch};
use crate::error::RewardError;
use crate::terms::{RewardTerm, TermInput, asking};

const NAME: &str = "retention";

/// The probability that the judges pick the user's choices at the targets of the previous stage, given the updated summary; mean over
/// these targets. A summary that forgets what the past summary knew has a low score. `judge` names one judge to ask in place of the
/// panel. With `rollout.reread_target = true` (the default), the prompt contains the past target, and a summary that copies it has a
/// high score: set it to false.
///
/// Range: 0 to 1. A malformed response gets 0, and so do all responses of the first stage. An empty summary that passes the gate is
/// judged like any other. Source: backward transfer in continual learning (Lopez-Paz and Ranzato, arXiv 1706.08840).
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    judge: Option<String>,
}

impl RewardTerm for Retention {
    fn judgments(&self, batch: &RewardBatch<'_>) -> Result<Vec<JudgeRequest>, RewardError> {
        asking::about_summaries((NAME, self.judge.as_deref()), batch, |r| r.past_targets)
    }

    fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError> {
        let means = asking::means(NAME, batch, &self.judgments(batch)?)?;
        Ok(means.into_iter().map(Option::unwrap_or_default).collect())
    }

    fn needs(&self) -> &'static [TermInput] {
        &[TermInput::PastTargets]
    }

    fn judge(&self) -> Option<&str> {
        self.judge.as_deref()
    }
}
