//! The format gate of the reward, applied to responses.

use std::path::Path;

use chat::reasoning;
use chat::records::{Checked, RowDefect};
use configs::rl::reward::FormatGate;
use serde::{Deserialize, Serialize};

use super::Rows;
use crate::error::Error;

/// A response.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResponseRow {
    /// The whole text, reasoning included, decoded without special tokens.
    pub text: String,
}

impl Checked for ResponseRow {
    fn defect(&self) -> Option<RowDefect> {
        None
    }
}

/// What the gate finds in a response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GateResult {
    /// Whether the response passes the gate. Only such responses are judged.
    pub well_formed: bool,
    /// The reasoning, stripped; `None` if the response is malformed.
    pub reasoning: Option<String>,
    /// The summary that the judge reads, stripped; `None` if the response is malformed.
    pub summary: Option<String>,
    /// The text that becomes the past summary of the next stage if the response is carried, well-formed or not.
    pub past_summary: String,
}

/// Applies `gate` to the responses of a file of JSON lines, or of standard input.
///
/// # Errors
/// Returns an error if the input cannot be read or a row is not valid.
pub fn responses(gate: FormatGate, input: Option<&Path>) -> Result<Vec<GateResult>, Error> {
    Rows::read(input)?.map(|row: &ResponseRow| Ok(response(gate, &row.text)))
}

/// Applies `gate` to one response.
pub fn response(gate: FormatGate, text: &str) -> GateResult {
    let parts = rewards::gate::split(gate, text);
    GateResult {
        well_formed: parts.is_some(),
        reasoning: parts.map(|parts| parts.reasoning.to_owned()),
        summary: parts.map(|parts| parts.summary.to_owned()),
        past_summary: reasoning::summary_leniently(text).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gates_differ_on_whitespace_and_carry_the_same_text() {
        let of = |gate, text| {
            let found = response(gate, text);
            (found.well_formed, found.summary, found.past_summary)
        };
        let (published, strict) = (FormatGate::Published, FormatGate::Strict);
        let some = |text: &str| Some(text.to_owned());
        // An empty summary is judged by the published gate only.
        assert_eq!(of(published, "<think>a</think>\n"), (true, some(""), String::new()));
        assert_eq!(of(strict, "<think>a</think>\n"), (false, None, String::new()));
        // A leading line break is accepted by the strict gate only.
        assert_eq!(of(published, "\n<think>a</think> b"), (false, None, "b".into()));
        assert_eq!(of(strict, "\n<think>a</think> b"), (true, some("b"), "b".into()));
        // Nested tags fail both; the text after the last tag is carried.
        for gate in [published, strict] {
            assert_eq!(of(gate, "<think>a<think>b</think>c</think> d"), (false, None, "d".into()));
        }
    }
}
