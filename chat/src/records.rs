//! The rows of the pipeline, in the file formats of AlignXplore+ where it defines one.

use serde::{Deserialize, Serialize};

use crate::{Message, fields};

/// One choice of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Interaction {
    /// The query; some sources have none.
    #[serde(default)]
    pub query: Option<String>,
    /// The item that the user chose.
    pub chosen: String,
    /// The item that the user rejected; positive-only sources have none.
    #[serde(default)]
    pub rejected: Option<String>,
    /// Domain of the interaction (news, products, …), if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Kind of task (recommendation, response selection, …), if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
}

/// The interactions of a user, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Id of the user.
    #[serde(alias = "userid", deserialize_with = "fields::user_id")]
    pub uid: String,
    /// The user's interactions, oldest first.
    #[serde(alias = "history")]
    pub interactions: Vec<Interaction>,
    /// Choices of the same user in other domains, which no prompt contains. They measure whether a summary transfers.
    #[serde(default, deserialize_with = "fields::null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub transfer: Vec<Interaction>,
}

/// A row of the SFT set; only `completion` contributes to the loss.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SftRow {
    /// The conversation before the model's turn.
    pub prompt: Vec<Message>,
    /// The model's turn (one assistant message).
    pub completion: Vec<Message>,
}

/// How predictable a target is, as recorded by the pruning stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SignalRecord {
    /// Log-probability of the user's choice under the informed scorer (≤ 0).
    #[serde(default, deserialize_with = "fields::null_is_default")]
    pub logprob1: f64,
    /// Log-probability of the user's choice under the uninformed scorer (≤ 0).
    #[serde(default, deserialize_with = "fields::null_is_default")]
    pub logprob2: f64,
    /// The value of knowing the user: `logprob1 - logprob2`.
    #[serde(default, deserialize_with = "fields::null_is_default")]
    pub signal: f64,
}

/// A row of the RL set. `history[mid_position]` is the target of the first stage, and the last interaction is that of the second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RlRow {
    /// Id of the user.
    #[serde(deserialize_with = "fields::user_id")]
    pub uid: String,
    /// Interactions up to *and including* the last target, oldest first.
    pub history: Vec<Interaction>,
    /// Index of the first stage's target in `history`.
    pub mid_position: usize,
    /// Signal of the first target.
    #[serde(default, deserialize_with = "fields::null_is_default")]
    pub mid_record: SignalRecord,
    /// Signal of the last target.
    #[serde(default, deserialize_with = "fields::null_is_default")]
    pub last_record: SignalRecord,
    /// `last_record.signal - mid_record.signal`.
    #[serde(default, deserialize_with = "fields::null_is_default")]
    pub signal_gap: f64,
    /// `history.len() - 1 - mid_position`.
    #[serde(default, deserialize_with = "fields::null_is_default")]
    pub distance_to_end: usize,
    /// Further choices of the user, which no stage reads. They can judge summaries in addition to the stages' own targets.
    #[serde(default, deserialize_with = "fields::null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Interaction>,
    /// Choices of the same user in other domains, which no stage reads. Reward terms can judge by them whether a summary transfers.
    #[serde(default, deserialize_with = "fields::null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub transfer: Vec<Interaction>,
    /// Reference summaries, such as those of a teacher, in the order of the stages. A single one serves every stage.
    #[serde(default, deserialize_with = "fields::null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
}

impl RlRow {
    /// Returns the reference summary of `stage`, counted from 0; `None` if the row has none for it.
    pub fn reference_of(&self, stage: usize) -> Option<&str> {
        match &self.references[..] {
            [every] => Some(every),
            by_stage => by_stage.get(stage).map(String::as_str),
        }
    }
}

/// A defect that makes a row unusable, found before training starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowDefect {
    /// The invalid field.
    pub field: &'static str,
    /// What is wrong, and what was expected.
    pub message: String,
}

/// A row that can be validated beyond its types.
pub trait Checked {
    /// Returns the first defect, if any.
    fn defect(&self) -> Option<RowDefect>;
}

impl Checked for History {
    fn defect(&self) -> Option<RowDefect> {
        self.interactions
            .is_empty()
            .then(|| RowDefect { field: "interactions", message: "is empty; expected at least one interaction".into() })
    }
}

impl Checked for SftRow {
    fn defect(&self) -> Option<RowDefect> {
        if self.prompt.is_empty() {
            return Some(RowDefect { field: "prompt", message: "is empty; expected at least one message".into() });
        }
        let trained = self.completion.iter().any(|m| !m.content.trim().is_empty());
        (!trained).then(|| RowDefect {
            field: "completion",
            message: "has no text; expected an assistant message to train on".into(),
        })
    }
}

impl Checked for RlRow {
    fn defect(&self) -> Option<RowDefect> {
        let n = self.history.len();
        if n < 3 {
            return Some(RowDefect {
                field: "history",
                message: format!("has {n} interactions; expected at least 3 (read, first target, last target)"),
            });
        }
        (self.mid_position == 0 || self.mid_position >= n - 1).then(|| RowDefect {
            field: "mid_position",
            message: format!("is {}; expected 1 to {} for a history of {n}", self.mid_position, n - 2),
        })
    }
}

/// A question to a judge: would the user described by `preference` choose `chosen` over `rejected`?
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Question {
    /// The query, if the source has one.
    pub query: Option<String>,
    /// The summary (or its replacement: nothing, or a raw history).
    pub preference: String,
    /// The item that the user chose.
    pub chosen: String,
    /// The item that the user rejected.
    pub rejected: String,
}
