//! Model configuration: the values of a Hugging Face config.json.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use configs::model::Family;

use crate::LmError;
use crate::family::{self, Biases};
use crate::rope::{Rope, Scaling};

/// Shape and constants of a decoder-only model. Field names are those of config.json.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Model family.
    pub family: Family,
    /// Number of rows of the embedding.
    pub vocab_size: i64,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Width of the gated MLP.
    pub intermediate_size: i64,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: i64,
    /// Number of key/value heads (grouped-query attention).
    pub num_key_value_heads: i64,
    /// Width of a head, which may differ from hidden_size / heads.
    pub head_dim: i64,
    /// Maximum sequence length, in tokens, before RoPE scaling.
    pub max_position_embeddings: usize,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Epsilon that RMSNorm adds to the mean square.
    pub rms_norm_eps: f64,
    /// Whether the output projection is the embedding.
    pub tie_word_embeddings: bool,
    /// Which projections have a bias.
    pub biases: Biases,
    /// Sliding window, in tokens. It limits the context length; up to this length, windowed attention equals full attention.
    pub window: Option<usize>,
    /// Contents of config.json as read. A saved model keeps the fields that this crate does not use.
    pub source: Map<String, Json>,
}

impl ModelConfig {
    /// Reads config.json of a model folder.
    ///
    /// # Errors
    /// [`LmError::File`], which names the field that is missing, has the wrong type, or requests an unsupported feature.
    pub fn load(folder: &Path) -> Result<Self, LmError> {
        let path = folder.join("config.json");
        let file = |message: String| LmError::File { path: path.clone(), message };
        let text = std::fs::read(&path).map_err(|e| {
            file(format!("{e}; expected a Hugging Face model folder (config.json, *.safetensors, tokenizer.json)"))
        })?;
        let json: Json = serde_json::from_slice(&text).map_err(|e| file(format!("not JSON: {e}")))?;
        Self::from_json(&json).map_err(file)
    }

    fn from_json(json: &Json) -> Result<Self, String> {
        let family = Family::ALL.into_iter().find(|&f| json["model_type"].as_str() == Some(family::model_type(f)));
        let family = family.ok_or_else(|| {
            let known = Family::ALL.map(family::model_type).join(", ");
            format!("field `model_type` is {}; supported: {known}", json["model_type"])
        })?;
        let int = |key: &str| json[key].as_i64().ok_or_else(|| format!("field `{key}`: expected an integer"));
        let float = |key: &str| json[key].as_f64().ok_or_else(|| format!("field `{key}`: expected a number"));
        let int_or = |key: &str, default: i64| if json[key].is_null() { Ok(default) } else { int(key) };
        if let Some(act) = json["hidden_act"].as_str()
            && act != "silu"
        {
            return Err(format!("field `hidden_act` is `{act}`; supported: silu"));
        }
        let is = |key: &str| json[key].as_bool() == Some(true);
        let (hidden_size, num_attention_heads) = (int("hidden_size")?, int("num_attention_heads")?);
        Ok(Self {
            family,
            vocab_size: int("vocab_size")?,
            hidden_size,
            intermediate_size: int("intermediate_size")?,
            num_hidden_layers: usize::try_from(int("num_hidden_layers")?)
                .map_err(|_| "field `num_hidden_layers` is negative")?,
            num_attention_heads,
            num_key_value_heads: int_or("num_key_value_heads", num_attention_heads)?,
            head_dim: int_or("head_dim", family::head_dim(family, hidden_size, num_attention_heads))?,
            max_position_embeddings: usize::try_from(int("max_position_embeddings")?)
                .map_err(|_| "field `max_position_embeddings` is negative")?,
            rope: Rope::from_config(json)?,
            rms_norm_eps: float("rms_norm_eps")?,
            tie_word_embeddings: is("tie_word_embeddings"),
            biases: family::biases(family, is("attention_bias"), is("mlp_bias")),
            window: family::window(family, json),
            source: json.as_object().cloned().unwrap_or_default(),
        })
    }

    /// Returns a config.json that transformers reads, with the ids of the special tokens.
    pub fn to_json(&self, stop_ids: &[u32], pad_id: Option<u32>, dtype: &str) -> Json {
        let mut json = self.source.clone();
        // These are written below under names that every version of transformers reads.
        for other in ["rope_parameters", "dtype"] {
            json.shift_remove(other);
        }
        let mut put = |key: &str, value: Json| json.insert(key.into(), value);
        put("architectures", json!([family::architecture(self.family)]));
        put("model_type", json!(family::model_type(self.family)));
        put("vocab_size", json!(self.vocab_size));
        put("hidden_size", json!(self.hidden_size));
        put("intermediate_size", json!(self.intermediate_size));
        put("num_hidden_layers", json!(self.num_hidden_layers));
        put("num_attention_heads", json!(self.num_attention_heads));
        put("num_key_value_heads", json!(self.num_key_value_heads));
        put("head_dim", json!(self.head_dim));
        put("max_position_embeddings", json!(self.max_position_embeddings));
        put("rope_theta", json!(self.rope.theta));
        put("rope_scaling", if self.rope.scaling == Scaling::None { Json::Null } else { self.rope.to_json() });
        put("rms_norm_eps", json!(self.rms_norm_eps));
        put("tie_word_embeddings", json!(self.tie_word_embeddings));
        put("hidden_act", json!("silu"));
        put("attention_bias", json!(self.biases.o));
        put("mlp_bias", json!(self.biases.mlp));
        put("attention_dropout", json!(0.0));
        if self.window.is_none() {
            put("use_sliding_window", json!(false));
            put("sliding_window", Json::Null);
        }
        put("eos_token_id", json!(stop_ids.first()));
        put("pad_token_id", json!(pad_id));
        put("torch_dtype", json!(dtype));
        Json::Object(json)
    }

    /// Returns the maximum sequence length that the model supports, in tokens.
    pub fn context(&self) -> usize {
        let reach = self.rope.context(self.max_position_embeddings);
        self.window.map_or(reach, |window| reach.min(window))
    }

    /// Returns the forward FLOPs of one token's matrix products, without attention scores: 2 for each weight that multiplies it.
    pub fn flops_per_token(&self) -> f64 {
        let c = self.hidden_size as f64;
        let heads = (self.num_attention_heads + self.num_key_value_heads) as f64 * self.head_dim as f64;
        let layer = 2.0 * c * heads + 3.0 * c * self.intermediate_size as f64;
        2.0 * (self.num_hidden_layers as f64 * layer + c * self.vocab_size as f64)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn spec() -> ModelConfig {
        ModelConfig {
            family: Family::Qwen3,
            vocab_size: 1000,
            hidden_size: 128,
            intermediate_size: 384,
            num_hidden_layers: 4,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 64,
            max_position_embeddings: 2048,
            rope: Rope::new(1e6),
            rms_norm_eps: 1e-6,
            tie_word_embeddings: true,
            biases: Biases::default(),
            window: None,
            source: Map::new(),
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let written = spec().to_json(&[3], Some(0), "float32");
        let read = ModelConfig::from_json(&written).unwrap();
        assert_eq!(ModelConfig { source: Map::new(), ..read.clone() }, spec());
        assert_eq!(read.to_json(&[3], Some(0), "float32"), written);
    }

    #[test]
    fn newer_files_keep_rope_in_an_object() {
        let mut json = spec().to_json(&[3], None, "float32");
        json["rope_parameters"] = json!({"rope_theta": 5e5, "rope_type": "default"});
        assert_eq!(ModelConfig::from_json(&json).unwrap().rope.theta, 5e5);
    }

    #[test]
    fn a_head_width_left_out_is_the_familys_own() {
        let width = |family: &str| {
            let mut json = spec().to_json(&[], None, "float32");
            json["model_type"] = json!(family);
            json.as_object_mut().unwrap().remove("head_dim");
            ModelConfig::from_json(&json).unwrap().head_dim
        };
        assert_eq!((width("qwen3"), width("llama")), (128, 32));
    }

    #[test]
    fn a_sliding_window_bounds_the_context() {
        let context = |family: &str, key: &str, window: serde_json::Value| {
            let mut json = spec().to_json(&[], None, "float32");
            (json["model_type"], json[key]) = (json!(family), json!(true));
            json["sliding_window"] = window;
            ModelConfig::from_json(&json).unwrap().context()
        };
        assert_eq!(context("mistral", "unused", json!(100)), 100);
        assert_eq!(context("mistral", "unused", json!(null)), 2048);
        assert_eq!(context("qwen2", "unused", json!(100)), 2048, "use_sliding_window is false");
        assert_eq!(context("qwen2", "use_sliding_window", json!(100)), 100);
    }

    #[test]
    fn what_is_not_ours_is_kept() {
        let mut json = spec().to_json(&[3], None, "float32");
        json["bos_token_id"] = json!(7);
        json["rope_parameters"] = json!({"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0});
        let written = ModelConfig::from_json(&json).unwrap().to_json(&[3], None, "bfloat16");
        assert_eq!(written["bos_token_id"], 7);
        assert_eq!((&written["torch_dtype"], &written["rope_theta"]), (&json!("bfloat16"), &json!(5e5)));
        assert_eq!(written["rope_scaling"], json!({"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}));
        assert_eq!(written.get("rope_parameters"), None);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (key, value, expect) in [
            ("model_type", json!("gpt2"), "gpt2"),
            ("rope_scaling", json!({"rope_type": "longrope"}), "longrope"),
            ("rope_scaling", json!({"rope_type": "linear"}), "factor"),
            ("rope_scaling", json!({"rope_type": "llama3", "factor": 2.0}), "low_freq_factor"),
            ("hidden_act", json!("gelu"), "gelu"),
            ("hidden_size", json!("wide"), "hidden_size"),
            ("partial_rotary_factor", json!(0.5), "partial_rotary_factor"),
        ] {
            let mut json = spec().to_json(&[], None, "float32");
            json[key] = value;
            let error = ModelConfig::from_json(&json).unwrap_err();
            assert!(error.contains(expect), "{key}: {error}");
        }
    }
}
