//! The model to load or to create, and the device on which it runs.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::check::{CheckResult, Under, at_least, ensure, given, positive};
use crate::run::empty_is_none;

/// Device of the tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// CUDA if a usable device exists, otherwise the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// CUDA; an error if no device exists.
    Cuda,
}

/// Dtype of weights and activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit floating point, for CPUs and for small models.
    Fp32,
    /// bfloat16, as published.
    #[default]
    Bf16,
    /// IEEE half precision.
    Fp16,
}

/// An existing model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSource {
    /// Folder in Hugging Face format; a hub id such as `Qwen/Qwen3-8B`; or a run: `runs/sft` is its final model or newest checkpoint,
    /// `runs/sft@best`, `@latest` and `@2116` are other checkpoints. Required; empty means not set.
    pub path: String,
    /// Dtype of the weights. Default: bf16.
    pub dtype: Dtype,
    /// Device of the model. Default: auto.
    pub device: Device,
    /// Size of the KV cache for generation and scoring, in GiB. Default: 4.
    pub kv_cache_gib: f64,
    /// Maximum number of sequences generated concurrently, if the KV cache holds them. Default: 512.
    pub max_num_seqs: usize,
    /// Maximum number of tokens in a forward pass of generation or scoring; longer prompts are prefilled in chunks. Default: 8192.
    pub max_num_batched_tokens: usize,
}

impl Default for ModelSource {
    fn default() -> Self {
        Self {
            path: String::new(),
            dtype: Dtype::default(),
            device: Device::default(),
            kv_cache_gib: 4.0,
            max_num_seqs: 512,
            max_num_batched_tokens: 8192,
        }
    }
}

impl ModelSource {
    pub(crate) fn check(&self) -> CheckResult {
        given(!self.path.is_empty(), "path", "a model folder or a hub id")?;
        positive("kv_cache_gib", self.kv_cache_gib)?;
        at_least("max_num_seqs", self.max_num_seqs, 1)?;
        at_least("max_num_batched_tokens", self.max_num_batched_tokens, 1)
    }
}

/// The model that training starts from: an existing one (`path`) or a new one with random weights (`shape` and `tokenizer`).
/// Exactly one of the two must be set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelStart {
    /// Folder in Hugging Face format, a hub id, or a run such as `runs/sft@best`. Empty (the default): start from random weights.
    #[serde(with = "empty_is_none")]
    pub path: Option<String>,
    /// Dtype of the weights. Default: bf16.
    pub dtype: Dtype,
    /// Device of the model. Default: auto.
    pub device: Device,
    /// Shape of the new model. Default: not set.
    pub shape: Option<ModelShape>,
    /// Tokenizer of the new model. Default: not set, which trains one on the training data.
    pub tokenizer: Option<TokenizerConfig>,
}

/// The resolved form of [`ModelStart`].
#[derive(Clone, Debug, PartialEq)]
pub enum Start {
    /// Load an existing model.
    Existing(ModelSource),
    /// Create a new model with random weights.
    Random {
        /// Shape of the model.
        shape: ModelShape,
        /// Tokenizer of the model.
        tokenizer: TokenizerConfig,
        /// Dtype of the model.
        dtype: Dtype,
        /// Device of the model.
        device: Device,
    },
}

impl ModelStart {
    /// Returns the resolved start. If both `path` and `shape` are set, which validation rejects, the shape is ignored. If neither
    /// is set, the new model has the default shape.
    pub fn start(&self) -> Start {
        match &self.path {
            Some(path) => {
                let (path, dtype, device) = (path.clone(), self.dtype, self.device);
                Start::Existing(ModelSource { path, dtype, device, ..ModelSource::default() })
            }
            None => Start::Random {
                shape: self.shape.clone().unwrap_or_default(),
                tokenizer: self.tokenizer.clone().unwrap_or_default(),
                dtype: self.dtype,
                device: self.device,
            },
        }
    }

    pub(crate) fn check(&self) -> CheckResult {
        let new = self.shape.is_some() || self.tokenizer.is_some();
        if let (Some(path), true) = (&self.path, new) {
            let either = "either the path of an existing model, or the shape and tokenizer of a new one \
                          (path = \"\" clears a path that is inherited through extends)";
            return ensure(false, "path", format!("\"{path}\", set together with a shape or tokenizer"), either);
        }
        given(self.path.is_some() || self.shape.is_some(), "path", "a model folder, a hub id, or [model.shape]")?;
        self.shape.as_ref().map_or(Ok(()), ModelShape::check).under("shape")?;
        self.tokenizer.as_ref().map_or(Ok(()), TokenizerConfig::check).under("tokenizer")
    }
}

/// Architecture of the model; all share one decoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Qwen3: queries and keys are normalized per head.
    #[default]
    Qwen3,
    /// Qwen2 and Qwen2.5: queries, keys, and values have biases.
    Qwen2,
    /// Llama.
    Llama,
    /// Mistral.
    Mistral,
}

impl Family {
    /// All families.
    pub const ALL: [Self; 4] = [Self::Qwen3, Self::Qwen2, Self::Llama, Self::Mistral];
}

/// Shape of a new model. The defaults describe a model of 0.6 million parameters without its embeddings, which trains on a CPU in
/// minutes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelShape {
    /// Architecture of the model. Default: qwen3.
    pub family: Family,
    /// Dimension of the residual stream. Default: 128.
    pub hidden_size: usize,
    /// Dimension of the MLP. Default: 384.
    pub intermediate_size: usize,
    /// Number of decoder layers. Default: 3.
    pub layers: usize,
    /// Number of query heads. Default: 4.
    pub heads: usize,
    /// Number of key and value heads; must divide `heads`. Default: 2.
    pub kv_heads: usize,
    /// Dimension of each head; must be even for the rotary embedding. Default: 32.
    pub head_dim: usize,
    /// Maximum sequence length in tokens. Default: 2048.
    pub max_position_embeddings: usize,
    /// Base of the rotary frequencies. Default: 1e6, as in Qwen3.
    pub rope_theta: f64,
    /// Epsilon added to the mean square in RMSNorm. Default: 1e-6, as in Qwen3.
    pub rms_norm_eps: f64,
    /// Whether the output layer shares the weights of the embedding. Default: true.
    pub tie_word_embeddings: bool,
    /// Standard deviation of the initial weights. Default: 0.02.
    pub init_std: f64,
}

impl Default for ModelShape {
    fn default() -> Self {
        Self {
            family: Family::default(),
            hidden_size: 128,
            intermediate_size: 384,
            layers: 3,
            heads: 4,
            kv_heads: 2,
            head_dim: 32,
            max_position_embeddings: 2048,
            rope_theta: 1e6,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: true,
            init_std: 0.02,
        }
    }
}

impl ModelShape {
    pub(crate) fn check(&self) -> CheckResult {
        at_least("hidden_size", self.hidden_size, 1)?;
        at_least("intermediate_size", self.intermediate_size, 1)?;
        at_least("layers", self.layers, 1)?;
        at_least("heads", self.heads, 1)?;
        let divides = self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads);
        ensure(divides, "kv_heads", self.kv_heads, &format!("a divisor of heads ({})", self.heads))?;
        let even = self.head_dim > 0 && self.head_dim.is_multiple_of(2);
        ensure(even, "head_dim", self.head_dim, "an even number, 2 or more (rotary embeddings rotate pairs)")?;
        at_least("max_position_embeddings", self.max_position_embeddings, 1)?;
        positive("rope_theta", self.rope_theta)?;
        positive("rms_norm_eps", self.rms_norm_eps)?;
        positive("init_std", self.init_std)
    }
}

/// The tokenizer of a new model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenizerConfig {
    /// Folder that contains an existing `tokenizer.json`. Empty (the default): train a byte-level BPE tokenizer on the training
    /// data.
    #[serde(with = "empty_is_none")]
    pub path: Option<PathBuf>,
    /// Vocabulary size of a trained tokenizer, including special tokens and the 256 bytes. Default: 2048.
    pub vocab_size: usize,
}

impl Default for TokenizerConfig {
    fn default() -> Self {
        Self { path: None, vocab_size: 2048 }
    }
}

impl TokenizerConfig {
    pub(crate) fn check(&self) -> CheckResult {
        // 256 bytes, and room for the special tokens of a chat template.
        at_least("vocab_size", self.vocab_size, 272)
    }
}
