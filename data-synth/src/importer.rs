//! A user's files in: histories, SFT rows and RL rows in the published formats, checked before anything is loaded.

use std::path::Path;

use chat::jsonl::{self, JsonlError};
use chat::{History, RlRow, SftRow};

use crate::signal::ScoredHistory;

/// Reads `histories.jsonl`: `{"uid", "interactions": [{"query", "chosen", "rejected", "domain", "task"}]}`; `userid` and
/// `history` are understood as other names of the two fields.
///
/// # Errors
/// [`JsonlError`] naming file, line and field.
pub fn histories(path: &Path) -> Result<Vec<History>, JsonlError> {
    jsonl::read(path)
}

/// Reads histories with their signals, as `signal::score` leaves them.
///
/// # Errors
/// As [`histories`].
pub fn scored_histories(path: &Path) -> Result<Vec<ScoredHistory>, JsonlError> {
    jsonl::read(path)
}

/// Reads `sft.jsonl`: `{"prompt": [messages], "completion": [message]}`.
///
/// # Errors
/// As [`histories`].
pub fn sft(path: &Path) -> Result<Vec<SftRow>, JsonlError> {
    jsonl::read(path)
}

/// Reads `rl.jsonl`: `{"uid", "history", "mid_position", …}`.
///
/// # Errors
/// As [`histories`].
pub fn rl(path: &Path) -> Result<Vec<RlRow>, JsonlError> {
    jsonl::read(path)
}

/// The history of an RL row up to and including its last target, for scoring or synthesis of one's own.
pub fn history_of(row: &RlRow) -> History {
    History { uid: row.uid.clone(), interactions: row.history.clone() }
}
