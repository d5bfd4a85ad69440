//! Tiny models, and the comparisons that all tests use.

use std::sync::LazyLock;

use chat::tokenizer::Tokenizer;
use lm::params::ParamRole;
use lm::sampling::uniform;
use lm::{Biases, Decoder, Family, ModelConfig, Params, Rope};
use tch::{Device, Kind, Tensor};
use tolerance::assert_within;

/// Maximum sequence length of the tiny models.
pub const CONTEXT: usize = 256;
/// Number of rows of their embedding, slightly more than the number of tokens of the tokenizer.
pub const VOCAB: i64 = 520;

/// Both families, tied and untied.
pub const VARIANTS: [(Family, bool); 4] =
    [(Family::Qwen3, true), (Family::Qwen3, false), (Family::Llama, true), (Family::Llama, false)];

/// Configuration of a tiny model. Both families have grouped queries; in Qwen3, the heads together are wider than the residual
/// stream. The sizes of Qwen3 are multiples of 32, so that new tokens use the kernels for few rows. Those of Llama are not, so
/// that they use the general path.
pub fn spec(family: Family, tied: bool) -> ModelConfig {
    let qwen = family == Family::Qwen3;
    ModelConfig {
        family,
        vocab_size: VOCAB,
        hidden_size: if qwen { 64 } else { 48 },
        intermediate_size: if qwen { 96 } else { 80 },
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: if qwen { 2 } else { 1 },
        head_dim: if qwen { 32 } else { 12 },
        max_position_embeddings: CONTEXT,
        rope: Rope::new(if qwen { 1e6 } else { 1e4 }),
        rms_norm_eps: if qwen { 1e-6 } else { 1e-5 },
        tie_word_embeddings: tied,
        biases: lm::family::biases(family, false, false),
        window: None,
        source: serde_json::Map::new(),
    }
}

/// Changes a configuration to sizes that the kernels for few rows support.
fn even(spec: ModelConfig) -> ModelConfig {
    ModelConfig { hidden_size: 64, intermediate_size: 96, head_dim: 32, ..spec }
}

/// One model of each kind that the decoder supports: families, biases, types of RoPE scaling.
pub fn specimens() -> Vec<(&'static str, ModelConfig)> {
    let rope = |scaling: serde_json::Value| {
        let config = serde_json::json!({ "rope_theta": 1e4, "rope_scaling": scaling, "max_position_embeddings": 64 });
        Rope::from_config(&config).unwrap()
    };
    let stretched =
        |scaling| ModelConfig { rope: rope(scaling), max_position_embeddings: 64, ..spec(Family::Llama, true) };
    let all = Biases { qkv: true, o: true, mlp: true };
    vec![
        ("qwen3-tied", spec(Family::Qwen3, true)),
        ("qwen3-untied", spec(Family::Qwen3, false)),
        ("qwen3-biases", ModelConfig { biases: Biases { mlp: false, ..all }, ..spec(Family::Qwen3, true) }),
        ("qwen2-tied", even(spec(Family::Qwen2, true))),
        ("qwen2-untied", spec(Family::Qwen2, false)),
        ("mistral", even(spec(Family::Mistral, false))),
        ("mistral-window", ModelConfig { window: Some(CONTEXT), ..spec(Family::Mistral, false) }),
        ("llama-tied", spec(Family::Llama, true)),
        ("llama-untied", spec(Family::Llama, false)),
        ("llama-biases", ModelConfig { biases: all, ..spec(Family::Llama, false) }),
        ("llama-biases-even", even(ModelConfig { biases: all, ..spec(Family::Llama, false) })),
        ("llama-linear", stretched(serde_json::json!({ "type": "linear", "factor": 4.0 }))),
        ("llama-dynamic", stretched(serde_json::json!({ "rope_type": "dynamic", "factor": 4.0 }))),
        ("llama-llama3", {
            let scaling = serde_json::json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 32 });
            ModelConfig { rope: rope(scaling), ..spec(Family::Llama, true) }
        }),
        (
            "llama-yarn",
            stretched(
                serde_json::json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64 }),
            ),
        ),
        ("qwen3-yarn", {
            let scaling = serde_json::json!({ "rope_type": "yarn", "factor": 8.0, "beta_fast": 16.0, "beta_slow": 2.0,
                "original_max_position_embeddings": 32, "attention_factor": 1.3, "truncate": false });
            ModelConfig { rope: rope(scaling), max_position_embeddings: 64, ..spec(Family::Qwen3, true) }
        }),
    ]
}

/// Returns a specimen with its weights.
pub fn specimen(name: &str) -> Decoder {
    let (_, spec) = specimens().into_iter().find(|(n, _)| *n == name).unwrap();
    Decoder::new(weights(&spec, 7))
}

/// Samples from N(0, std²), [shape]. The result depends only on `seed`: libtorch's generator is global, and tests run concurrently.
pub fn normal(seed: u64, std: f64, shape: &[i64]) -> Tensor {
    let numel: i64 = shape.iter().product();
    let values: Vec<f32> = (0..numel as u64)
        .map(|i| {
            let (u, v) = (uniform(seed, 2 * i), uniform(seed, 2 * i + 1));
            (std * (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
        })
        .collect();
    Tensor::from_slice(&values).view(shape)
}

/// Weights with a variance that makes logits vary by several nats. Norm weights differ from 1, so that a missing norm is detected.
pub fn weights(spec: &ModelConfig, seed: u64) -> Params {
    let params = Params::zeros(spec, Kind::Float, Device::Cpu).unwrap();
    for (i, entry) in params.entries().iter().enumerate() {
        let mean = if entry.role() == ParamRole::Norm { 1.0 } else { 0.0 };
        let values = normal(seed * 1000 + i as u64, 0.25, &entry.shape) + mean;
        params.view(entry).copy_(&values);
    }
    params
}

/// A model of [`spec`] with [`weights`].
pub fn decoder(family: Family, tied: bool) -> Decoder {
    Decoder::new(weights(&spec(family, tied), 7))
}

/// A tokenizer of about 500 tokens with the ChatML template.
pub fn tokenizer() -> Tokenizer {
    static TRAINED: LazyLock<Tokenizer> = LazyLock::new(|| {
        let texts = [
            "She likes warm stories about space and avoids long dry reports about finance.",
            "He prefers short practical answers; tone matters more to him than length.",
            "They read news about gardens, bread, rivers and the 1990s. 12 345 6789",
            "Ünïcode wörds are rare: naïve café, 日本語, привет.",
        ];
        Tokenizer::train(texts.iter().copied().cycle().take(80), 500).unwrap()
    });
    TRAINED.clone()
}

/// Returns `length` token ids that depend only on `seed`.
pub fn ids(seed: u64, length: usize) -> Vec<u32> {
    (0..length as u64).map(|i| (uniform(seed, i) * VOCAB as f64) as u32).collect()
}

/// Sequences of different lengths: the shortest has one token, and the longest nearly fills the context.
pub fn sequences() -> Vec<Vec<u32>> {
    [33, 1, 17, 200, 2, 64].iter().enumerate().map(|(i, n)| ids(100 + i as u64, *n)).collect()
}

/// Returns |actual - expected| / |expected| (Euclidean), or infinity if any element is not finite.
pub fn distance(actual: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(actual.size(), expected.size());
    let (a, e) = (actual.detach().to_kind(Kind::Double), expected.detach().to_kind(Kind::Double));
    let d = ((a - &e).norm() / (e.norm() + 1e-300)).double_value(&[]);
    if d.is_finite() { d } else { f64::INFINITY }
}

/// Asserts that [`distance`] is within `tolerance`.
#[track_caller]
pub fn close(what: &str, actual: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_within!(distance(actual, expected), tolerance, "{what}: relative distance");
}

/// Asserts that [`distance`], and the maximum difference divided by the maximum value, are within `tolerance`.
#[track_caller]
pub fn close_everywhere(what: &str, actual: &Tensor, expected: &Tensor, tolerance: f64) {
    close(what, actual, expected, tolerance);
    let d = ((actual - expected).abs().max() / expected.abs().max()).double_value(&[]);
    assert_within!(d, tolerance, "{what}: largest difference beside the largest value");
}
