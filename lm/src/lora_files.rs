//! Adapters in the file format of the PEFT library: adapter_config.json and adapter_model.safetensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use configs::Projection;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value as Json, json};
use tch::{Device, Kind, Tensor};

use crate::checkpoint::stored_kind;
use crate::{AdapterSpec, LmError, LoraAdapters, ModelConfig};

/// Name of the file with the configuration of an adapter and the name of its base model.
pub const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// Returns whether a folder contains an adapter and no model of its own.
pub fn is_adapter(folder: &Path) -> bool {
    folder.join(CONFIG).is_file() && !folder.join("config.json").is_file()
}

/// Contents of adapter_config.json.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterFile {
    /// Base model of the adapter: a folder or a hub id.
    pub base: String,
    /// Configuration of the adapter. The targets are empty until the tensors are read.
    pub spec: AdapterSpec,
}

/// Reads adapter_config.json.
///
/// # Errors
/// [`LmError::File`] if the file is missing or uses an unsupported feature.
pub fn read_config(folder: &Path) -> Result<AdapterFile, LmError> {
    let path = folder.join(CONFIG);
    let at = |message: String| LmError::File { path: path.clone(), message };
    let text = std::fs::read(&path).map_err(|e| at(format!("{e}; expected the folder of a PEFT adapter")))?;
    let json: Json = serde_json::from_slice(&text).map_err(|e| at(format!("not JSON: {e}")))?;
    let is = |key: &str, harmless: &[Json]| json[key].is_null() || harmless.contains(&json[key]);
    let known = [
        ("peft_type", vec![json!("LORA")]),
        ("bias", vec![json!("none")]),
        ("fan_in_fan_out", vec![json!(false)]),
        ("lora_bias", vec![json!(false)]),
        ("modules_to_save", vec![json!([])]),
        ("rank_pattern", vec![json!({})]),
        ("alpha_pattern", vec![json!({})]),
        ("layers_to_transform", vec![json!([])]),
        ("layer_replication", vec![json!([])]),
        ("trainable_token_indices", vec![json!([]), json!({})]),
        ("target_parameters", vec![json!([])]),
    ];
    for (key, harmless) in known {
        if !is(key, &harmless) {
            return Err(at(format!("`{key}` is {}, which is not supported; merge this adapter with PEFT", json[key])));
        }
    }
    // The other initializations of PEFT (PiSSA, OLoRA, LoftQ, CorDA) change the weights of the base model, too.
    let init = json["init_lora_weights"].as_str().unwrap_or_default().to_lowercase();
    if !["", "true", "false", "gaussian", "eva", "orthogonal", "mica"].contains(&init.as_str()) {
        return Err(at(format!(
            "`init_lora_weights` is \"{init}\", which is not supported; merge this adapter with PEFT"
        )));
    }
    let number = |key: &str| json[key].as_f64().ok_or_else(|| at(format!("field `{key}`: expected a number")));
    let rank = number("r")?;
    if !(rank >= 1.0 && rank.fract() == 0.0) {
        return Err(at(format!("field `r` is {rank}; expected a rank of 1 or more")));
    }
    Ok(AdapterFile {
        base: json["base_model_name_or_path"].as_str().unwrap_or_default().to_owned(),
        spec: AdapterSpec {
            rank: rank as i64,
            alpha: number("lora_alpha")?,
            rank_stabilized: json["use_rslora"].as_bool().unwrap_or(false),
            dora: json["use_dora"].as_bool().unwrap_or(false),
            targets: Vec::new(),
        },
    })
}

/// Returns the name of an adapter's tensor in PEFT files.
fn tensor_name(layer: usize, projection: Projection, what: &str) -> String {
    let block = match projection {
        Projection::QProj | Projection::KProj | Projection::VProj | Projection::OProj => "self_attn",
        Projection::GateProj | Projection::UpProj | Projection::DownProj => "mlp",
    };
    format!("base_model.model.model.layers.{layer}.{block}.{}.{what}", projection.name())
}

/// Returns every tensor of the adapters, keyed by its name in PEFT files.
fn named(adapters: &LoraAdapters, layers: usize) -> BTreeMap<String, Tensor> {
    let mut all = BTreeMap::new();
    for layer in 0..layers {
        for adapter in adapters.layer(layer) {
            let mut put = |what: &str, t: Tensor| all.insert(tensor_name(layer, adapter.projection, what), t);
            put("lora_A.weight", adapter.a);
            put("lora_B.weight", adapter.b);
            if let Some(magnitude) = adapter.magnitude {
                put("lora_magnitude_vector", magnitude);
            }
        }
    }
    all
}

/// Loads an adapter that was trained on a model of this shape.
///
/// # Errors
/// [`LmError::File`], which names the file and the tensors that are missing, unexpected, or of another shape.
pub fn load(folder: &Path, model: &ModelConfig, device: Device) -> Result<LoraAdapters, LmError> {
    let mut spec = read_config(folder)?.spec;
    let path = folder.join(WEIGHTS);
    let at = |message: String| LmError::File { path: path.clone(), message };
    let bytes = std::fs::read(&path).map_err(|e| at(e.to_string()))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| at(format!("not a complete safetensors file ({e})")))?;
    let has = |p: &Projection| tensors.names().iter().any(|n| n.contains(&format!(".{}.lora_A", p.name())));
    spec.targets = Projection::ALL.into_iter().filter(has).collect();
    if spec.targets.is_empty() {
        return Err(at("no LoRA weights found; expected names such as ….self_attn.q_proj.lora_A.weight".into()));
    }
    let adapters = LoraAdapters::zeros(model, spec, device)?;
    let mut places = named(&adapters, model.num_hidden_layers);
    for (name, tensor) in tensors.tensors() {
        let Some(mut place) = places.remove(&name) else {
            return Err(at(format!(
                "tensor `{name}` matches no projection of this model; use an adapter that was trained on it"
            )));
        };
        let shape: Vec<i64> = tensor.shape().iter().map(|&n| n as i64).collect();
        if shape != place.size() {
            return Err(at(format!("tensor `{name}` has shape {shape:?}; expected {:?}", place.size())));
        }
        let kind = stored_kind(tensor.dtype())
            .ok_or_else(|| at(format!("tensor `{name}` has dtype {:?}; supported: F32, BF16, F16", tensor.dtype())))?;
        let value = Tensor::f_from_data_size(tensor.data(), &shape, kind)?;
        tch::no_grad(|| place.copy_(&value));
    }
    match places.keys().next() {
        Some(missing) => Err(at(format!("tensor `{missing}` is missing ({} missing in total)", places.len()))),
        None => Ok(adapters),
    }
}

/// Writes the two files to `folder`, which must exist. `base` names the base model. `dropout` is recorded for later training.
///
/// # Errors
/// [`LmError::Write`] if the folder cannot be written.
pub fn save(folder: &Path, adapters: &LoraAdapters, layers: usize, base: &str, dropout: f64) -> Result<(), LmError> {
    let at = |path: &PathBuf| {
        let path = path.clone();
        move |e: String| LmError::Write { path, message: e }
    };
    let spec = adapters.spec();
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": spec.rank,
        "lora_alpha": spec.alpha,
        "lora_dropout": dropout,
        "target_modules": spec.targets.iter().map(|p| p.name()).collect::<Vec<_>>(),
        "bias": "none",
        "use_dora": spec.dora,
        "use_rslora": spec.rank_stabilized,
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "inference_mode": true,
        "modules_to_save": null,
        "rank_pattern": {},
        "alpha_pattern": {},
    });
    let path = folder.join(CONFIG);
    std::fs::write(&path, format!("{config:#}\n")).map_err(|e| at(&path)(e.to_string()))?;
    let path = folder.join(WEIGHTS);
    let tensors: Vec<(String, Tensor)> = named(adapters, layers)
        .into_iter()
        .map(|(name, t)| (name, t.to_device(Device::Cpu).to_kind(Kind::Float).contiguous()))
        .collect();
    let mut views = BTreeMap::new();
    for (name, t) in &tensors {
        let shape = t.size().iter().map(|&n| n as usize).collect();
        let view = TensorView::new(Dtype::F32, shape, torch_ext::bytes(t)?);
        views.insert(name.as_str(), view.map_err(|e| at(&path)(e.to_string()))?);
    }
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    safetensors::serialize_to_file(views, metadata, &path).map_err(|e| at(&path)(e.to_string()))?;
    let sync = std::fs::File::open(&path).and_then(|f| f.sync_all());
    sync.map_err(|e| at(&path)(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_that_would_change_the_model_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let read = |key: &str, value: Json| {
            let mut config = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "init_lora_weights": true});
            config[key] = value;
            std::fs::write(folder.path().join(CONFIG), config.to_string()).unwrap();
            read_config(folder.path()).map(|file| file.spec.rank).map_err(|e| e.to_string())
        };
        assert_eq!(read("init_lora_weights", json!("Gaussian")), Ok(4));
        for (key, value) in [
            ("init_lora_weights", json!("pissa")),
            ("fan_in_fan_out", json!(true)),
            ("modules_to_save", json!(["lm_head"])),
            ("rank_pattern", json!({"q_proj": 8})),
        ] {
            let refused = read(key, value).unwrap_err();
            assert!(refused.contains(key) && refused.contains("merge this adapter with PEFT"), "{refused}");
        }
        assert!(read("r", json!(0.5)).unwrap_err().contains("rank of 1 or more"));
    }
}
