//! Models in folders and on the hub, and new models.

use std::path::{Path, PathBuf};

use chat::tokenizer::Tokenizer;
use configs::model::{Dtype, ModelShape, ModelSource};
use tch::Device;

use crate::device::kind;
use crate::generate::Limits;
use crate::{Decoder, LmError, LocalModel, ModelConfig, ModelPrompts, Params, Rope, checkpoint, family, lora_files};

/// The location of a model's files: its own folder, or that of an adapter's base model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The folder with config.json and the weights.
    pub folder: PathBuf,
    /// The folder of the adapter to merge into the weights.
    pub adapter: Option<PathBuf>,
}

impl Located {
    /// Returns the prompt set that the model carries: that of the adapter, or else that of its base model.
    ///
    /// # Errors
    /// As [`ModelPrompts::load`].
    pub fn prompts(&self) -> Result<Option<ModelPrompts>, LmError> {
        if let Some(adapter) = &self.adapter
            && let Some(own) = ModelPrompts::load(adapter)?
        {
            return Ok(Some(own));
        }
        ModelPrompts::load(&self.folder)
    }
}

/// Finds a model by its folder, run or hub id. For the folder of a PEFT adapter, finds its base model.
///
/// # Errors
/// If the model, or the base model of an adapter, is not available.
pub fn locate(path: &str) -> Result<Located, LmError> {
    let settings = hub::HubSettings::from_environment();
    let folder = hub::model(path, &settings)?;
    if !lora_files::is_adapter(&folder) {
        return Ok(Located { folder, adapter: None });
    }
    let base = lora_files::read_config(&folder)?.base;
    let found = hub::model(&base, &settings).map_err(|e| match e.is_offline() {
        true => LmError::Hub(e),
        false => {
            LmError::File { path: folder.join(lora_files::CONFIG), message: format!("`base_model_name_or_path`: {e}") }
        }
    })?;
    Ok(Located { folder: found, adapter: Some(folder) })
}

/// Returns the checkpoint folder that a path selects if it names a run, such as `runs/sft` or `runs/sft@2116`, and `None` for other
/// paths and hub ids (see [`hub::run_folder::resolve`]).
///
/// # Errors
/// If the run does not exist or does not have that checkpoint.
pub fn run_checkpoint(path: &str) -> Result<Option<PathBuf>, LmError> {
    Ok(hub::run_folder::resolve(path)?)
}

/// Returns the folder with a model's config.json and tokenizer; for a model on the hub only these are downloaded.
///
/// # Errors
/// If the model, or the base model of an adapter, is not available.
pub fn description(path: &str) -> Result<PathBuf, LmError> {
    let settings = hub::HubSettings::from_environment();
    let folder = hub::description(path, &settings)?;
    if !lora_files::is_adapter(&folder) {
        return Ok(folder);
    }
    Ok(hub::description(&lora_files::read_config(&folder)?.base, &settings)?)
}

/// Returns the prompt set that a model carries, without weights and without network: a model on the hub that is not in the cache
/// counts as one without a set.
///
/// # Errors
/// If there is no such folder, or as [`ModelPrompts::load`].
pub fn prompts(path: &str) -> Result<Option<ModelPrompts>, LmError> {
    let settings = hub::HubSettings { offline: true, ..hub::HubSettings::from_environment() };
    let cached = |path: &str| match hub::model(path, &settings) {
        Ok(folder) => Ok(Some(folder)),
        Err(hub::HubError::NotCached { .. }) => Ok(None),
        Err(e) => Err(LmError::from(e)),
    };
    let Some(folder) = cached(path)? else { return Ok(None) };
    if !lora_files::is_adapter(&folder) {
        return ModelPrompts::load(&folder);
    }
    if let Some(own) = ModelPrompts::load(&folder)? {
        return Ok(Some(own));
    }
    cached(&lora_files::read_config(&folder)?.base)?.map_or(Ok(None), |base| ModelPrompts::load(&base))
}

/// Loads an existing model onto `device`, whatever device the source names; an adapter is merged into the weights of its base model.
///
/// # Errors
/// If the folder is not a complete model, or the hub does not have it.
pub fn load(source: &ModelSource, device: Device) -> Result<LocalModel, LmError> {
    let located = locate(&source.path)?;
    let mut model = LocalModel::load(&located.folder, kind(source.dtype), device)?;
    if let Some(adapter) = &located.adapter {
        let decoder = &model.decoder;
        lora_files::load(adapter, decoder.spec(), decoder.device())?.merge_into(&decoder.params);
        if adapter.join("tokenizer.json").is_file() {
            model = LocalModel::new(&source.path, model.decoder, Tokenizer::load(adapter)?)?;
        }
        model.prompts = located.prompts()?;
    }
    model.limits = limits(source);
    Ok(model)
}

/// Returns the limits of generation that a source sets.
pub fn limits(source: &ModelSource) -> Limits {
    Limits {
        max_num_seqs: source.max_num_seqs,
        max_num_batched_tokens: source.max_num_batched_tokens,
        cache_bytes: (source.kv_cache_gib * f64::from(1 << 30)) as usize,
        ..Limits::default()
    }
}

/// Returns the configuration of a new model with this tokenizer.
pub fn new_config(shape: &ModelShape, tokenizer: &Tokenizer) -> ModelConfig {
    ModelConfig {
        family: shape.family,
        // A multiple of 64 suits matrix kernels. Training soon makes the rows beyond the tokenizer's too improbable to sample.
        vocab_size: (tokenizer.vocab_size() as i64 + 63) / 64 * 64,
        hidden_size: shape.hidden_size as i64,
        intermediate_size: shape.intermediate_size as i64,
        num_hidden_layers: shape.layers,
        num_attention_heads: shape.heads as i64,
        num_key_value_heads: shape.kv_heads as i64,
        head_dim: shape.head_dim as i64,
        max_position_embeddings: shape.max_position_embeddings,
        rope: Rope::new(shape.rope_theta),
        rms_norm_eps: shape.rms_norm_eps,
        tie_word_embeddings: shape.tie_word_embeddings,
        biases: family::biases(shape.family, false, false),
        window: None,
        source: serde_json::Map::new(),
    }
}

/// Initializes a new model with random weights.
///
/// # Errors
/// If memory cannot be allocated.
pub fn random(
    name: &str,
    shape: &ModelShape,
    tokenizer: Tokenizer,
    seed: u64,
    (device, dtype): (Device, Dtype),
) -> Result<LocalModel, LmError> {
    let spec = new_config(shape, &tokenizer);
    // libtorch's seed is signed; only its bits matter.
    let mut params = Params::random(&spec, shape.init_std, seed.cast_signed(), device)?;
    params.flat = params.flat.to_kind(kind(dtype));
    LocalModel::new(name, Decoder::new(params), tokenizer)
}

/// Writes a model folder with the prompt set that the model carries, and the folder that contains it. The write is atomic.
///
/// # Errors
/// [`LmError::Write`] if it cannot be written.
pub fn save(folder: &Path, model: &LocalModel) -> Result<(), LmError> {
    if let Some(parent) = folder.parent() {
        std::fs::create_dir_all(parent).map_err(|e| LmError::Write {
            path: parent.into(),
            message: format!("cannot create this folder: {e}; check permissions, or choose another folder"),
        })?;
    }
    let prompts = |partial: &Path| model.prompts.as_ref().map_or(Ok(()), |prompts| prompts.save(partial));
    checkpoint::save(folder, &model.decoder, &model.tokenizer, prompts)
}
