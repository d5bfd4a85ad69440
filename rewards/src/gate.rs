//! The format gate: responses that fail it are not sent to the judge.

use chat::{Interaction, Question, reasoning};

use crate::judge::{Judge, JudgeError, question};

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

/// Scores the summaries of all well-formed responses in one call to the judge. Returns the probability that the judge picks the
/// user's choice, or `None` for a response that fails the format gate.
///
/// # Errors
/// Returns a [`JudgeError`] if the judge fails, or if a target has no rejected item.
pub fn judge_responses(judge: &Judge<'_>, responses: &[Response<'_>]) -> Result<Vec<Option<f64>>, JudgeError> {
    let mut questions: Vec<Question> = Vec::new();
    let mut places = Vec::with_capacity(responses.len());
    for (index, response) in responses.iter().enumerate() {
        let place = match reasoning::split(response.text) {
            Some(parts) => {
                questions.push(question(response.target, parts.summary).ok_or(JudgeError::NoRejected { index })?);
                Some(questions.len() - 1)
            }
            None => None,
        };
        places.push(place);
    }
    let verdicts = judge.score(&questions)?;
    Ok(places.into_iter().map(|place| place.map(|i| verdicts[i].p_chosen)).collect())
}
