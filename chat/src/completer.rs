//! The central interface of the framework: a batch of chats in, texts with token log-probabilities out.
//!
//! Teacher, judge, and downstream model all implement [`Completer`]. The local implementation is in `lm`, so crates that only query
//! a model (synthesis, rewards, evals) build and test without libtorch.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::Message;

/// Sampling parameters. Names and meanings are those of Hugging Face's `GenerationConfig` and of vLLM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Sampling temperature, by which the logits are divided; 0 is greedy decoding.
    pub temperature: f64,
    /// Number of most likely tokens to sample from; 0 keeps all.
    pub top_k: usize,
    /// Nucleus sampling: keep the smallest set of tokens whose probabilities sum to at least `top_p`; 1 keeps all.
    pub top_p: f64,
    /// Minimum probability of a token, relative to the most likely token; 0 keeps all.
    pub min_p: f64,
    /// Repetition penalty for tokens that occurred before: positive logits are divided by it, negative ones multiplied. 1 disables
    /// the penalty.
    pub repetition_penalty: f64,
    /// Maximum number of new tokens.
    pub max_tokens: usize,
    /// Whether end-of-turn tokens are sampled like any other token and do not end the generation.
    pub ignore_eos: bool,
}

impl Sampling {
    /// Returns parameters for greedy decoding of at most `max_tokens` tokens.
    pub fn greedy(max_tokens: usize) -> Self {
        Self { temperature: 0.0, ..Self::all(max_tokens) }
    }

    /// Checks that every value is in range.
    ///
    /// # Errors
    /// A message with the field, its value, and the expected range.
    pub fn check(&self) -> Result<(), String> {
        let ensure = |holds: bool, field: &str, value: f64, expected: &str| {
            if holds { Ok(()) } else { Err(format!("`{field}` is {value}; expected {expected}")) }
        };
        let (t, p, m, r) = (self.temperature, self.top_p, self.min_p, self.repetition_penalty);
        ensure(t >= 0.0 && t.is_finite(), "temperature", t, "0 (greedy) or more")?;
        ensure(p > 0.0 && p <= 1.0, "top_p", p, "above 0, at most 1")?;
        ensure((0.0..=1.0).contains(&m), "min_p", m, "0 to 1")?;
        ensure(r > 0.0 && r.is_finite(), "repetition_penalty", r, "above 0 (1 has no effect)")
    }

    /// Returns parameters that sample from the model's full distribution.
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

/// A request to continue one chat.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionRequest {
    /// The conversation so far. If the last turn is the assistant's, it is continued (a forced answer prefix); otherwise a new
    /// assistant turn is opened.
    pub messages: Vec<Message>,
    /// Sampling parameters.
    pub sampling: Sampling,
    /// Number of alternatives to return per generated token (0: none). Their log-probabilities are the model's own, before
    /// temperature and truncation.
    pub top_logprobs: usize,
    /// Strings after which generation stops; the text ends with the string.
    pub stop: Vec<String>,
    /// Seed of the request's random stream. Equal requests with equal seeds produce equal samples, regardless of the rest of the
    /// batch.
    pub seed: u64,
    /// Value of the chat template's `enable_thinking`, if the template has one.
    pub thinking: Option<bool>,
    /// Two texts, either of which may continue the conversation, to be compared instead of generating. A completer that has the
    /// tokenizer tokenizes the conversation with each of them, as the model would have written it. It returns one token, whose
    /// alternatives are the two texts, with the log-probability of the first token in which the two conversations differ. Other
    /// completers ignore the field and generate; the caller then looks for the texts among the reported alternatives.
    pub choices: Option<[String; 2]>,
    /// A text that continues the conversation, to be scored instead of generating. A completer that has the tokenizer returns the
    /// tokens of the text, each with its log-probability and without alternatives. Other completers return an error.
    pub continuation: Option<String>,
}

impl CompletionRequest {
    /// Creates a request with no alternatives, no stop strings, seed 0, the template's own default for thinking, no choices, and no
    /// continuation.
    pub fn new(messages: Vec<Message>, sampling: Sampling) -> Self {
        Self {
            messages,
            sampling,
            top_logprobs: 0,
            stop: Vec::new(),
            seed: 0,
            thinking: None,
            choices: None,
            continuation: None,
        }
    }
}

/// A generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// Text of the token.
    pub text: String,
    /// Natural logarithm of the model's own probability of the token (before temperature and truncation).
    pub logprob: f32,
    /// The most likely alternatives, in descending order (including the token itself if it is one of them).
    pub top: Vec<(String, f32)>,
}

/// The reason why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-turn token or a stop string.
    Stop,
    /// `max_tokens` was reached, or the model's context is full.
    Length,
}

/// The response of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The new text, without special tokens.
    pub text: String,
    /// The generated tokens, without the end-of-turn token. Empty unless `top_logprobs` > 0.
    pub tokens: Vec<TokenLogprob>,
    /// The reason why generation ended.
    pub finish: FinishReason,
}

/// An error that prevents a completion.
#[derive(Debug, thiserror::Error)]
pub enum CompleterError {
    /// The conversation does not fit into the context, or the template rejects it.
    #[error("request {index}: {message}")]
    Request {
        /// Index of the request in the batch, from 0.
        index: usize,
        /// What is wrong with the request.
        message: String,
    },
    /// The model could not allocate memory.
    #[error("{0}")]
    OutOfMemory(String),
    /// The model itself failed.
    #[error("{0}")]
    Model(String),
}

/// Numbers of tokens that a completer processed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of prompts, including those whose keys and values were cached.
    pub prompt_tokens: u64,
    /// Generated tokens, or the tokens of scored texts.
    pub completion_tokens: u64,
}

impl Usage {
    /// Returns the usage since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            prompt_tokens: self.prompt_tokens.saturating_sub(earlier.prompt_tokens),
            completion_tokens: self.completion_tokens.saturating_sub(earlier.completion_tokens),
        }
    }

    /// Returns the sum of two usages.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            prompt_tokens: self.prompt_tokens + other.prompt_tokens,
            completion_tokens: self.completion_tokens + other.completion_tokens,
        }
    }
}

/// How a completer with a journal answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalStats {
    /// Requests that the model answered.
    pub sent: u64,
    /// Requests that the journal answered.
    pub reused: u64,
    /// The tokens that the journal records for `reused`; 0 where it records none.
    pub reused_usage: Usage,
}

/// What a request that fails does to the others of its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failures {
    /// The call fails.
    Stop,
    /// The others are completed.
    Keep,
}

/// Receives the completion of the request with this index.
pub type Done<'a> = dyn FnMut(usize, &Completion) -> Result<(), CompleterError> + 'a;

/// A model or program that continues chats.
pub trait Completer {
    /// Completes every request, in order.
    ///
    /// # Errors
    /// [`CompleterError`] if any request fails; no partial result is returned.
    fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError>;

    /// Completes every request, in order. A request that fails does not keep the others from being completed: its place has the
    /// message.
    ///
    /// # Errors
    /// [`CompleterError`] if the model itself fails, as one that cannot be reached does.
    fn complete_each(&self, requests: &[CompletionRequest]) -> Result<Vec<Result<Completion, String>>, CompleterError> {
        let mut failures: BTreeMap<usize, String> = BTreeMap::new();
        let (mut places, mut left): (Vec<usize>, Vec<CompletionRequest>) = requests.iter().cloned().enumerate().unzip();
        loop {
            match self.complete(&left) {
                Ok(completions) => {
                    let mut completions = completions.into_iter();
                    let answer = |place: usize| match failures.remove(&place) {
                        Some(message) => Some(Err(message)),
                        None => completions.next().map(Ok),
                    };
                    return Ok((0..requests.len()).filter_map(answer).collect());
                }
                Err(CompleterError::Request { index, message }) if index < left.len() => {
                    left.remove(index);
                    failures.insert(places.remove(index), message);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Completes every request, as [`Self::complete`] or [`Self::complete_each`], and calls `done` with the index and the completion of
    /// each request as soon as it is finished, so that a caller can keep it. An error of `done` is that of the call.
    ///
    /// # Errors
    /// Same as those methods; with [`Failures::Stop`], every place of the result has a completion.
    fn complete_with(
        &self,
        requests: &[CompletionRequest],
        failures: Failures,
        done: &mut Done<'_>,
    ) -> Result<Vec<Result<Completion, String>>, CompleterError> {
        let answers = match failures {
            Failures::Stop => self.complete(requests)?.into_iter().map(Ok).collect(),
            Failures::Keep => self.complete_each(requests)?,
        };
        for (index, answer) in answers.iter().enumerate() {
            if let Ok(completion) = answer {
                done(index, completion)?;
            }
        }
        Ok(answers)
    }

    /// Returns a name for logs and tables.
    fn name(&self) -> &str;

    /// Returns the tokens processed since the completer was created; 0 for a completer that does not count them.
    fn usage(&self) -> Usage {
        Usage::default()
    }

    /// Returns how many requests the model and its journal answered since the completer was created; 0 for a completer without a
    /// journal.
    fn journal_stats(&self) -> JournalStats {
        JournalStats::default()
    }
}

impl<T: Completer + ?Sized> Completer for Rc<T> {
    fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
        (**self).complete(requests)
    }

    fn complete_each(&self, requests: &[CompletionRequest]) -> Result<Vec<Result<Completion, String>>, CompleterError> {
        (**self).complete_each(requests)
    }

    fn complete_with(
        &self,
        requests: &[CompletionRequest],
        failures: Failures,
        done: &mut Done<'_>,
    ) -> Result<Vec<Result<Completion, String>>, CompleterError> {
        (**self).complete_with(requests, failures, done)
    }

    fn name(&self) -> &str {
        (**self).name()
    }

    fn usage(&self) -> Usage {
        (**self).usage()
    }

    fn journal_stats(&self) -> JournalStats {
        (**self).journal_stats()
    }
}

/// A completer that computes each response with a function of the request: for tests, and for programs that are not language
/// models.
pub struct Scripted<F> {
    name: String,
    answer: F,
}

impl<F: Fn(&CompletionRequest) -> Completion> Scripted<F> {
    /// Creates a completer that answers each request with `answer(request)`.
    pub fn new(name: impl Into<String>, answer: F) -> Self {
        Self { name: name.into(), answer }
    }
}

impl<F: Fn(&CompletionRequest) -> Completion> Completer for Scripted<F> {
    fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
        Ok(requests.iter().map(&self.answer).collect())
    }

    fn complete_with(
        &self,
        requests: &[CompletionRequest],
        _failures: Failures,
        done: &mut Done<'_>,
    ) -> Result<Vec<Result<Completion, String>>, CompleterError> {
        let answer = |(index, request): (usize, &CompletionRequest)| {
            let completion = (self.answer)(request);
            done(index, &completion)?;
            Ok(Ok(completion))
        };
        requests.iter().enumerate().map(answer).collect()
    }

    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests;
