//! Reward term `length_band`.

use serde::Deserialize;

use crate::batch::{RewardBatch, RewardResponse};
use crate::error::RewardError;
use crate::terms::RewardTerm;
use crate::words::words;

/// The unit of a length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LengthUnit {
    /// Words of the summary.
    #[default]
    Words,
    /// Characters of the summary.
    Characters,
    /// Tokens of the whole response, including the reasoning.
    Tokens,
}

/// 1 for a length from `min` to `max`; outside, the score falls linearly to 0 at a distance of `slack` (0, the default: at once). The
/// length is that of the summary in words (`unit = "words"`, the default) or `"characters"`, or that of the response in `"tokens"`.
///
/// Range: 0 to 1. A malformed response gets 0. An empty summary has length 0. Source: none, a trapezoidal window.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Params")]
pub struct LengthBand {
    min: f64,
    max: f64,
    slack: f64,
    unit: LengthUnit,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    min: usize,
    max: usize,
    #[serde(default)]
    slack: usize,
    #[serde(default)]
    unit: LengthUnit,
}

impl TryFrom<Params> for LengthBand {
    type Error = String;

    fn try_from(params: Params) -> Result<Self, String> {
        let Params { min, max, slack, unit } = params;
        if min > max {
            return Err(format!("`min` is {min}; expected at most `max` ({max})"));
        }
        Ok(Self { min: min as f64, max: max as f64, slack: slack as f64, unit })
    }
}

impl LengthBand {
    fn length(&self, response: &RewardResponse<'_>) -> Option<f64> {
        let summary = response.summary()?;
        let length = match self.unit {
            LengthUnit::Words => words(summary).len(),
            LengthUnit::Characters => summary.chars().count(),
            LengthUnit::Tokens => response.tokens,
        };
        Some(length as f64)
    }

    fn of(&self, length: f64) -> f64 {
        let outside = (self.min - length).max(length - self.max).max(0.0);
        if outside == 0.0 {
            return 1.0;
        }
        if self.slack == 0.0 { 0.0 } else { (1.0 - outside / self.slack).max(0.0) }
    }
}

impl RewardTerm for LengthBand {
    fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError> {
        Ok(batch.responses.iter().map(|r| self.length(r).map_or(0.0, |length| self.of(length))).collect())
    }
}
