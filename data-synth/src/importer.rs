//! Imports a user's files: histories, SFT rows and RL rows in the published formats, validated before anything is
//! loaded.

use std::path::Path;

use chat::jsonl::{self, JsonlError};
use chat::{History, RlRow, SftRow};

use crate::signal::ScoredHistory;

/// Reads `histories.jsonl`: `{"uid", "interactions": [{"query", "chosen", "rejected", "domain", "task"}], "transfer": […]}`;
/// `userid` and `history` are accepted as aliases of the first two fields, and `transfer` may be absent.
///
/// # Errors
/// Returns [`JsonlError`], which names file, line and field.
pub fn histories(path: &Path) -> Result<Vec<History>, JsonlError> {
    jsonl::read(path)
}

/// Reads histories with their signals, as `signal::score` returns them.
///
/// # Errors
/// Returns the same errors as [`histories`].
pub fn scored_histories(path: &Path) -> Result<Vec<ScoredHistory>, JsonlError> {
    jsonl::read(path)
}

/// Reads `sft.jsonl`: `{"prompt": [messages], "completion": [message]}`.
///
/// # Errors
/// Returns the same errors as [`histories`].
pub fn sft(path: &Path) -> Result<Vec<SftRow>, JsonlError> {
    jsonl::read(path)
}

/// Reads `rl.jsonl`: `{"uid", "history", "mid_position", "transfer", …}`.
///
/// # Errors
/// Returns the same errors as [`histories`].
pub fn rl(path: &Path) -> Result<Vec<RlRow>, JsonlError> {
    jsonl::read(path)
}

/// Returns the history of an RL row up to and including its last target, for custom scoring or synthesis.
pub fn history_of(row: &RlRow) -> History {
    History {
        uid: row.uid.clone(),
        interactions: row.history.clone(),
        messages: row.messages.clone(),
        targets: row.stage_targets.clone(),
        transfer: row.transfer.clone(),
    }
}
