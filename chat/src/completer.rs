//! The hinge of the framework: a batch of chats in, texts with token log-probabilities out.
//!
//! Teacher, judge and downstream model are all a [`Completer`]. The local one lives in `lm`, so that whoever only asks
//! (synthesis, rewards, evals) builds and tests without libtorch.

use serde::{Deserialize, Serialize};

use crate::Message;

/// How the next token is drawn. The names and meanings are those of Hugging Face's `GenerationConfig` and of vLLM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy decoding.
    pub temperature: f64,
    /// Keep the `top_k` likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of tokens whose probabilities reach `top_p`; 1 keeps all.
    pub top_p: f64,
    /// Keep tokens at least this share as likely as the likeliest; 0 keeps all.
    pub min_p: f64,
    /// Divides positive and multiplies negative logits of tokens that occurred before; 1 changes nothing.
    pub repetition_penalty: f64,
    /// At most so many new tokens.
    pub max_tokens: usize,
    /// Whether the model's end-of-turn tokens are drawn like any other and end nothing.
    pub ignore_eos: bool,
}

impl Sampling {
    /// Greedy decoding of at most `max_tokens` tokens.
    pub fn greedy(max_tokens: usize) -> Self {
        Self { temperature: 0.0, ..Self::all(max_tokens) }
    }

    /// Says which value is out of range, if one is.
    ///
    /// # Errors
    /// The field, its value and what was expected.
    pub fn check(&self) -> Result<(), String> {
        let ensure = |holds: bool, field: &str, value: f64, expected: &str| {
            if holds { Ok(()) } else { Err(format!("`{field}` is {value}; expected {expected}")) }
        };
        let (t, p, m, r) = (self.temperature, self.top_p, self.min_p, self.repetition_penalty);
        ensure(t >= 0.0 && t.is_finite(), "temperature", t, "0 (greedy) or more")?;
        ensure(p > 0.0 && p <= 1.0, "top_p", p, "above 0, at most 1")?;
        ensure((0.0..=1.0).contains(&m), "min_p", m, "0 to 1")?;
        ensure(r > 0.0 && r.is_finite(), "repetition_penalty", r, "above 0 (1 changes nothing)")
    }

    /// Draws from the whole distribution, as the model gives it.
    pub fn all(max_tokens: usize) -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            max_tokens,
            ignore_eos: false,
        }
    }
}

/// One chat to be continued.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionRequest {
    /// The conversation so far. If its last turn is the assistant's, that turn is continued (a forced answer prefix);
    /// otherwise a new assistant turn is opened.
    pub messages: Vec<Message>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// How many alternatives to report per generated token (0: none). They are the model's own log-probabilities,
    /// before temperature and truncation.
    pub top_logprobs: usize,
    /// Stop after any of these strings has appeared; the text ends with the string.
    pub stop: Vec<String>,
    /// The request's own random stream: equal requests with equal seeds get equal draws, whatever else is in the batch.
    pub seed: u64,
    /// Value of the chat template's `enable_thinking`, where it has one.
    pub thinking: Option<bool>,
}

impl CompletionRequest {
    /// A request with no alternatives, no stop strings, seed 0 and the template's own default for thinking.
    pub fn new(messages: Vec<Message>, sampling: Sampling) -> Self {
        Self { messages, sampling, top_logprobs: 0, stop: Vec::new(), seed: 0, thinking: None }
    }
}

/// A generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token's text.
    pub text: String,
    /// Natural log of the model's own probability of this token (before temperature and truncation).
    pub logprob: f32,
    /// The likeliest alternatives, best first (the token itself among them if it is one).
    pub top: Vec<(String, f32)>,
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// End-of-turn token or a stop string.
    Stop,
    /// `max_tokens` reached, or the model's context is full.
    Length,
}

/// What a model said.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The new text, without special tokens.
    pub text: String,
    /// The generated tokens, the end-of-turn token left out. Empty unless `top_logprobs` > 0.
    pub tokens: Vec<TokenLogprob>,
    /// Why it ended.
    pub finish: FinishReason,
}

/// Why a model could not answer.
#[derive(Debug, thiserror::Error)]
pub enum CompleterError {
    /// The conversation does not fit, or the template rejects it.
    #[error("request {index}: {message}")]
    Request {
        /// Which request of the batch, from 0.
        index: usize,
        /// What is wrong with it.
        message: String,
    },
    /// The model itself failed.
    #[error("{0}")]
    Model(String),
}

/// Anything that continues chats.
pub trait Completer {
    /// Answers every request, in order.
    ///
    /// # Errors
    /// [`CompleterError`] if any request cannot be answered; nothing partial is returned.
    fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError>;

    /// A name for logs and tables.
    fn name(&self) -> &str;
}

/// A completer that answers with a function of the request: for tests, and for programs that are no language model.
pub struct Scripted<F> {
    name: String,
    answer: F,
}

impl<F: Fn(&CompletionRequest) -> Completion> Scripted<F> {
    /// Answers each request with `answer(request)`.
    pub fn new(name: impl Into<String>, answer: F) -> Self {
        Self { name: name.into(), answer }
    }
}

impl<F: Fn(&CompletionRequest) -> Completion> Completer for Scripted<F> {
    fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
        Ok(requests.iter().map(&self.answer).collect())
    }

    fn name(&self) -> &str {
        &self.name
    }
}
