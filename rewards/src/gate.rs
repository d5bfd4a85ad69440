//! The format gate: responses that fail it are malformed and are not sent to the judges.

use chat::Interaction;
use chat::reasoning::{self, Reasoned};
use configs::rl::reward::FormatGate;

use crate::judge::JudgeError;
use crate::query::PanelRequest;

/// Splits a response into reasoning and summary; returns `None` for a response that fails the gate.
pub fn split(gate: FormatGate, text: &str) -> Option<Reasoned<'_>> {
    match gate {
        FormatGate::Strict => reasoning::split(text),
        FormatGate::Published => reasoning::split_as_published(text),
    }
}

/// Returns the requests to the run's panel about the summary of a well-formed response: does the user pick what they picked at each
/// of `targets`? An empty summary that passes the gate is judged like any other. A response without the tags, which passes only a gate
/// of the caller's own, is its own summary.
///
/// # Errors
/// Returns [`JudgeError::NoRejected`] if a target has no rejected item.
pub fn target_requests(gate: FormatGate, text: &str, targets: &[Interaction]) -> Result<Vec<PanelRequest>, JudgeError> {
    let summary = split(gate, text).map_or(text, |parts| parts.summary);
    let request = |(index, target): (usize, &Interaction)| {
        PanelRequest::choice(target, summary).ok_or(JudgeError::NoRejected { index })
    };
    targets.iter().enumerate().map(request).collect()
}
