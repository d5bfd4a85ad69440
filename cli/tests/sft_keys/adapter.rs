//! Keys of `[lora]`.

use std::fs;

use serde_json::{Value as Json, json};
use tolerance::assert_within;

use crate::fixture::{Bench, tensors};

/// Returns loss and gradient norm of the first step with an adapter.
fn first(bench: &Bench, name: &str, set: &[&str]) -> (f64, f64) {
    let run = bench.fit(name, &[&["train.max_steps=1", "lora.rank=4"], set].concat());
    (run.column("loss")[0], run.column("grad_norm")[0])
}

#[test]
fn an_adapters_files_are_as_its_keys_say() {
    let bench = Bench::new();
    let set = ["train.max_steps=1", "lora.rank=3", "lora.alpha=6", "lora.dropout=0.25", "lora.dora=true"];
    let folder = bench.fit("few", &[&set[..], &["lora.targets=[\"q_proj\",\"down_proj\"]"]].concat()).last();
    let mut shapes: Vec<(String, Vec<i64>)> =
        tensors(&folder.join("adapter_model.safetensors")).iter().map(|(n, t)| (n.clone(), t.size())).collect();
    shapes.sort();
    let mut expected = Vec::new();
    for layer in 0..2 {
        let place = format!("base_model.model.model.layers.{layer}");
        for (projection, into, out) in [("mlp.down_proj", 96, 64), ("self_attn.q_proj", 64, 64)] {
            expected.push((format!("{place}.{projection}.lora_A.weight"), vec![3, into]));
            expected.push((format!("{place}.{projection}.lora_B.weight"), vec![out, 3]));
            expected.push((format!("{place}.{projection}.lora_magnitude_vector"), vec![out]));
        }
    }
    assert_eq!(shapes, expected);
    let config: Json = serde_json::from_slice(&fs::read(folder.join("adapter_config.json")).unwrap()).unwrap();
    for (key, value) in [("r", json!(3.0)), ("lora_alpha", json!(6.0)), ("lora_dropout", json!(0.25))] {
        assert_eq!(config[key].as_f64(), value.as_f64(), "{key}");
    }
    assert_eq!((&config["use_dora"], &config["peft_type"]), (&json!(true), &json!("LORA")));
    assert!(!folder.join("model.safetensors").exists(), "an adapter holds no model");
}

#[test]
fn a_new_adapter_changes_nothing_and_alpha_scales_its_gradient() {
    let bench = Bench::new();
    let full = bench.fit("full", &["train.max_steps=1"]).column("loss")[0];
    let (loss, norm) = first(&bench, "lora", &["lora.alpha=8"]);
    assert_within!(loss - full, 1e-6, "{loss} is not the model's own {full}");
    let (_, doubled) = first(&bench, "alpha", &["lora.alpha=16"]);
    assert_within!(doubled / norm - 2.0, 1e-5, "twice the alpha, twice the gradient of B: {norm}, {doubled}");
    let (dora, more) = first(&bench, "dora", &["lora.alpha=8", "lora.dora=true"]);
    assert_within!(dora - full, 1e-5, "{dora} beside {full}");
    assert!(more > norm, "magnitudes have gradients: {more}, {norm}");
    let (dropped, other) = first(&bench, "dropout", &["lora.alpha=8", "lora.dropout=0.5"]);
    assert_within!(dropped - full, 1e-6, "{dropped} beside {full}");
    assert!((other / norm - 1.0).abs() > 1e-3, "{other} {norm}");
}

#[test]
fn an_adapter_learns() {
    let bench = Bench::new();
    let run = bench.fit("learns", &["lora.rank=4", "train.max_steps=20", "optimizer.lr=1e-2"]);
    let loss = run.column("loss");
    assert!(loss[19] < 0.8 * loss[0], "{loss:?}");
}
