//! Which model, where it computes, and what a new one looks like.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::check::{Under, Verdict, at_least, ensure, given, positive};
use crate::run::empty_is_none;

/// Where tensors live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// CUDA if there is a usable device, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// CUDA; an error if there is none.
    Cuda,
}

/// The number format of weights and activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit floats: for CPUs and for small models.
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
    /// A folder in Hugging Face's layout, or a hub id such as `Qwen/Qwen3-8B`. Required; empty means not given.
    pub path: String,
    /// Number format. Default: bf16.
    pub dtype: Dtype,
    /// Where it computes. Default: auto.
    pub device: Device,
    /// Memory for the keys and values of what it generates or scores at once, GiB. Default: 4.
    pub cache_gib: f64,
    /// Sequences it generates at once, if their keys and values fit. Default: 512.
    pub max_rows: usize,
    /// Tokens of one forward pass while it generates or scores; longer prompts are read in parts. Default: 8192.
    pub step_tokens: usize,
}

impl Default for ModelSource {
    fn default() -> Self {
        Self {
            path: String::new(),
            dtype: Dtype::default(),
            device: Device::default(),
            cache_gib: 4.0,
            max_rows: 512,
            step_tokens: 8192,
        }
    }
}

impl ModelSource {
    pub(crate) fn check(&self) -> Verdict {
        given(!self.path.is_empty(), "path", "a model folder or a hub id")?;
        positive("cache_gib", self.cache_gib)?;
        at_least("max_rows", self.max_rows, 1)?;
        at_least("step_tokens", self.step_tokens, 1)
    }
}

/// The model that training starts from: an existing one (`path`), or a new one with random weights (`shape` and
/// `tokenizer`). Exactly one of the two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelStart {
    /// A folder in Hugging Face's layout, or a hub id. Empty (the default): start from random weights.
    #[serde(with = "empty_is_none")]
    pub path: Option<String>,
    /// Number format. Default: bf16.
    pub dtype: Dtype,
    /// Where it computes. Default: auto.
    pub device: Device,
    /// Shape of the new model. Default: not given.
    pub shape: Option<ModelShape>,
    /// Tokenizer of the new model. Default: not given, which means one trained on the training data.
    pub tokenizer: Option<TokenizerConfig>,
}

/// What [`ModelStart`] says.
#[derive(Clone, Debug, PartialEq)]
pub enum Start {
    /// Load this model.
    Existing(ModelSource),
    /// Make a new model.
    Random {
        /// Its shape.
        shape: ModelShape,
        /// Its tokenizer.
        tokenizer: TokenizerConfig,
        /// Its number format.
        dtype: Dtype,
        /// Where it computes.
        device: Device,
    },
}

impl ModelStart {
    /// Which of the two kinds of start this is. Unless both `path` and `shape` are given, which a check refuses,
    /// nothing is left out; without either, the new model has the default shape.
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

    pub(crate) fn check(&self) -> Verdict {
        let new = self.shape.is_some() || self.tokenizer.is_some();
        if let (Some(path), true) = (&self.path, new) {
            let either = "one of the two: a path to an existing model, or the shape and tokenizer of a new one \
                          (path = \"\" takes back a path that an extended file gives)";
            return ensure(false, "path", format!("\"{path}\" beside a shape or tokenizer"), either);
        }
        given(self.path.is_some() || self.shape.is_some(), "path", "a model folder, a hub id, or else [model.shape]")?;
        self.shape.as_ref().map_or(Ok(()), ModelShape::check).under("shape")?;
        self.tokenizer.as_ref().map_or(Ok(()), TokenizerConfig::check).under("tokenizer")
    }
}

/// The architecture, over one decoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Qwen3: queries and keys normalised per head.
    #[default]
    Qwen3,
    /// Qwen2 and Qwen2.5: biases on queries, keys and values.
    Qwen2,
    /// Llama.
    Llama,
    /// Mistral.
    Mistral,
}

/// The shape of a new model. The defaults are a model of 0.6 million parameters beside its embeddings, which trains on
/// a CPU in minutes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelShape {
    /// Architecture. Default: qwen3.
    pub family: Family,
    /// Width of the residual stream. Default: 128.
    pub hidden_size: usize,
    /// Width inside the MLP. Default: 384.
    pub intermediate_size: usize,
    /// Decoder layers. Default: 3.
    pub layers: usize,
    /// Query heads. Default: 4.
    pub heads: usize,
    /// Key and value heads; divides `heads`. Default: 2.
    pub kv_heads: usize,
    /// Width of a head; even, for the rotary embedding. Default: 32.
    pub head_dim: usize,
    /// Longest sequence in tokens. Default: 2048.
    pub max_position_embeddings: usize,
    /// Base of the rotary frequencies. Default: 1e6, as Qwen3.
    pub rope_theta: f64,
    /// Added to the mean square in RMSNorm. Default: 1e-6, as Qwen3.
    pub rms_norm_eps: f64,
    /// Whether the output layer is the embedding. Default: true.
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
    pub(crate) fn check(&self) -> Verdict {
        at_least("hidden_size", self.hidden_size, 1)?;
        at_least("intermediate_size", self.intermediate_size, 1)?;
        at_least("layers", self.layers, 1)?;
        at_least("heads", self.heads, 1)?;
        let divides = self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads);
        ensure(divides, "kv_heads", self.kv_heads, &format!("a divisor of heads ({})", self.heads))?;
        let even = self.head_dim > 0 && self.head_dim.is_multiple_of(2);
        ensure(even, "head_dim", self.head_dim, "an even number, 2 or more (the rotary embedding turns pairs)")?;
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
    /// Folder with an existing `tokenizer.json`. Empty (the default): train a byte-level BPE on the training data.
    #[serde(with = "empty_is_none")]
    pub path: Option<PathBuf>,
    /// Tokens in the vocabulary when one is trained, special tokens and the 256 bytes included. Default: 2048.
    pub vocab_size: usize,
}

impl Default for TokenizerConfig {
    fn default() -> Self {
        Self { path: None, vocab_size: 2048 }
    }
}

impl TokenizerConfig {
    pub(crate) fn check(&self) -> Verdict {
        // 256 bytes, and room for the special tokens of a chat.
        at_least("vocab_size", self.vocab_size, 272)
    }
}
