//! What each model family adds to the common decoder. Families differ in data, not in code.

use configs::model::Family;
use serde_json::Value as Json;

/// Which projections have a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Biases {
    /// Whether the query, key and value projections have a bias.
    pub qkv: bool,
    /// Whether the output projection of attention has a bias.
    pub o: bool,
    /// Whether the gate, up and down projections have a bias.
    pub mlp: bool,
}

/// Returns the family's `model_type` in config.json.
pub fn model_type(family: Family) -> &'static str {
    match family {
        Family::Qwen3 => "qwen3",
        Family::Qwen2 => "qwen2",
        Family::Llama => "llama",
        Family::Mistral => "mistral",
    }
}

/// Returns the family's class in transformers.
pub fn architecture(family: Family) -> &'static str {
    match family {
        Family::Qwen3 => "Qwen3ForCausalLM",
        Family::Qwen2 => "Qwen2ForCausalLM",
        Family::Llama => "LlamaForCausalLM",
        Family::Mistral => "MistralForCausalLM",
    }
}

/// Returns the default width of a head, for a config.json without `head_dim`, as in transformers.
pub(crate) fn head_dim(family: Family, hidden_size: i64, heads: i64) -> i64 {
    match family {
        Family::Qwen3 => 128,
        Family::Qwen2 | Family::Llama | Family::Mistral => hidden_size / heads.max(1),
    }
}

/// Returns whether query and key heads are normalized before RoPE.
pub fn qk_norm(family: Family) -> bool {
    family == Family::Qwen3
}

/// Returns which projections have a bias, given the two config flags. A family ignores the flags that it does not have.
pub fn biases(family: Family, attention_bias: bool, mlp_bias: bool) -> Biases {
    match family {
        Family::Qwen3 => Biases { qkv: attention_bias, o: attention_bias, mlp: false },
        Family::Qwen2 => Biases { qkv: true, o: false, mlp: false },
        Family::Llama => Biases { qkv: attention_bias, o: attention_bias, mlp: mlp_bias },
        Family::Mistral => Biases::default(),
    }
}

/// Returns the sliding window, in tokens, if the config enables one. Up to this length, windowed attention equals full
/// attention.
pub(crate) fn window(family: Family, config: &Json) -> Option<usize> {
    let on = match family {
        Family::Qwen3 | Family::Qwen2 => config["use_sliding_window"].as_bool() == Some(true),
        Family::Mistral => true,
        Family::Llama => false,
    };
    let window = config["sliding_window"].as_u64().map(|w| w as usize);
    // The default of MistralConfig, used if config.json omits the field.
    let missing = family == Family::Mistral && config.get("sliding_window").is_none();
    window.or(missing.then_some(4096)).filter(|_| on)
}
