//! Models written by transformers, in the forms that it writes: one file or shards, fp32 or bf16, tied or untied.

use std::path::Path;

use lm::{Packed, checkpoint};
use serde_json::{Value as Json, json};
use tch::{Device, Kind};

use crate::fixtures::{CONTEXT, close_everywhere, ids};
use crate::reference::ask;

struct Made {
    name: &'static str,
    family: &'static str,
    tied: bool,
    dtype: &'static str,
    shard_size: Option<&'static str>,
}

const MODELS: [Made; 4] = [
    Made { name: "qwen3", family: "qwen3", tied: true, dtype: "float32", shard_size: None },
    Made { name: "qwen3-shards", family: "qwen3", tied: false, dtype: "float32", shard_size: Some("40KB") },
    Made { name: "llama-bf16", family: "llama", tied: false, dtype: "bfloat16", shard_size: None },
    Made { name: "llama-shards", family: "llama", tied: true, dtype: "float32", shard_size: Some("40KB") },
];

fn sequences() -> Vec<Vec<u32>> {
    [3, 1, 120].iter().map(|&n| ids(70 + n, n as usize).into_iter().map(|id| id % 300).collect()).collect()
}

fn recipe(made: &Made, folder: &Path) -> Json {
    let mut config = json!({
        "vocab_size": 300, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": made.tied, "rope_parameters": { "rope_type": "default", "rope_theta": 500_000.0 },
    });
    if made.family == "qwen3" {
        config["head_dim"] = json!(16);
    }
    let save = made.shard_size.map_or(json!({}), |size| json!({ "max_shard_size": size }));
    json!({ "folder": folder.join(made.name), "family": made.family, "config": config, "seed": 5, "save": save,
            "dtype": made.dtype })
}

#[test]
fn models_written_by_transformers_have_the_same_logits_here() {
    let place = tempfile::tempdir().unwrap();
    let make: Vec<Json> = MODELS.iter().map(|m| recipe(m, place.path())).collect();
    let models: Vec<Json> = MODELS
        .iter()
        .map(|m| {
            json!({ "name": m.name, "folder": place.path().join(m.name), "sequences": sequences(), "gradients": null,
                    "greedy": [], "new_tokens": 0, "texts": [], "chats": [] })
        })
        .collect();
    let answers = ask(&json!({ "make": make, "models": models, "rope": [] }), place.path());
    for made in &MODELS {
        let folder = place.path().join(made.name);
        // The forms under test: RoPE in an object, shards with an index.
        let config: Json = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["rope_parameters"]["rope_theta"], 500_000.0);
        assert_eq!(config.get("rope_theta"), None);
        assert_eq!(folder.join("model.safetensors.index.json").exists(), made.shard_size.is_some());
        assert_eq!(folder.join("model.safetensors").exists(), made.shard_size.is_none());

        let model = checkpoint::load(&folder, Kind::Float, Device::Cpu).unwrap();
        assert_eq!(model.spec().rope.theta, 500_000.0);
        assert_eq!(model.spec().tie_word_embeddings, made.tied);
        let batch = Packed::new(&sequences(), CONTEXT, Device::Cpu).unwrap();
        let logits = tch::no_grad(|| model.logits(&batch)).unwrap();
        for (i, pair) in batch.cu_seqlens.windows(2).enumerate() {
            let expected = answers.tensor(&format!("{}/logits/{i}", made.name));
            let ours = logits.narrow(0, pair[0], pair[1] - pair[0]);
            close_everywhere(&format!("{}, sequence {i}", made.name), &ours, &expected, 1e-4);
        }
    }
}
