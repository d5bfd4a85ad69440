//! From responses to judged responses: what fails the format gate is not shown to the judge.

use chat::{Interaction, Question, reasoning};

use crate::judge::{Judge, JudgeError, question};

/// A sampled response and the choice that its summary should explain.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// The whole response, reasoning included.
    pub text: &'a str,
    /// Its length in tokens.
    pub tokens: usize,
    /// The held-out choice.
    pub target: &'a Interaction,
}

/// What reward terms look at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged<'a> {
    /// The whole response, reasoning included.
    pub text: &'a str,
    /// Its length in tokens.
    pub tokens: usize,
    /// The most tokens a response may have.
    pub token_limit: usize,
    /// Probability that the judge picks the person's choice; `None` if the response failed the format gate
    /// ([`chat::reasoning::split`]) and was therefore not judged.
    pub p_chosen: Option<f64>,
}

impl Judged<'_> {
    /// Whether the response passed the format gate.
    pub fn well_formed(&self) -> bool {
        self.p_chosen.is_some()
    }
}

/// Puts the summaries of all well-formed responses to the judge, in one call.
///
/// # Errors
/// [`JudgeError`] if the judge fails, or if a target has no rejected item.
pub fn judge_responses<'a>(
    judge: &Judge<'_>,
    responses: &[Response<'a>],
    token_limit: usize,
) -> Result<Vec<Judged<'a>>, JudgeError> {
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
    let judged = |(response, place): (&Response<'a>, Option<usize>)| Judged {
        text: response.text,
        tokens: response.tokens,
        token_limit,
        p_chosen: place.map(|i| verdicts[i].p_chosen),
    };
    Ok(responses.iter().zip(places).map(judged).collect())
}
