//! Common fixtures of the benches: a model of the quickstart's size with random weights, and a ragged batch for it.

use lm::{Biases, Decoder, Family, LmError, ModelConfig, Params, Rope};
use tch::Device;

/// Returns a Qwen3 model with the shape of the quickstart's policy.
///
/// # Errors
/// Returns an error if memory cannot be allocated.
pub fn small_model() -> Result<Decoder, LmError> {
    let spec = ModelConfig {
        family: Family::Qwen3,
        vocab_size: 896,
        hidden_size: 128,
        intermediate_size: 384,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        head_dim: 32,
        max_position_embeddings: 1024,
        rope: Rope::new(1e4),
        rms_norm_eps: 1e-6,
        tie_word_embeddings: true,
        biases: Biases::default(),
        window: None,
        source: Default::default(),
    };
    Ok(Decoder::new(Params::random(&spec, 0.06, 0, Device::Cpu)?))
}

/// Returns `count` sequences of 100 to 300 tokens, the same in every run.
pub fn ragged(count: u32) -> Vec<Vec<u32>> {
    (0..count).map(|i| (0..100 + i * 37 % 200).map(|t| (t * 7 + i * 13) % 850).collect()).collect()
}
