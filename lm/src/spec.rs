//! What a model is: the numbers of Hugging Face's config.json, and what a family adds to the common decoder.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use crate::LmError;

/// Families the decoder knows. They differ in data, not in code: see the methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Qwen3: RMSNorm on each query and key head.
    Qwen3,
    /// Llama: the plain decoder.
    Llama,
}

impl Family {
    /// The family's `model_type` in config.json.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Qwen3 => "qwen3",
            Self::Llama => "llama",
        }
    }

    /// The family's class in transformers.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Llama => "LlamaForCausalLM",
        }
    }

    /// Width of a head where config.json names none, as transformers has it.
    fn head_dim(self, hidden_size: i64, heads: i64) -> i64 {
        match self {
            Self::Qwen3 => 128,
            Self::Llama => hidden_size / heads.max(1),
        }
    }

    /// Whether query and key heads are normalised before RoPE.
    pub fn qk_norm(self) -> bool {
        matches!(self, Self::Qwen3)
    }
}

/// Shape and constants of a decoder-only model. Names are those of config.json.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// Family.
    pub family: Family,
    /// Rows of the embedding.
    pub vocab_size: i64,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Width of the gated MLP.
    pub intermediate_size: i64,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: i64,
    /// Key/value heads (grouped-query attention).
    pub num_key_value_heads: i64,
    /// Width of a head; need not be hidden_size / heads.
    pub head_dim: i64,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// RoPE base.
    pub rope_theta: f64,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Whether the output projection is the embedding.
    pub tie_word_embeddings: bool,
}

impl ModelSpec {
    /// Reads config.json of a model folder.
    ///
    /// # Errors
    /// [`LmError::File`] naming the field that is missing, of the wrong type, or asks for something not supported.
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
        let family = match json["model_type"].as_str() {
            Some("qwen3") => Family::Qwen3,
            Some("llama") => Family::Llama,
            other => return Err(format!("model_type is {other:?}; supported: \"qwen3\", \"llama\"")),
        };
        let int = |key: &str| json[key].as_i64().ok_or_else(|| format!("field `{key}`: expected an integer"));
        let float = |key: &str| json[key].as_f64().ok_or_else(|| format!("field `{key}`: expected a number"));
        let int_or = |key: &str, default: i64| if json[key].is_null() { Ok(default) } else { int(key) };
        // transformers 5 writes the RoPE numbers into an object, earlier versions beside the rest.
        let rope = ["rope_parameters", "rope_scaling"].iter().map(|k| &json[*k]).find(|v| v.is_object());
        if let Some(kind) = rope.and_then(|r| r.get("rope_type").or(r.get("type"))).and_then(Json::as_str)
            && kind != "default"
        {
            return Err(format!("RoPE scaling `{kind}` is not supported yet; use a model without it"));
        }
        if let Some(act) = json["hidden_act"].as_str()
            && act != "silu"
        {
            return Err(format!("field `hidden_act` is `{act}`; supported: silu"));
        }
        for bias in ["attention_bias", "mlp_bias"] {
            if json[bias].as_bool() == Some(true) {
                return Err(format!("field `{bias}` is true; this family is supported without it"));
            }
        }
        if json["use_sliding_window"].as_bool() == Some(true) {
            return Err("field `use_sliding_window` is true; only attention over the whole context is supported".into());
        }
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
            head_dim: int_or("head_dim", family.head_dim(hidden_size, num_attention_heads))?,
            max_position_embeddings: usize::try_from(int("max_position_embeddings")?)
                .map_err(|_| "field `max_position_embeddings` is negative")?,
            rope_theta: match rope.and_then(|r| r["rope_theta"].as_f64()) {
                Some(theta) => theta,
                None if json["rope_theta"].is_null() => 10_000.0,
                None => float("rope_theta")?,
            },
            rms_norm_eps: float("rms_norm_eps")?,
            tie_word_embeddings: json["tie_word_embeddings"].as_bool().unwrap_or(false),
        })
    }

    /// The config.json that transformers reads, with the ids of the special tokens.
    pub fn to_json(&self, stop_ids: &[u32], pad_id: Option<u32>, dtype: &str) -> Json {
        let mut json = Map::new();
        let mut put = |key: &str, value: Json| json.insert(key.into(), value);
        put("architectures", json!([self.family.architecture()]));
        put("model_type", json!(self.family.model_type()));
        put("vocab_size", json!(self.vocab_size));
        put("hidden_size", json!(self.hidden_size));
        put("intermediate_size", json!(self.intermediate_size));
        put("num_hidden_layers", json!(self.num_hidden_layers));
        put("num_attention_heads", json!(self.num_attention_heads));
        put("num_key_value_heads", json!(self.num_key_value_heads));
        put("head_dim", json!(self.head_dim));
        put("max_position_embeddings", json!(self.max_position_embeddings));
        put("rope_theta", json!(self.rope_theta));
        put("rms_norm_eps", json!(self.rms_norm_eps));
        put("tie_word_embeddings", json!(self.tie_word_embeddings));
        put("hidden_act", json!("silu"));
        put("attention_bias", json!(false));
        put("attention_dropout", json!(0.0));
        put("eos_token_id", json!(stop_ids.first()));
        put("pad_token_id", json!(pad_id));
        put("torch_dtype", json!(dtype));
        Json::Object(json)
    }

    /// Forward FLOPs of one token's matrix products, attention scores left out: 2 per weight that multiplies it.
    pub fn flops_per_token(&self) -> f64 {
        let c = self.hidden_size as f64;
        let heads = (self.num_attention_heads + self.num_key_value_heads) as f64 * self.head_dim as f64;
        let layer = 2.0 * c * heads + 3.0 * c * self.intermediate_size as f64;
        2.0 * (self.num_hidden_layers as f64 * layer + c * self.vocab_size as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ModelSpec {
        ModelSpec {
            family: Family::Qwen3,
            vocab_size: 1000,
            hidden_size: 128,
            intermediate_size: 384,
            num_hidden_layers: 4,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 64,
            max_position_embeddings: 2048,
            rope_theta: 1e6,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: true,
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        assert_eq!(ModelSpec::from_json(&spec().to_json(&[3], Some(0), "float32")).unwrap(), spec());
    }

    #[test]
    fn newer_files_keep_rope_in_an_object() {
        let mut json = spec().to_json(&[3], None, "float32");
        json["rope_parameters"] = json!({"rope_theta": 5e5, "rope_type": "default"});
        assert_eq!(ModelSpec::from_json(&json).unwrap().rope_theta, 5e5);
    }

    #[test]
    fn a_head_width_left_out_is_the_familys_own() {
        let width = |family: &str| {
            let mut json = spec().to_json(&[], None, "float32");
            json["model_type"] = json!(family);
            json.as_object_mut().unwrap().remove("head_dim");
            ModelSpec::from_json(&json).unwrap().head_dim
        };
        assert_eq!((width("qwen3"), width("llama")), (128, 32));
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (key, value, expect) in [
            ("model_type", json!("gpt2"), "gpt2"),
            ("rope_scaling", json!({"rope_type": "yarn"}), "yarn"),
            ("hidden_act", json!("gelu"), "gelu"),
            ("attention_bias", json!(true), "attention_bias"),
            ("hidden_size", json!("wide"), "hidden_size"),
            ("use_sliding_window", json!(true), "use_sliding_window"),
        ] {
            let mut json = spec().to_json(&[], None, "float32");
            json[key] = value;
            let error = ModelSpec::from_json(&json).unwrap_err();
            assert!(error.contains(expect), "{key}: {error}");
        }
    }
}
