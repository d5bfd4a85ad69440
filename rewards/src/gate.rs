//! The format gate: responses that fail it are malformed and are not sent to the judge.

use chat::reasoning::{self, Reasoned};
use chat::{Interaction, Question};
use configs::rl::reward::FormatGate;

use crate::judge::{Judge, JudgeError, Verdict, question};

/// A sampled response and the choice that the judge predicts from its summary.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// Full response, including the reasoning.
    pub text: &'a str,
    /// Length of the response in tokens.
    pub tokens: usize,
    /// Held-out choice of the user.
    pub target: &'a Interaction,
}

/// Splits a response into reasoning and summary; returns `None` for a response that fails the gate.
pub fn split(gate: FormatGate, text: &str) -> Option<Reasoned<'_>> {
    match gate {
        FormatGate::Strict => reasoning::split(text),
        FormatGate::Published => reasoning::split_as_published(text),
    }
}

/// Scores the summaries of all well-formed responses in one call to the judge. Returns the judge's verdict on the user's choice, or
/// `None` for a response that fails the format gate. An empty summary that passes the gate is judged like any other.
///
/// # Errors
/// Returns a [`JudgeError`] if the judge fails, or if a target has no rejected item.
pub fn judge_responses(
    judge: &Judge<'_>,
    gate: FormatGate,
    responses: &[Response<'_>],
) -> Result<Vec<Option<Verdict>>, JudgeError> {
    let mut questions: Vec<Question> = Vec::new();
    let mut places = Vec::with_capacity(responses.len());
    for (index, response) in responses.iter().enumerate() {
        let place = match split(gate, response.text) {
            Some(parts) => {
                questions.push(question(response.target, parts.summary).ok_or(JudgeError::NoRejected { index })?);
                Some(questions.len() - 1)
            }
            None => None,
        };
        places.push(place);
    }
    let verdicts = judge.score(&questions)?;
    Ok(places.into_iter().map(|place| place.map(|i| verdicts[i].clone())).collect())
}
