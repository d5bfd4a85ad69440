//! Selection of the device, and loading or initialization of a model.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use chat::tokenizer::Tokenizer;
use configs::ParallelConfig;
use configs::model::{Device as Wanted, Dtype, ModelShape, ModelSource, ModelStart, Start, TokenizerConfig};
use configs::sft::SftData;
use distributed::RankEnv;
use lm::generate::Limits;
use lm::{Decoder, LocalModel, ModelConfig, Params, Rope, lora_files};
use tch::{Device, Kind, Tensor};

use crate::{ParallelContext, TrainError};

/// Configures the process: CPU threads (0: all cores) and the allocator.
///
/// # Errors
/// [`TrainError::Environment`] if this process was started as one of several, or if `XPLORE_CPU` names instructions that this
/// CPU lacks.
pub fn prepare_process(threads: usize) -> Result<(), TrainError> {
    place().and_then(|place| place.only().map_err(|e| TrainError::Environment(e.to_string())))?;
    prepare(threads, 1)
}

fn place() -> Result<RankEnv, TrainError> {
    RankEnv::from_env().map_err(|e| TrainError::Environment(e.to_string()))
}

/// Configures a process that may be one of several ranks, and joins the other ranks. With `threads` = 0 the ranks of a machine
/// divide its cores equally.
///
/// # Errors
/// [`TrainError::Environment`] if the environment does not describe the ranks unambiguously; [`TrainError::Ranks`] if the other
/// ranks do not join.
pub fn init_distributed(
    threads: usize,
    wanted: Wanted,
    parallel: &ParallelConfig,
) -> Result<ParallelContext, TrainError> {
    let place = place()?;
    prepare(threads, place.local_world_size)?;
    distributed::launch::follow_launcher();
    ParallelContext::join(&place, device(wanted)?, parallel)
}

fn prepare(threads: usize, processes: usize) -> Result<(), TrainError> {
    // Before the first tensor: if libtorch is asked for CUDA before that library is loaded, it caches that there is none.
    let _ = cuda();
    // Before any computation: XPLORE_CPU may name instructions that this CPU lacks.
    torch_ext::CpuLevel::in_use().map_err(|e| TrainError::Environment(e.to_string()))?;
    torch_ext::keep_memory();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = if threads == 0 { (cores / processes).max(1) } else { threads };
    tch::set_num_threads(i32::try_from(threads).unwrap_or(1));
    Ok(())
}

/// Returns the device that a config asks for.
///
/// # Errors
/// [`TrainError::Environment`] if CUDA is requested but not usable.
pub fn device(wanted: Wanted) -> Result<Device, TrainError> {
    if wanted == Wanted::Cpu {
        return Ok(Device::Cpu);
    }
    match cuda() {
        Ok(0) if wanted == Wanted::Auto => Ok(Device::Cpu),
        Ok(0) => Err(unusable("the driver reports no GPU to this process (check nvidia-smi and CUDA_VISIBLE_DEVICES)")),
        Err(why) if wanted == Wanted::Cuda => Err(unusable(why)),
        Err(why) => {
            static ONCE: std::sync::Once = std::sync::Once::new();
            ONCE.call_once(|| {
                tracing::warn!("device = \"auto\" falls back to the CPU, although the driver reports a GPU: {why}");
            });
            Ok(Device::Cpu)
        }
        Ok(count) => {
            // A launcher may expose all GPUs of the machine to each rank, or only the rank's own.
            let ordinal = place()?.local_rank % count;
            if let Err(e) = torch_ext::use_gpu_kernels(ordinal) {
                tracing::warn!("falling back to libtorch kernels: {e}");
            }
            Ok(Device::Cuda(ordinal))
        }
    }
}

fn unusable(why: &str) -> TrainError {
    TrainError::Environment(format!(
        "device = \"cuda\" cannot be used: {why}; set device = \"cpu\", or run XPLORE_CUDA=1 scripts/setup on a \
         machine with an NVIDIA driver"
    ))
}

/// Returns the number of GPUs that libtorch can use. If the driver reports a GPU, the first call loads the CUDA libraries of
/// libtorch.
///
/// # Errors
/// The reason why no GPU is usable although the driver reports one.
fn cuda() -> Result<usize, &'static str> {
    static USABLE: OnceLock<Result<usize, String>> = OnceLock::new();
    let usable = USABLE.get_or_init(|| {
        if torch_ext::gpu_count() == 0 {
            return Ok(0);
        }
        torch_ext::load_cuda().map_err(|e| e.to_string())?;
        match usize::try_from(tch::Cuda::device_count()) {
            Ok(count @ 1..) => Ok(count),
            _ => Err("libtorch cannot use any of the GPUs that the driver reports".into()),
        }
    });
    usable.as_ref().copied().map_err(String::as_str)
}

/// Returns the tensor kind of a dtype.
pub fn kind(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::Fp32 => Kind::Float,
        Dtype::Bf16 => Kind::BFloat16,
        Dtype::Fp16 => Kind::Half,
    }
}

/// The location of a model's files: its own folder, or that of an adapter's base model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The folder with config.json and the weights.
    pub folder: PathBuf,
    /// The folder of the adapter to merge into the weights.
    pub adapter: Option<PathBuf>,
}

/// Finds a model by its folder or hub id. For the folder of a PEFT adapter, finds its base model.
///
/// # Errors
/// If the model, or the base model of an adapter, is not available.
pub fn locate(path: &str) -> Result<Located, TrainError> {
    let settings = hub::HubSettings::from_environment();
    let folder = hub::model(path, &settings)?;
    if !lora_files::is_adapter(&folder) {
        return Ok(Located { folder, adapter: None });
    }
    let base = lora_files::read_config(&folder)?.base;
    let found = hub::model(&base, &settings).map_err(|e| TrainError::File {
        path: folder.join(lora_files::CONFIG),
        message: format!("`base_model_name_or_path`: {e}"),
    })?;
    Ok(Located { folder: found, adapter: Some(folder) })
}

/// Finds a model on several ranks; one rank per machine downloads what is missing. All ranks must call this.
///
/// # Errors
/// As [`locate`], and if another rank did not find it.
pub fn locate_on_ranks(path: &str, context: &ParallelContext) -> Result<Located, TrainError> {
    context.world.main_process_first(&format!("locate {path}"), || locate(path))
}

/// Loads an existing model; an adapter is merged into the weights of its base model.
///
/// # Errors
/// If the folder is not a complete model, the hub does not have it, or the device is not available.
pub fn load(source: &ModelSource) -> Result<LocalModel, TrainError> {
    let Located { folder, adapter } = locate(&source.path)?;
    let mut model = LocalModel::load(&folder, kind(source.dtype), device(source.device)?)?;
    if let Some(adapter) = adapter {
        let decoder = &model.decoder;
        lora_files::load(&adapter, decoder.spec(), decoder.device())?.merge_into(&decoder.params);
        if adapter.join("tokenizer.json").is_file() {
            model = LocalModel::new(&source.path, model.decoder, Tokenizer::load(&adapter)?)?;
        }
    }
    model.limits = limits(source);
    Ok(model)
}

fn limits(source: &ModelSource) -> Limits {
    Limits {
        max_num_seqs: source.max_num_seqs,
        max_num_batched_tokens: source.max_num_batched_tokens,
        cache_bytes: (source.kv_cache_gib * f64::from(1 << 30)) as usize,
        ..Limits::default()
    }
}

/// Loads an existing model on several ranks. With sharded parameters each rank reads only its shard, except that an adapter is
/// merged into the whole model first.
///
/// # Errors
/// As [`load`].
pub fn load_on_ranks(source: &ModelSource, context: &ParallelContext) -> Result<LocalModel, TrainError> {
    let located = locate_on_ranks(&source.path, context)?;
    if !context.shards_params() || located.adapter.is_some() {
        return load(source)?.with_decoder(|whole| context.shard(whole));
    }
    let spec = ModelConfig::load(&located.folder)?;
    let shards = context.shards_of(&spec);
    let share = Tensor::f_zeros([shards.length() as i64], (kind(source.dtype), device(source.device)?))?;
    context.load_shard(&located.folder, &share)?;
    let decoder = context.sharded(&spec, shards, share)?;
    let mut model = LocalModel::new(&source.path, decoder, Tokenizer::load(&located.folder)?)?;
    model.limits = limits(source);
    Ok(model)
}

/// Returns the configuration of a new model with this tokenizer.
fn spec_of(shape: &ModelShape, tokenizer: &Tokenizer) -> ModelConfig {
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
        biases: lm::family::biases(shape.family, false, false),
        window: None,
        source: serde_json::Map::new(),
    }
}

/// Initializes a new model with random weights.
///
/// # Errors
/// If memory cannot be allocated, or the device is not available.
pub fn random(
    name: &str,
    shape: &ModelShape,
    tokenizer: Tokenizer,
    seed: u64,
    (wanted, dtype): (Wanted, Dtype),
) -> Result<LocalModel, TrainError> {
    let spec = spec_of(shape, &tokenizer);
    // libtorch's seed is signed; only its bits matter.
    let mut params = Params::random(&spec, shape.init_std, seed.cast_signed(), device(wanted)?)?;
    params.flat = params.flat.to_kind(kind(dtype));
    Ok(LocalModel::new(name, Decoder::new(params), tokenizer)?)
}

/// Returns the configuration and tokenizer of the model that a fine-tuning run starts from. For a model on the hub only the
/// small files are downloaded.
///
/// # Errors
/// As [`tokenizer_of`], and if config.json is not that of a model.
pub fn shape_of(model: &ModelStart, data: &SftData) -> Result<(ModelConfig, Tokenizer), TrainError> {
    match model.start() {
        Start::Existing(source) => {
            let folder = description(&source.path)?;
            Ok((ModelConfig::load(&folder)?, Tokenizer::load(&folder)?))
        }
        Start::Random { shape, .. } => {
            let tokenizer = tokenizer_of(model, data)?;
            Ok((spec_of(&shape, &tokenizer), tokenizer))
        }
    }
}

/// Returns the folder with a model's config.json and tokenizer; for a model on the hub only these are downloaded.
///
/// # Errors
/// If the model, or the base model of an adapter, is not available.
pub fn description(path: &str) -> Result<PathBuf, TrainError> {
    let settings = hub::HubSettings::from_environment();
    let folder = hub::description(path, &settings)?;
    if !lora_files::is_adapter(&folder) {
        return Ok(folder);
    }
    Ok(hub::description(&lora_files::read_config(&folder)?.base, &settings)?)
}

/// Returns the tokenizer that a fine-tuning run will use, without loading weights: the existing model's own; for a new model
/// the one its configuration names, or one trained on the rows.
///
/// # Errors
/// If there is none, or the rows cannot be read.
pub fn tokenizer_of(model: &ModelStart, data: &SftData) -> Result<Tokenizer, TrainError> {
    match model.start() {
        Start::Existing(source) => Ok(Tokenizer::load(&description(&source.path)?)?),
        Start::Random { tokenizer: TokenizerConfig { path: Some(folder), .. }, .. } => Ok(Tokenizer::load(&folder)?),
        Start::Random { tokenizer: config, .. } => {
            let texts = corpus::texts(data)?;
            tokenizer(&config, texts.iter().map(String::as_str))
        }
    }
}

/// Returns the tokenizer of a new model: loaded from a folder, or trained on `texts`.
///
/// # Errors
/// If the folder has none, or training fails.
pub fn tokenizer<'a>(
    config: &TokenizerConfig,
    texts: impl Iterator<Item = &'a str> + Send,
) -> Result<Tokenizer, TrainError> {
    Ok(match &config.path {
        Some(folder) => Tokenizer::load(Path::new(folder))?,
        None => Tokenizer::train(texts, config.vocab_size)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_source_says_of_generation_bounds_the_model() {
        let texts = ["likes warm stories about space"];
        let tokenizer = Tokenizer::train(texts.iter().copied(), 300).unwrap();
        let shape = ModelShape::default();
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("model");
        let model = random("new", &shape, tokenizer, 1, (Wanted::Cpu, Dtype::Fp32)).unwrap();
        crate::run::save(&folder, &model).unwrap();
        let source = ModelSource {
            path: folder.display().to_string(),
            dtype: Dtype::Fp32,
            device: Wanted::Cpu,
            kv_cache_gib: 0.5,
            max_num_seqs: 3,
            max_num_batched_tokens: 77,
        };
        let limits = load(&source).unwrap().limits;
        assert_eq!((limits.cache_bytes, limits.max_num_seqs, limits.max_num_batched_tokens), (1 << 29, 3, 77));
    }
}
