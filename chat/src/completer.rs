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
    /// At most so many new tokens.
    pub max_tokens: usize,
}

impl Sampling {
    /// Greedy decoding of at most `max_tokens` tokens.
    pub fn greedy(max_tokens: usize) -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, max_tokens }
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
    /// Stop after any of these strings has appeared; the string is kept in the text.
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
