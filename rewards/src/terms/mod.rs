//! Reward terms: each scores responses by one criterion. To add a term, add a file here and a line in [`crate::Registry`], or
//! register a type of another crate there.

mod accuracy;
mod brevity;
mod format;
mod judge;

pub use accuracy::Accuracy;
pub use brevity::Brevity;
pub use format::Format;
pub use judge::JudgeChoice;

use crate::batch::{JudgeRequest, RewardBatch};
use crate::error::RewardError;

/// A reward term, which scores responses by one criterion. Its fields are the `params` of the config.
pub trait RewardTerm: Send + Sync {
    /// Returns the term's requests to the run's judge about `batch`, whose verdicts are empty at this point. The requests of all
    /// terms go to the judge in one call. [`Self::score`] finds the answers in [`RewardBatch::verdicts`].
    ///
    /// # Errors
    /// Returns [`RewardError::Failed`] if a request cannot be built.
    fn judgments(&self, batch: &RewardBatch<'_>) -> Result<Vec<JudgeRequest>, RewardError> {
        let _ = batch;
        Ok(Vec::new())
    }

    /// Returns one score per response, in order; by convention between 0 and 1, higher is better.
    ///
    /// # Errors
    /// Returns [`RewardError::Failed`] if the term fails; this ends the run.
    fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError>;

    /// Returns additional metrics of the term, which are logged as `reward/TERM/KEY`.
    fn metrics(&self, batch: &RewardBatch<'_>, scores: &[f64]) -> Vec<(String, f64)> {
        let _ = (batch, scores);
        Vec::new()
    }
}
