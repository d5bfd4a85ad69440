//! Reward term `cross_judge`.

use serde::Deserialize;

use crate::batch::{JudgeRequest, RewardBatch, RewardResponse};
use crate::error::RewardError;
use crate::terms::{RewardTerm, TermInput, asking};

const NAME: &str = "cross_judge";

/// The probability that a second judge picks the user's choice given the summary, mean over the targets: the one that `judge` names.
/// Without `judge`, the lowest probability of the judges of the panel, which a summary raises only if it convinces all of them.
///
/// Range: 0 to 1. A malformed response gets 0. An empty summary that passes the gate is judged like any other. Source: the
/// cross-model transfer that AlignXplore+ (arXiv 2601.04963) evaluates, as a reward; the minimum is the worst case over an ensemble
/// of reward models (Coste et al., arXiv 2310.02743).
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CrossJudge {
    judge: Option<String>,
}

impl RewardTerm for CrossJudge {
    fn judgments(&self, batch: &RewardBatch<'_>) -> Result<Vec<JudgeRequest>, RewardError> {
        match &self.judge {
            Some(judge) => asking::about_summaries((NAME, Some(judge)), batch, |r| r.targets),
            None => Ok(Vec::new()),
        }
    }

    fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError> {
        if self.judge.is_none() {
            return Ok(batch.responses.iter().map(lowest).collect());
        }
        let means = asking::means(NAME, batch, &self.judgments(batch)?)?;
        Ok(means.into_iter().map(Option::unwrap_or_default).collect())
    }

    fn needs(&self) -> &'static [TermInput] {
        if self.judge.is_none() { &[TermInput::SeveralJudges] } else { &[] }
    }

    fn judge(&self) -> Option<&str> {
        self.judge.as_deref()
    }
}

/// Returns the lowest probability of the panel's judges, mean over the targets; 0 if the response was not judged.
fn lowest(response: &RewardResponse<'_>) -> f64 {
    let of_target = |verdict: &crate::PanelVerdict| {
        let lowest = verdict.judges.iter().map(|j| j.verdict.p_chosen).fold(f64::INFINITY, f64::min);
        if lowest.is_finite() { lowest } else { verdict.p_chosen }
    };
    match response.verdicts {
        [] => response.p_chosen.unwrap_or(0.0),
        verdicts => verdicts.iter().map(of_target).sum::<f64>() / verdicts.len() as f64,
    }
}
