//! What the synthesis did with each user, and what it cost.

use chat::Interaction;
use chat::completer::{JournalStats, Usage};
use chat::records::{Checked, RowDefect};
use configs::JudgePrices;
use serde::{Deserialize, Serialize};

use crate::synthesis::SynthesisReport;

/// What the synthesis did with one user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaughtUser {
    /// The id of the user.
    pub uid: String,
    /// The stages that the user entered; none if the history is too short.
    pub stages: Vec<TaughtStage>,
    /// The number of SFT rows: two if the user passed both stages, otherwise none.
    pub rows: usize,
    /// The request that failed, if the user was left out for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Checked for TaughtUser {
    fn defect(&self) -> Option<RowDefect> {
        None
    }
}

/// One stage of one user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaughtStage {
    /// The past summary.
    pub past: Option<String>,
    /// The later choices that summaries should predict.
    pub targets: Vec<Interaction>,
    /// One candidate summary per target.
    pub candidates: Vec<TaughtCandidate>,
    /// The merged summary.
    pub merged: Option<String>,
    /// The merged reasoning.
    pub merged_reasoning: Option<String>,
    /// The probabilities that the verifier gave the targets of the correct candidates, given the merged summary.
    pub retest: Vec<f64>,
    /// How the stage ended: `passed`, `few_targets`, `few_correct`, `malformed_merge`, `failed_retest` or `failed_request`.
    pub outcome: String,
}

/// A candidate summary.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaughtCandidate {
    /// The index of its target in [`TaughtStage::targets`].
    pub target: usize,
    /// Whether the teacher was shown the chosen item first.
    pub chosen_first: bool,
    /// The reasoning; the whole answer if it is malformed.
    pub reasoning: String,
    /// The summary; empty if the answer is malformed.
    pub summary: String,
    /// The probability that the verifier gave the choice; `None` if it was not asked, as for a malformed answer.
    pub verdict: Option<f64>,
    /// Whether the verifier was shown the chosen item first; `None` if it was not asked, or in both orders.
    pub verifier_chosen_first: Option<bool>,
    /// Whether the verifier picked the item shown first; `None` where `verifier_chosen_first` is, and without an answer.
    pub verifier_chose_a: Option<bool>,
}

/// A user who was left out because a request failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedUser {
    /// The id of the user.
    pub uid: String,
    /// The error of the request.
    pub message: String,
}

/// The report of the synthesis of a file of users.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TeachReport {
    /// The numbers of users lost at each step.
    pub synthesis: SynthesisReport,
    /// The number of users who were left out because a request failed.
    pub failed_users: usize,
    /// The first of them.
    pub failed: Vec<FailedUser>,
    /// The requests to teacher and verifier.
    pub asked: AskedModels,
    /// The time of the last run of the step.
    pub seconds: f64,
}

/// The requests of the synthesis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AskedModels {
    /// The requests to the teacher.
    pub teacher: Asked,
    /// The requests to the verifier.
    pub verifier: Asked,
}

/// The requests to one model, over all runs of the step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// The number of requests that were answered. A program such as the world's teacher counts none.
    pub requests: u64,
    /// The number of `requests` whose answer was in the journal.
    pub from_journal: u64,
    /// The tokens of the answers. The journal of a model in this process records none.
    pub usage: Usage,
    /// The cost by the model's prices; 0 without prices.
    pub cost: f64,
}

impl Asked {
    /// Returns the requests to a model by what it counted.
    pub fn new(usage: Usage, stats: JournalStats, prices: JudgePrices) -> Self {
        let usage = usage.plus(stats.reused_usage);
        let cost = usage.prompt_tokens as f64 * prices.prompt + usage.completion_tokens as f64 * prices.completion;
        Self { requests: stats.sent + stats.reused, from_journal: stats.reused, usage, cost: cost / 1e6 }
    }
}
