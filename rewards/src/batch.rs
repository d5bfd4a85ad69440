//! Inputs of reward terms.

use chat::{Interaction, Question};
use configs::rl::reward::FormatGate;

use crate::gate;
use crate::judge::Verdict;

/// A response and its context.
#[derive(Clone, Copy, Debug)]
pub struct RewardResponse<'a> {
    /// Full response, including the reasoning.
    pub text: &'a str,
    /// Length of the response in tokens.
    pub tokens: usize,
    /// Maximum number of tokens of a response.
    pub token_limit: usize,
    /// Index of the stage, from 0.
    pub stage: usize,
    /// Index of the response's group in the batch. A group consists of the responses to the same prompt.
    pub group: usize,
    /// ID of the user.
    pub uid: &'a str,
    /// Interactions that the prompt contains, oldest first.
    pub history: &'a [Interaction],
    /// Summary of the previous stage, which the prompt contains.
    pub past_summary: Option<&'a str>,
    /// Later choices that the run's judge predicts from the summary; the stage's own target first.
    pub targets: &'a [Interaction],
    /// The format gate of the run, which decides whether a response is malformed.
    pub gate: FormatGate,
    /// Probability that the run's judge picks the user's choices, mean over `targets`; `None` if the response failed the format
    /// gate and was therefore not judged.
    pub p_chosen: Option<f64>,
}

impl<'a> RewardResponse<'a> {
    /// Returns whether the response passed the format gate.
    pub fn well_formed(&self) -> bool {
        self.p_chosen.is_some()
    }

    /// Returns the reasoning, or `None` if the response is malformed.
    pub fn reasoning(&self) -> Option<&'a str> {
        gate::split(self.gate, self.text).map(|parts| parts.reasoning)
    }

    /// Returns the summary, or `None` if the response is malformed. It is empty only if the gate accepts empty summaries.
    pub fn summary(&self) -> Option<&'a str> {
        gate::split(self.gate, self.text).map(|parts| parts.summary)
    }
}

/// A question about a response that a term asks the run's judge.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgeRequest {
    /// Index of the response in the batch.
    pub response: usize,
    /// The question.
    pub question: Question,
}

/// The responses of one stage of a training step.
#[derive(Clone, Copy, Debug)]
pub struct RewardBatch<'a> {
    /// Index of the step, from 0.
    pub step: u64,
    /// The responses.
    pub responses: &'a [RewardResponse<'a>],
    /// The judge's verdicts on the requests of [`crate::RewardTerm::judgments`], in the order of the requests.
    pub verdicts: &'a [Verdict],
}
