//! Reward term `drift`.

use serde::{Deserialize, Deserializer, de::Error};

use crate::batch::{JudgeRequest, RewardBatch, RewardResponse};
use crate::error::RewardError;
use crate::terms::{RewardTerm, TermInput, asking};

const NAME: &str = "drift";

/// (p₀ + γ · p₁) / (1 + γ): the probability that the judges pick the user's choices at the targets of this stage (p₀) and of the
/// previous one (p₁), given the summary. Recent targets weigh more, because a user may have changed their mind: γ is `decay`, 0.5 by
/// default. In the first stage, the score is p₀. With `rollout.reread_target = true` (the default), the prompt contains the past
/// target, and a summary that copies it has a high p₁: set it to false.
///
/// Range: 0 to 1. A malformed response gets 0. An empty summary that passes the gate is judged like any other. Source: exponential
/// forgetting of old interactions, as in recommendation (Koren, "Collaborative filtering with temporal dynamics", KDD 2009).
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drift {
    #[serde(deserialize_with = "fraction")]
    decay: f64,
}

impl Default for Drift {
    fn default() -> Self {
        Self { decay: 0.5 }
    }
}

impl RewardTerm for Drift {
    fn judgments(&self, batch: &RewardBatch<'_>) -> Result<Vec<JudgeRequest>, RewardError> {
        asking::about_summaries((NAME, None), batch, |r| r.past_targets)
    }

    fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError> {
        let past = asking::means(NAME, batch, &self.judgments(batch)?)?;
        let score = |(r, past): (&RewardResponse<'_>, Option<f64>)| match (r.p_chosen, past) {
            (Some(recent), Some(past)) => (recent + self.decay * past) / (1.0 + self.decay),
            (recent, _) => recent.unwrap_or(0.0),
        };
        Ok(batch.responses.iter().zip(past).map(score).collect())
    }

    fn needs(&self) -> &'static [TermInput] {
        &[TermInput::PastTargets]
    }
}

fn fraction<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let decay = f64::deserialize(from)?;
    if (0.0..=1.0).contains(&decay) {
        return Ok(decay);
    }
    Err(D::Error::custom(format!("`decay` is {decay}; expected a number from 0 to 1")))
}
