//! Requests to the engine, and their results.

use chat::{FinishReason, Sampling};

/// One prompt and the samples to generate from it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Prompt tokens.
    pub prompt: Vec<u32>,
    /// Seed of each sample. Their number is the number of samples.
    pub seeds: Vec<u64>,
    /// Sampling parameters.
    pub sampling: Sampling,
    /// Number of alternatives to report per token.
    pub top_logprobs: usize,
}

/// A candidate token and its log-probability under the model itself (temperature 1).
pub type Alternative = (u32, f32);

/// One generated sample.
#[derive(Clone, Debug)]
pub struct Generated {
    /// New tokens, including the one that ended the turn.
    pub ids: Vec<u32>,
    /// Log-probability of each token, in nats, under the sampled distribution before truncation and penalties: logits divided by
    /// the temperature (by 1 in greedy decoding).
    pub logprobs: Vec<f32>,
    /// Alternatives of each token, most likely first, if requested. The sampled token precedes them.
    pub top: Vec<Vec<Alternative>>,
    /// Why the sample ended.
    pub finish: FinishReason,
}

/// Limits of the engine.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of sequences that generate at once. Default: 512.
    pub max_num_seqs: usize,
    /// Maximum number of tokens of one forward pass. A longer prompt is read in several passes. Default: 8,192.
    pub max_num_batched_tokens: usize,
    /// Maximum size of the KV cache over all layers, in bytes. Default: 4 GiB.
    pub cache_bytes: usize,
    /// Size of the unused part of the KV cache that is kept for later requests with a common prefix, in bytes. Default: 256 MiB.
    pub retain_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_num_seqs: 512, max_num_batched_tokens: 8 << 10, cache_bytes: 4 << 30, retain_bytes: 256 << 20 }
    }
}

/// A request for the log-probabilities of given tokens.
#[derive(Clone, Debug, Default)]
pub struct ScoreRequest {
    /// All tokens.
    pub ids: Vec<u32>,
    /// Index of the first token to score: at least 1, at most the number of tokens (then only `candidates` are scored).
    pub from: usize,
    /// Candidates for the token after the last one, whose log-probabilities are computed too.
    pub candidates: Vec<u32>,
}

/// Log-probabilities at temperature 1, in nats.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scored {
    /// Log-probabilities of `ids[from..]`.
    pub logprobs: Vec<f32>,
    /// Log-probability of each candidate after all of `ids`.
    pub candidates: Vec<f32>,
}

/// Identifier of a request in an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A token that was just sampled.
#[derive(Clone, Debug)]
pub struct SampledToken {
    /// Request of the token.
    pub request: RequestId,
    /// Index of the sample in the request, from 0.
    pub sample: usize,
    /// Token id.
    pub id: u32,
    /// Log-probability of the token, as in [`Generated::logprobs`].
    pub logprob: f32,
    /// Alternatives of the token, as in [`Generated::top`].
    pub top: Vec<Alternative>,
    /// Why the sample ended, if this is its last token.
    pub finish: Option<FinishReason>,
}
