//! Model folders: errors name what is wrong in a folder, and a save completes or changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use lm::{Decoder, Family, LmError, LocalModel, Packed, checkpoint};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value as Json;
use tch::{Device, Kind};

use crate::fixtures::{CONTEXT, VARIANTS, close, decoder, sequences, spec, tokenizer, weights};

fn save(folder: &Path, model: &Decoder) -> Result<(), LmError> {
    checkpoint::save(folder, model, &tokenizer(), |_| Ok(()))
}

fn load(folder: &Path) -> Result<Decoder, LmError> {
    checkpoint::load(folder, Kind::Float, Device::Cpu)
}

/// Returns every file under `folder` with its bytes.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).map(|p| (p.clone(), fs::read(p).unwrap())).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Saves a model of the family, which the tests then damage.
fn saved(family: Family, tied: bool) -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("model");
    save(&folder, &decoder(family, tied)).unwrap();
    (place, folder)
}

#[track_caller]
fn refused(folder: &Path, expect: &[&str]) {
    let error = load(folder).unwrap_err().to_string();
    for part in expect {
        assert!(error.contains(part), "expected `{part}` in: {error}");
    }
}

/// Rewrites model.safetensors with the tensors that `change` keeps, under the names and shapes that it returns.
fn rewrite(folder: &Path, change: impl Fn(&str, Vec<usize>) -> Option<(String, Vec<usize>)>) {
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut views = BTreeMap::new();
    for (name, tensor) in tensors.tensors() {
        if let Some((name, shape)) = change(&name, tensor.shape().to_vec()) {
            let length = 4 * shape.iter().product::<usize>();
            views.insert(name, TensorView::new(Dtype::F32, shape, &tensor.data()[..length]).unwrap());
        }
    }
    fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn a_saved_model_loads_to_the_same_bits_and_saves_to_the_same_bytes() {
    for (family, tied) in VARIANTS {
        let (place, folder) = saved(family, tied);
        let again = load(&folder).unwrap();
        assert_eq!(again.params.flat, decoder(family, tied).params.flat);
        let read = again.spec();
        assert_eq!(
            lm::ModelConfig { source: serde_json::Map::new(), rope: spec(family, tied).rope, ..read.clone() },
            spec(family, tied)
        );
        assert_eq!((read.rope.theta, &read.rope.scaling), (spec(family, tied).rope.theta, &lm::rope::Scaling::None));
        let second = place.path().join("second");
        let local = LocalModel::load(&folder, Kind::Float, Device::Cpu).unwrap();
        checkpoint::save(&second, &local.decoder, &local.tokenizer, |_| Ok(())).unwrap();
        let stripped = |folder: &Path| -> BTreeMap<_, _> {
            contents(folder).into_iter().map(|(p, bytes)| (p.file_name().unwrap().to_owned(), bytes)).collect()
        };
        assert_eq!(stripped(&folder), stripped(&second));
    }
}

#[test]
fn lower_precisions_are_stored_as_such_and_read_into_any() {
    let place = tempfile::tempdir().unwrap();
    let batch = Packed::new(&sequences(), CONTEXT, Device::Cpu).unwrap();
    let exact = decoder(Family::Qwen3, true);
    for (kind, dtype, rounding) in
        [(Kind::BFloat16, "bfloat16", 2f64.powi(-8)), (Kind::Half, "float16", 2f64.powi(-11))]
    {
        let mut params = weights(&spec(Family::Qwen3, true), 7);
        params.flat = params.flat.to_kind(kind);
        let folder = place.path().join(dtype);
        save(&folder, &Decoder::new(params)).unwrap();
        let config: Json = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["torch_dtype"], dtype);
        let size = fs::metadata(folder.join("model.safetensors")).unwrap().len() as i64;
        assert!(size < 3 * exact.params.flat.numel() as i64, "two bytes a weight");
        let read = load(&folder).unwrap();
        assert_eq!(read.params.flat, exact.params.flat.to_kind(kind).to_kind(Kind::Float));
        let same = checkpoint::load(&folder, kind, Device::Cpu).unwrap();
        assert_eq!(same.params.flat, exact.params.flat.to_kind(kind));
        // The model also runs in that dtype. Its logits differ by the rounding of the sums of a few layers.
        let (ours, reference) = tch::no_grad(|| (same.logits(&batch).unwrap(), read.logits(&batch).unwrap()));
        assert_eq!(ours.kind(), kind);
        close(dtype, &ours, &reference, 40.0 * rounding);
    }
}

#[test]
fn a_folder_without_the_files_of_a_model() {
    let place = tempfile::tempdir().unwrap();
    refused(&place.path().join("nowhere"), &["nowhere", "config.json", "model folder"]);
    let (_place, folder) = saved(Family::Qwen3, true);
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    refused(&folder, &["model.safetensors", "no weights"]);
    fs::write(folder.join("model.safetensors.index.json"), "[").unwrap();
    refused(&folder, &["index.json", "not JSON"]);
    fs::write(folder.join("model.safetensors.index.json"), "{}").unwrap();
    refused(&folder, &["index.json", "weight_map"]);
    fs::write(folder.join("model.safetensors.index.json"), r#"{"weight_map": {"a": "part-1.safetensors"}}"#).unwrap();
    refused(&folder, &["part-1.safetensors", "No such file"]);
}

#[test]
fn a_file_that_was_cut_off() {
    let (_place, folder) = saved(Family::Llama, false);
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    for length in [0, 4, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).unwrap();
        refused(&folder, &["model.safetensors", "truncated or damaged"]);
    }
    let mut longer = bytes;
    longer.push(0);
    fs::write(&path, longer).unwrap();
    refused(&folder, &["model.safetensors", "damaged"]);
}

#[test]
fn tensors_that_do_not_fit_the_config_are_named() {
    let (_place, folder) = saved(Family::Qwen3, false);
    rewrite(&folder, |name, shape| match name {
        "lm_head.weight" => None,
        "model.layers.1.self_attn.q_norm.weight" => Some(("model.layers.1.self_attn.strange.weight".into(), shape)),
        _ => Some((name.into(), shape)),
    });
    refused(
        &folder,
        &[
            "missing [lm_head.weight, model.layers.1.self_attn.q_norm.weight]",
            "unexpected [model.layers.1.self_attn.strange.weight]",
        ],
    );
    let (_place, folder) = saved(Family::Llama, true);
    rewrite(&folder, |name, mut shape| {
        if name == "model.layers.2.mlp.up_proj.weight" {
            shape[0] -= 1;
        }
        Some((name.into(), shape))
    });
    refused(&folder, &["model.safetensors", "`model.layers.2.mlp.up_proj.weight` has shape [79, 48]", "[80, 48]"]);
}

/// Weights of one family with the config of another: many names are missing, and the message shows few of them.
#[test]
fn a_long_list_of_missing_tensors_is_shortened() {
    let (_place, folder) = saved(Family::Llama, true);
    rewrite(&folder, |name, shape| name.contains("embed").then(|| (name.into(), shape)));
    refused(
        &folder,
        &["28 in total", "model.norm.weight"].map(|s| if s.starts_with("model") { "missing [" } else { s }),
    );
}

#[test]
fn a_tied_projection_that_was_stored_all_the_same_is_no_error() {
    let (_place, folder) = saved(Family::Qwen3, true);
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut views: BTreeMap<String, TensorView<'_>> = tensors.tensors().into_iter().collect();
    views.insert("lm_head.weight".into(), tensors.tensor("model.embed_tokens.weight").unwrap());
    fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    assert_eq!(load(&folder).unwrap().params.flat, decoder(Family::Qwen3, true).params.flat);
}

#[test]
fn fields_of_the_config_are_named() {
    let (_place, folder) = saved(Family::Qwen3, true);
    let path = folder.join("config.json");
    let config: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for field in [
        "model_type",
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "rms_norm_eps",
    ] {
        let mut without = config.clone();
        without.as_object_mut().unwrap().remove(field).unwrap();
        fs::write(&path, without.to_string()).unwrap();
        refused(&folder, &["config.json", field]);
    }
    for field in ["head_dim", "num_key_value_heads", "rope_theta", "hidden_size"] {
        let mut odd = config.clone();
        odd[field] = Json::from("sixteen");
        fs::write(&path, odd.to_string()).unwrap();
        refused(&folder, &["config.json", field]);
    }
    fs::write(&path, "{").unwrap();
    refused(&folder, &["config.json", "not JSON"]);
}

#[test]
fn a_save_replaces_the_folder_and_leaves_nothing_beside_it() {
    let (place, folder) = saved(Family::Qwen3, true);
    fs::write(folder.join("stale.txt"), "old").unwrap();
    let other = decoder(Family::Llama, false);
    checkpoint::save(&folder, &other, &tokenizer(), |partial| {
        fs::write(partial.join("beside.txt"), "new").unwrap();
        Ok(())
    })
    .unwrap();
    assert_eq!(names(place.path()), ["model"]);
    assert_eq!(load(&folder).unwrap().params.flat, other.params.flat);
    assert!(folder.join("beside.txt").exists() && !folder.join("stale.txt").exists());
    let deep = place.path().join("a/b/c");
    save(&deep, &other).unwrap();
    assert_eq!(names(deep.parent().unwrap()), ["c"]);
}

#[test]
fn a_failed_save_leaves_the_old_folder_and_nothing_else() {
    let (place, folder) = saved(Family::Qwen3, true);
    let before = contents(&folder);
    let other = decoder(Family::Llama, true);
    let intact = |error: LmError, names_it: &str, expect: &[&str]| {
        assert!(error.to_string().contains(names_it), "{error}");
        assert_eq!(contents(&folder), before);
        assert_eq!(names(place.path()), expect);
    };
    // What the caller writes beside the weights fails (for example, on a full disk).
    let full = |partial: &Path| Err(LmError::File { path: partial.into(), message: "disk is full".into() });
    intact(checkpoint::save(&folder, &other, &tokenizer(), full).unwrap_err(), "disk is full", &["model"]);
    // The old folder cannot be moved away, because a file occupies its new path.
    fs::write(place.path().join(".model.old"), "in the way").unwrap();
    intact(save(&folder, &other).unwrap_err(), "cannot be written", &[".model.old", "model"]);
    fs::remove_file(place.path().join(".model.old")).unwrap();
    // The new folder cannot be created, because a file occupies its path.
    fs::write(place.path().join(".model.partial"), "in the way").unwrap();
    intact(save(&folder, &other).unwrap_err(), ".model.partial", &[".model.partial", "model"]);
}

#[test]
fn a_file_in_the_way_is_not_overwritten() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("notes");
    fs::write(&file, "mine").unwrap();
    let model = decoder(Family::Llama, true);
    for target in [file.clone(), file.join("model"), file.join("deep/model")] {
        let error = save(&target, &model).unwrap_err().to_string();
        assert!(error.contains("notes") && error.contains("cannot be written"), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
        assert_eq!(names(place.path()), ["notes"]);
    }
}
