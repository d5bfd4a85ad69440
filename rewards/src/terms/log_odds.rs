//! Reward term `log_odds`.

use serde::{Deserialize, Deserializer, de::Error};

use crate::batch::RewardBatch;
use crate::error::RewardError;
use crate::terms::RewardTerm;

/// ln(p / (1 − p)), mean over the targets, where p is the probability that the judges pick the user's choice, limited to
/// [ε, 1 − ε]. Unlike the probability, it keeps growing where the judge is almost sure, and it falls as much where the judge is
/// almost sure of the wrong item.
///
/// Range: ±ln((1 − ε) / ε), which is ±4.6 with the default ε = 0.01. A malformed response gets the lowest value. An empty summary
/// that passes the gate is judged like any other. Source: the logit of the Bradley–Terry model (Bradley and Terry 1952).
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogOdds {
    #[serde(deserialize_with = "below_half")]
    eps: f64,
}

impl Default for LogOdds {
    fn default() -> Self {
        Self { eps: 0.01 }
    }
}

impl LogOdds {
    fn of(&self, p: f64) -> f64 {
        let p = p.clamp(self.eps, 1.0 - self.eps);
        (p / (1.0 - p)).ln()
    }
}

impl RewardTerm for LogOdds {
    fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError> {
        let score = |r: &crate::RewardResponse<'_>| match r.verdicts {
            [] => self.of(r.p_chosen.unwrap_or(0.0)),
            verdicts => verdicts.iter().map(|v| self.of(v.p_chosen)).sum::<f64>() / verdicts.len() as f64,
        };
        Ok(batch.responses.iter().map(score).collect())
    }

    fn range(&self) -> (f64, f64) {
        (self.of(0.0), self.of(1.0))
    }
}

fn below_half<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let eps = f64::deserialize(from)?;
    if eps > 0.0 && eps < 0.5 {
        return Ok(eps);
    }
    Err(D::Error::custom(format!("`eps` is {eps}; expected a number above 0 and below 0.5")))
}
