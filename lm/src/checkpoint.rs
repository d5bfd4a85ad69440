//! Reads and writes Hugging Face model folders.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use chat::tokenizer::Tokenizer;
use safetensors::{Dtype, SafeTensors, View};
use serde_json::Value as Json;
use tch::{Device, Kind, Tensor};
use torch_ext::MappedFile;

use crate::params::{ParamEntry, ParamUnit};
use crate::{Decoder, LmError, ModelConfig, Params};

/// Loads a model folder: config.json and model.safetensors (or shards with an index).
///
/// # Errors
/// [`LmError::File`], which names the file and the tensors that are missing, unexpected, or of another shape.
pub fn load(folder: &Path, kind: Kind, device: Device) -> Result<Decoder, LmError> {
    let spec = ModelConfig::load(folder)?;
    let params = Params::uninitialized(&spec, kind, device)?;
    load_some(folder, &spec, params.entries(), |entry| {
        Some((0..entry.numel() as usize, params.flat.narrow(0, entry.offset, entry.numel())))
    })?;
    Ok(Decoder::new(params))
}

/// Loads part of the weights of a model folder. `place_of` returns the range of elements to read from each tensor and their
/// destination, or `None` to skip the tensor. Only these elements are read from disk.
///
/// # Errors
/// As [`load`].
pub fn load_some(
    folder: &Path,
    spec: &ModelConfig,
    entries: &[ParamEntry],
    place_of: impl Fn(&ParamEntry) -> Option<(Range<usize>, Tensor)>,
) -> Result<(), LmError> {
    let mut wanted: BTreeSet<&str> = entries.iter().map(|e| e.name.as_str()).collect();
    let mut unexpected = Vec::new();
    for file in weight_files(folder)? {
        let at = |message: String| LmError::File { path: file.clone(), message };
        let bytes = MappedFile::open(&file).map_err(|e| at(e.to_string()))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| {
            at(format!("not a complete safetensors file ({e}); it is truncated or damaged; copy or download it again"))
        })?;
        for (name, tensor) in tensors.tensors() {
            let Some(entry) = entries.iter().find(|e| e.name == name) else {
                // Checkpoints often store a tied projection too.
                if !(name == "lm_head.weight" && spec.tie_word_embeddings) {
                    unexpected.push(name);
                }
                continue;
            };
            let shape: Vec<i64> = tensor.shape().iter().map(|&n| n as i64).collect();
            if shape != entry.shape {
                return Err(at(format!("tensor `{name}` has shape {shape:?}; config.json implies {:?}", entry.shape)));
            }
            let stored = stored_kind(tensor.dtype()).ok_or_else(|| {
                at(format!("tensor `{name}` has dtype {:?}; supported: F32, BF16, F16", tensor.dtype()))
            })?;
            if let Some((range, place)) = place_of(entry) {
                let width = stored.elt_size_in_bytes();
                fill(&place, &tensor.data()[range.start * width..range.end * width], stored, &bytes)?;
            }
            wanted.remove(name.as_str());
        }
    }
    if !wanted.is_empty() || !unexpected.is_empty() {
        return Err(LmError::File {
            path: folder.into(),
            message: format!(
                "the weights do not match config.json: missing [{}], unexpected [{}]",
                some_of(wanted.into_iter()),
                some_of(unexpected.iter().map(String::as_str))
            ),
        });
    }
    Ok(())
}

/// Copies `data`, a part of `file`, to `place` in pieces, so that at most one piece of the file is in memory.
fn fill(place: &Tensor, data: &[u8], stored: Kind, file: &MappedFile) -> Result<(), LmError> {
    const PIECE: usize = 4 << 20;
    let width = stored.elt_size_in_bytes();
    // Offset of the tensor in the file: both are slices of the same mapping.
    let begin = data.as_ptr() as usize - file.as_ptr() as usize;
    for (i, piece) in data.chunks(PIECE).enumerate() {
        let count = (piece.len() / width) as i64;
        let value = Tensor::f_from_data_size(piece, &[count], stored)?;
        tch::no_grad(|| place.narrow(0, (i * PIECE / width) as i64, count).copy_(&value));
        file.release(begin + i * PIECE..begin + i * PIECE + piece.len());
    }
    Ok(())
}

fn some_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let shown = names[..names.len().min(6)].join(", ");
    if names.len() > 6 { format!("{shown}, … {} in total", names.len()) } else { shown }
}

fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, LmError> {
    let single = folder.join("model.safetensors");
    if single.exists() {
        return Ok(vec![single]);
    }
    let index = folder.join("model.safetensors.index.json");
    let at = |message: String| LmError::File { path: index.clone(), message };
    let text = std::fs::read(&index).map_err(|_| LmError::File {
        path: folder.into(),
        message: "no weights found: expected model.safetensors or model.safetensors.index.json; pass a complete model \
                  folder (an unfinished checkpoint has no weights)"
            .into(),
    })?;
    let json: Json = serde_json::from_slice(&text).map_err(|e| at(format!("not JSON: {e}")))?;
    let map = json["weight_map"].as_object().ok_or_else(|| at("field `weight_map`: expected an object".into()))?;
    let files: BTreeSet<PathBuf> = map.values().filter_map(Json::as_str).map(|name| folder.join(name)).collect();
    Ok(files.into_iter().collect())
}

pub(crate) fn stored_kind(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F16 => Kind::Half,
        _ => return None,
    })
}

/// Writes a folder that transformers loads without changes, as [`write_folder`] does. `beside` may write more files to the
/// folder before it is renamed.
///
/// # Errors
/// [`LmError::Write`] if the folder cannot be written (permissions, full disk).
pub fn save(
    folder: &Path,
    model: &Decoder,
    tokenizer: &Tokenizer,
    beside: impl FnOnce(&Path) -> Result<(), LmError>,
) -> Result<(), LmError> {
    write_folder(folder, |partial| write_model(partial, model, tokenizer).and_then(|()| beside(partial)))
}

/// Writes a folder so that it appears complete or not at all. `write` gets the path of a temporary folder, which is renamed to
/// `folder` once it is complete. An existing folder is replaced.
///
/// # Errors
/// [`LmError::Write`] if the folder cannot be written (permissions, full disk).
pub fn write_folder(folder: &Path, write: impl FnOnce(&Path) -> Result<(), LmError>) -> Result<(), LmError> {
    let io = |path: &Path, e: &dyn std::fmt::Display| LmError::Write {
        path: path.into(),
        message: format!("cannot be written: {e}; free space or choose another folder with --out"),
    };
    if folder.is_file() {
        return Err(io(folder, &"a file of this name exists"));
    }
    let partial = partial(folder);
    let _ = std::fs::remove_dir_all(&partial);
    std::fs::create_dir_all(&partial).map_err(|e| io(&partial, &e))?;
    let written = write(&partial).and_then(|()| put_in_place(&partial, folder).map_err(|e| io(folder, &e)));
    written.inspect_err(|_| {
        // An incomplete folder must not take space on a disk that may be full.
        let _ = std::fs::remove_dir_all(&partial);
    })
}

/// Returns the path of the temporary folder in which [`write_folder`] writes `folder`.
pub fn partial(folder: &Path) -> PathBuf {
    sibling(folder, "partial")
}

/// Renames `partial` to `folder`, and replaces an existing folder. If the rename fails, the existing folder is kept.
fn put_in_place(partial: &Path, folder: &Path) -> std::io::Result<()> {
    let old = sibling(folder, "old");
    let _ = std::fs::remove_dir_all(&old);
    let replaces = folder.exists();
    if replaces {
        std::fs::rename(folder, &old)?;
    }
    std::fs::rename(partial, folder).inspect_err(|_| {
        if replaces {
            let _ = std::fs::rename(&old, folder);
        }
    })?;
    let _ = std::fs::remove_dir_all(&old);
    Ok(())
}

fn sibling(folder: &Path, suffix: &str) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!(".{name}.{suffix}"))
}

/// Writes configuration, tokenizer and weights to a folder. A sharded model is unsharded one param unit at a time; the other
/// ranks must call [`help_write`] meanwhile.
///
/// # Errors
/// [`LmError::Write`] if the folder cannot be written, [`LmError::Lost`] if another rank is lost.
pub fn write_model(folder: &Path, model: &Decoder, tokenizer: &Tokenizer) -> Result<(), LmError> {
    let dtype = match model.params.flat.kind() {
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        _ => "float32",
    };
    let spec = model.spec();
    let write = |name: &str, json: &Json| {
        let path = folder.join(name);
        std::fs::write(&path, format!("{json:#}\n")).map_err(|e| LmError::Write { path, message: e.to_string() })
    };
    write("config.json", &spec.to_json(tokenizer.stop_ids(), tokenizer.pad_id(), dtype))?;
    write("generation_config.json", &tokenizer.generation_config())?;
    tokenizer.save(folder)?;
    write_weights(&folder.join("model.safetensors"), &model.params)
}

fn write_weights(path: &Path, params: &Params) -> Result<(), LmError> {
    let dtype = match params.flat.kind() {
        Kind::BFloat16 => Dtype::BF16,
        Kind::Half => Dtype::F16,
        _ => Dtype::F32,
    };
    let parts = OneByOne { params, here: RefCell::new(None), failed: RefCell::new(None) };
    let views: BTreeMap<&str, Lazy<'_>> = params
        .entries()
        .iter()
        .map(|entry| {
            let shape = entry.shape.iter().map(|&n| n as usize).collect();
            (entry.name.as_str(), Lazy { entry, shape, dtype, parts: &parts })
        })
        .collect();
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    let written = safetensors::serialize_to_file(views, metadata, path);
    parts.failed.take().map_or(Ok(()), Err)?;
    written.map_err(|e| LmError::Write { path: path.into(), message: e.to_string() })?;
    parts.done()?;
    let sync = std::fs::File::open(path).and_then(|f| f.sync_all());
    sync.map_err(|e| LmError::Write { path: path.into(), message: e.to_string() })
}

/// Takes part in the [`write_model`] of another rank. If the model is sharded, all ranks but the writing one must call this.
///
/// # Errors
/// [`LmError::Lost`] if another rank is lost.
pub fn help_write(model: &Decoder) -> Result<(), LmError> {
    if !model.params.is_sharded() {
        return Ok(());
    }
    let parts = OneByOne { params: &model.params, here: RefCell::new(None), failed: RefCell::new(None) };
    // In the order in which safetensors writes tensors of one dtype.
    let by_name: BTreeMap<&str, &ParamEntry> = model.params.entries().iter().map(|e| (e.name.as_str(), e)).collect();
    by_name.into_values().try_for_each(|entry| parts.unshard(entry.unit))?;
    parts.done()
}

/// The param units of a model, of which at most one is unsharded at a time. The tensors of a unit are adjacent in order of
/// name, except for those of the head, which come before and after the other units.
struct OneByOne<'a> {
    params: &'a Params,
    here: RefCell<Option<ParamUnit>>,
    failed: RefCell<Option<LmError>>,
}

impl OneByOne<'_> {
    fn unshard(&self, unit: ParamUnit) -> Result<(), LmError> {
        if *self.here.borrow() == Some(unit) {
            return Ok(());
        }
        self.done()?;
        self.params.unshard(unit, None)?;
        *self.here.borrow_mut() = Some(unit);
        Ok(())
    }

    fn done(&self) -> Result<(), LmError> {
        self.here.take().map_or(Ok(()), |unit| self.params.reshard(unit))
    }

    fn bytes(&self, entry: &ParamEntry) -> Result<Vec<u8>, LmError> {
        self.unshard(entry.unit)?;
        let unit = self.params.units().iter().find(|p| p.unit == entry.unit).expect("every entry is of a part");
        let numbers = self.params.unit_view(entry.unit).narrow(0, entry.offset - unit.offset, entry.numel());
        Ok(torch_ext::bytes(&numbers.to_device(Device::Cpu).contiguous())?.to_vec())
    }
}

/// A tensor whose elements are fetched when they are written.
struct Lazy<'a> {
    entry: &'a ParamEntry,
    shape: Vec<usize>,
    dtype: Dtype,
    parts: &'a OneByOne<'a>,
}

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let found = if self.parts.failed.borrow().is_some() { Ok(Vec::new()) } else { self.parts.bytes(self.entry) };
        Cow::Owned(found.unwrap_or_else(|error| {
            *self.parts.failed.borrow_mut() = Some(error);
            Vec::new()
        }))
    }

    fn data_len(&self) -> usize {
        self.entry.numel() as usize * self.parts.params.flat.kind().elt_size_in_bytes()
    }
}
