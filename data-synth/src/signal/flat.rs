//! The published records of scored choices: one object per choice.

use chat::records::{Checked, RowDefect, SignalRecord};
use chat::{Interaction, fields};
use serde::{Deserialize, Serialize};

/// A scored choice in the published format. The records of a user are in one file, in any order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlatRecord {
    /// The id of the user.
    #[serde(deserialize_with = "fields::user_id")]
    pub uid: String,
    /// The index of the letter's token in the scorer's text, by which the choices of a user are ordered. Without it, `hid` orders them,
    /// and without both the order of the file.
    #[serde(default)]
    pub pref_idx: Option<u64>,
    /// The log-probability of the choice under the informed scorer.
    pub logprob1: f64,
    /// The log-probability of the choice under the uninformed scorer.
    pub logprob2: f64,
    /// The value of knowing the user.
    pub signal: f64,
    /// The choice.
    pub original_history_item: Interaction,
    /// The index of the choice in the user's history, if known.
    #[serde(default)]
    pub hid: Option<u64>,
}

impl FlatRecord {
    /// Returns the field that orders the choices of the user, and its value; `None` if the record has neither.
    pub fn place(&self) -> Option<(&'static str, u64)> {
        self.pref_idx.map(|place| ("pref_idx", place)).or(self.hid.map(|place| ("hid", place)))
    }

    /// Returns the numbers of the record.
    pub fn record(&self) -> SignalRecord {
        SignalRecord { logprob1: self.logprob1, logprob2: self.logprob2, signal: self.signal }
    }
}

impl Checked for FlatRecord {
    fn defect(&self) -> Option<RowDefect> {
        None
    }
}
