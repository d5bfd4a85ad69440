//! Reward term `margin`.

use chat::prompts::NO_PAST;
use serde::Deserialize;

use crate::batch::{JudgeRequest, RewardBatch, RewardResponse};
use crate::error::RewardError;
use crate::terms::{RewardTerm, TermInput, asking};

const NAME: &str = "margin";

/// What the summary is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Over {
    /// The judge without a summary: it reads the text for a missing one.
    #[default]
    NoSummary,
    /// The judge with the summary of the previous stage; without a summary in the first stage.
    PastSummary,
}

/// p(summary) − p(baseline): what the summary adds to the judges' probability of the user's choice, mean over the targets. The
/// baseline is the judge without a summary (`over = "no_summary"`, the default), or with the past summary (`over =
/// "past_summary"`), which the first stage does not have: there it is the judge without a summary.
///
/// The well-formed responses of a group have the same baseline, so their differences are those of `judge`; totals compare across
/// users: 0 is a summary that adds nothing.
///
/// Range: −1 to 1. A malformed response gets 0. An empty summary that passes the gate is judged like any other. The metric `baseline`
/// is the mean baseline. Source: difference rewards (Wolpert and Tumer 2001).
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Margin {
    over: Over,
}

impl Margin {
    fn baseline<'a>(&self, response: &RewardResponse<'a>) -> &'a str {
        match self.over {
            Over::NoSummary => NO_PAST,
            Over::PastSummary => response.past_summary.unwrap_or(NO_PAST),
        }
    }
}

impl RewardTerm for Margin {
    fn judgments(&self, batch: &RewardBatch<'_>) -> Result<Vec<JudgeRequest>, RewardError> {
        let mut requests = Vec::new();
        for (index, response) in batch.responses.iter().enumerate().filter(|(_, r)| r.well_formed) {
            for target in response.targets {
                let request = asking::choice(NAME, response, target, self.baseline(response), None)?;
                requests.push(JudgeRequest::new(index, request));
            }
        }
        Ok(requests)
    }

    fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError> {
        let baselines = asking::means(NAME, batch, &self.judgments(batch)?)?;
        let score = |(r, baseline): (&RewardResponse<'_>, Option<f64>)| match (r.p_chosen, baseline) {
            (Some(p), Some(baseline)) => p - baseline,
            _ => 0.0,
        };
        Ok(batch.responses.iter().zip(baselines).map(score).collect())
    }

    fn metrics(&self, batch: &RewardBatch<'_>, _: &[f64]) -> Vec<(String, f64)> {
        if batch.verdicts.is_empty() {
            return Vec::new();
        }
        let mean = batch.verdicts.iter().map(|v| v.p_chosen).sum::<f64>() / batch.verdicts.len() as f64;
        vec![("baseline".into(), mean)]
    }

    fn range(&self) -> (f64, f64) {
        (-1.0, 1.0)
    }

    fn needs(&self) -> &'static [TermInput] {
        match self.over {
            Over::NoSummary => &[],
            Over::PastSummary => &[TermInput::PastSummary],
        }
    }
}
