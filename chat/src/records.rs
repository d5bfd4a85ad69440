//! The rows that travel through the pipeline, in the file formats of AlignXplore+ where it has one.

use serde::{Deserialize, Serialize};

use crate::Message;

/// One choice a person made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Interaction {
    /// What was asked for; some sources have none.
    #[serde(default)]
    pub query: Option<String>,
    /// The item the person took.
    pub chosen: String,
    /// The item passed over; positive-only sources have none.
    #[serde(default)]
    pub rejected: Option<String>,
    /// Where it happened (news, products, …), where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Kind of task (recommendation, response selection, …), where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
}

/// A person's interactions, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The person.
    #[serde(alias = "userid")]
    pub uid: String,
    /// What they did, oldest first.
    #[serde(alias = "history")]
    pub interactions: Vec<Interaction>,
}

/// A row of the SFT set: loss on `completion` only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SftRow {
    /// The conversation before the model's turn.
    pub prompt: Vec<Message>,
    /// The model's turn (one assistant message).
    pub completion: Vec<Message>,
}

/// How decidable a target is, as the pruning stage recorded it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SignalRecord {
    /// Log-probability of the person's choice by the informed scorer (≤ 0).
    #[serde(default)]
    pub logprob1: f64,
    /// The same by the uninformed scorer (≤ 0).
    #[serde(default)]
    pub logprob2: f64,
    /// What knowing the person is worth: `logprob1 - logprob2`.
    #[serde(default)]
    pub signal: f64,
}

/// A row of the RL set: `history[mid_position]` is the first stage's target, the last interaction the second's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RlRow {
    /// The person.
    pub uid: String,
    /// Interactions up to *and including* the last target, oldest first.
    pub history: Vec<Interaction>,
    /// Index of the first stage's target in `history`.
    pub mid_position: usize,
    /// Signal of the first target.
    #[serde(default)]
    pub mid_record: SignalRecord,
    /// Signal of the last target.
    #[serde(default)]
    pub last_record: SignalRecord,
    /// `last_record.signal - mid_record.signal`.
    #[serde(default)]
    pub signal_gap: f64,
    /// `history.len() - 1 - mid_position`.
    #[serde(default)]
    pub distance_to_end: usize,
    /// Further choices of the person, which no stage reads: summaries can be judged by them beside the stages' own targets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Interaction>,
}

/// What makes a row unusable, found before training starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defect {
    /// The field at fault.
    pub field: &'static str,
    /// What is wrong and what was expected.
    pub message: String,
}

/// Rows that can be checked beyond their types.
pub trait Checked {
    /// The first defect, if any.
    fn defect(&self) -> Option<Defect>;
}

impl Checked for History {
    fn defect(&self) -> Option<Defect> {
        self.interactions
            .is_empty()
            .then(|| Defect { field: "interactions", message: "is empty; expected at least one interaction".into() })
    }
}

impl Checked for SftRow {
    fn defect(&self) -> Option<Defect> {
        if self.prompt.is_empty() {
            return Some(Defect { field: "prompt", message: "is empty; expected at least one message".into() });
        }
        let trained = self.completion.iter().any(|m| !m.content.trim().is_empty());
        (!trained).then(|| Defect {
            field: "completion",
            message: "has no text; expected an assistant message to train on".into(),
        })
    }
}

impl Checked for RlRow {
    fn defect(&self) -> Option<Defect> {
        let n = self.history.len();
        if n < 3 {
            return Some(Defect {
                field: "history",
                message: format!("has {n} interactions; expected at least 3 (read, first target, last target)"),
            });
        }
        (self.mid_position == 0 || self.mid_position >= n - 1).then(|| Defect {
            field: "mid_position",
            message: format!("is {}; expected 1 to {} for a history of {n}", self.mid_position, n - 2),
        })
    }
}

/// What a judge is asked: would the person described by `preference` take `chosen` rather than `rejected`?
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Question {
    /// The situation, if the source has one.
    pub query: Option<String>,
    /// The summary (or whatever stands in its place: nothing, a raw history).
    pub preference: String,
    /// What the person took.
    pub chosen: String,
    /// What they passed over.
    pub rejected: String,
}
