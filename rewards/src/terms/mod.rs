//! Reward terms: each scores responses by one criterion. To add a term, add a file here and a line in [`crate::Registry`], or
//! register a type of another crate there (docs/extending.md).

mod accuracy;
mod asking;
mod brevity;
mod consistency;
pub mod copying;
mod cross_judge;
mod cross_task;
mod drift;
mod format;
mod judge;
mod length_band;
mod log_odds;
mod margin;
mod novelty;
mod response_likelihood;
mod retention;
mod teacher_similarity;
#[cfg(test)]
mod tests;

pub use accuracy::Accuracy;
pub use brevity::Brevity;
pub use consistency::Consistency;
pub use copying::Copying;
pub use cross_judge::CrossJudge;
pub use cross_task::CrossTask;
pub use drift::Drift;
pub use format::Format;
pub use judge::JudgeChoice;
pub use length_band::LengthBand;
pub use log_odds::LogOdds;
pub use margin::Margin;
pub use novelty::Novelty;
pub use response_likelihood::ResponseLikelihood;
pub use retention::Retention;
pub use teacher_similarity::TeacherSimilarity;

use crate::batch::{JudgeRequest, RewardBatch};
use crate::error::RewardError;
use crate::external::ExternalTerm;

/// Something that not every run has, and that a term needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TermInput {
    /// Summaries of the previous stage.
    PastSummary,
    /// Targets of the previous stage. With `rollout.reread_target`, the prompt contains one of them.
    PastTargets,
    /// Choices of the users in other domains (`transfer` of the rows). Without them, the score is the same for all responses.
    Transfer,
    /// Reference summaries (`references` of the rows). Without them, the score is the same for all responses.
    References,
    /// The likelihood of a text, which only judges in this process compute.
    Likelihood,
    /// More than one judge in the panel.
    SeveralJudges,
}

/// A reward term, which scores responses by one criterion. Its fields are the `params` of the config.
pub trait RewardTerm: Send + Sync {
    /// Returns the term's requests to the run's judges about `batch`, whose verdicts are empty at this point. The requests of all
    /// terms go to each judge in one call. [`Self::score`] finds the answers in [`RewardBatch::verdicts`], in the order of the
    /// requests. The requests about a response may depend on the response and its group only: the method is also called for parts
    /// of a stage, so that judges at endpoints answer while other summaries are generated.
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

    /// Returns the term itself if a program or an endpoint computes it. One rank then asks for its scores, and the others get them.
    /// Default: `None`.
    fn external(&self) -> Option<&ExternalTerm> {
        None
    }

    /// Returns additional metrics of the term, which are logged as `reward/TERM/KEY`.
    fn metrics(&self, batch: &RewardBatch<'_>, scores: &[f64]) -> Vec<(String, f64)> {
        let _ = (batch, scores);
        Vec::new()
    }

    /// Returns the lowest and the highest score of a well-formed response. Default: 0 and 1.
    fn range(&self) -> (f64, f64) {
        (0.0, 1.0)
    }

    /// Returns what the term needs and not every run has. Default: nothing.
    fn needs(&self) -> &'static [TermInput] {
        &[]
    }

    /// Returns the judge that the term asks by name, if it asks one. Default: none.
    fn judge(&self) -> Option<&str> {
        None
    }

    /// Returns whether a high score is a fault, so that the weight is expected to be negative. Default: no.
    fn penalizes(&self) -> bool {
        false
    }
}
