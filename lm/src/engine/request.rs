//! What is asked of the engine and what it answers.

use chat::{FinishReason, Sampling};

/// One prompt and the samples wanted of it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Prompt tokens.
    pub prompt: Vec<u32>,
    /// One random stream a sample.
    pub seeds: Vec<u64>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Alternatives to report per token.
    pub top_logprobs: usize,
}

/// A token the model considered, with its own log-probability (temperature 1).
pub type Alternative = (u32, f32);

/// One sample.
#[derive(Clone, Debug)]
pub struct Generated {
    /// New tokens, the one that ended the turn included.
    pub ids: Vec<u32>,
    /// Log-probability of each under the sampled distribution before truncation and penalties: logits divided by the
    /// temperature (by 1 if decoding is greedy). Nats.
    pub logprobs: Vec<f32>,
    /// Alternatives of each token, best first, where asked for; the drawn token comes first of all.
    pub top: Vec<Vec<Alternative>>,
    /// Why it ended.
    pub finish: FinishReason,
}

/// What bounds the engine.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rows that generate at once.
    pub max_rows: usize,
    /// Tokens of one forward pass (a long prompt is read in several).
    pub step_tokens: usize,
    /// Bytes of keys and values held at once, over all layers.
    pub cache_bytes: usize,
    /// Bytes of them that may lie unused, in case a later request begins alike.
    pub retain_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_rows: 512, step_tokens: 8 << 10, cache_bytes: 4 << 30, retain_bytes: 256 << 20 }
    }
}

/// Given tokens whose log-probabilities are wanted.
#[derive(Clone, Debug, Default)]
pub struct ScoreRequest {
    /// All tokens.
    pub ids: Vec<u32>,
    /// The first that is scored; at least 1, at most their number (then only `candidates` are).
    pub from: usize,
    /// Tokens of which any might come after the last one: their log-probabilities are wanted too.
    pub candidates: Vec<u32>,
}

/// Log-probabilities at temperature 1, nats.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scored {
    /// Of `ids[from..]`.
    pub logprobs: Vec<f32>,
    /// Of each candidate, after all of `ids`.
    pub candidates: Vec<f32>,
}

/// A request of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A token just drawn.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// Which request.
    pub request: RequestId,
    /// Which of its samples, from 0.
    pub sample: usize,
    /// The token.
    pub id: u32,
    /// Its log-probability, as in [`Generated::logprobs`].
    pub logprob: f32,
    /// Its alternatives, as in [`Generated::top`].
    pub top: Vec<Alternative>,
    /// Whether it was the sample's last.
    pub finish: Option<FinishReason>,
}
