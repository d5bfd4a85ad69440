//! The device, an existing model or a new one.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use chat::tokenizer::Tokenizer;
use configs::ParallelConfig;
use configs::model::{Device as Wanted, Dtype, Family, ModelShape, ModelSource, ModelStart, Start, TokenizerConfig};
use configs::sft::SftData;
use dist::Place;
use lm::generate::Limits;
use lm::{Decoder, LocalModel, ModelSpec, Params, Rope, adapter_files};
use tch::{Device, Kind, Tensor};

use crate::{Team, TrainError};

/// Settles what is set once for the process: CPU threads (0: all cores) and the allocator.
///
/// # Errors
/// [`TrainError::Environment`] if this process was started as one of several, or `XPLORE_CPU` names what this CPU lacks.
pub fn prepare_process(threads: usize) -> Result<(), TrainError> {
    place().and_then(|place| place.only().map_err(|e| TrainError::Environment(e.to_string())))?;
    prepare(threads, 1)
}

fn place() -> Result<Place, TrainError> {
    Place::from_environment().map_err(|e| TrainError::Environment(e.to_string()))
}

/// Settles the same for a process that may be one of several, and meets the others. Of all cores (`threads` = 0) each rank of
/// a machine takes its share.
///
/// # Errors
/// [`TrainError::Environment`] if the environment does not say clearly who is who; [`TrainError::Ranks`] if the others do not
/// come.
pub fn prepare_rank(threads: usize, wanted: Wanted, parallel: &ParallelConfig) -> Result<Team, TrainError> {
    let place = place()?;
    prepare(threads, place.local_world_size)?;
    dist::launch::follow_launcher();
    Team::join(&place, device(wanted)?, parallel)
}

fn prepare(threads: usize, processes: usize) -> Result<(), TrainError> {
    // Before the first tensor: libtorch remembers for good that there is no CUDA, if it is asked before that is loaded.
    let _ = cuda();
    // Before anything is computed: XPLORE_CPU may name what is not there.
    torch_ext::CpuLevel::in_use().map_err(|e| TrainError::Environment(e.to_string()))?;
    torch_ext::keep_memory();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = if threads == 0 { (cores / processes).max(1) } else { threads };
    tch::set_num_threads(i32::try_from(threads).unwrap_or(1));
    Ok(())
}

/// The device a config asks for.
///
/// # Errors
/// [`TrainError::Environment`] if CUDA is asked for and not usable.
pub fn device(wanted: Wanted) -> Result<Device, TrainError> {
    if wanted == Wanted::Cpu {
        return Ok(Device::Cpu);
    }
    match cuda() {
        Ok(0) if wanted == Wanted::Auto => Ok(Device::Cpu),
        Ok(0) => Err(unusable("the driver shows no GPU to this process (nvidia-smi, CUDA_VISIBLE_DEVICES)")),
        Err(why) if wanted == Wanted::Cuda => Err(unusable(why)),
        Err(why) => {
            static ONCE: std::sync::Once = std::sync::Once::new();
            ONCE.call_once(|| eprintln!("warning: device = \"auto\" is the CPU, although there is a GPU: {why}"));
            Ok(Device::Cpu)
        }
        Ok(count) => {
            // Each rank may be shown all GPUs of the machine, or its own alone.
            let ordinal = place()?.local_rank % count;
            if let Err(e) = torch_ext::use_gpu_kernels(ordinal) {
                eprintln!("warning: falling back to libtorch kernels: {e}");
            }
            Ok(Device::Cuda(ordinal))
        }
    }
}

fn unusable(why: &str) -> TrainError {
    TrainError::Environment(format!(
        "device = \"cuda\" is asked for, but {why}; set device = \"cpu\", or run XPLORE_CUDA=1 scripts/setup on a machine with \
         an NVIDIA driver"
    ))
}

/// How many GPUs libtorch can use here. The first call loads its CUDA half, where the driver shows a GPU.
///
/// # Errors
/// Why none is of use, although the driver shows one.
fn cuda() -> Result<usize, &'static str> {
    static USABLE: OnceLock<Result<usize, String>> = OnceLock::new();
    let usable = USABLE.get_or_init(|| {
        if torch_ext::gpu_count() == 0 {
            return Ok(0);
        }
        torch_ext::load_cuda().map_err(|e| e.to_string())?;
        match usize::try_from(tch::Cuda::device_count()) {
            Ok(count @ 1..) => Ok(count),
            _ => Err("libtorch can use none of the GPUs that the driver shows".into()),
        }
    });
    usable.as_ref().copied().map_err(String::as_str)
}

/// The tensor kind of a dtype.
pub fn kind(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::Fp32 => Kind::Float,
        Dtype::Bf16 => Kind::BFloat16,
        Dtype::Fp16 => Kind::Half,
    }
}

/// Where a model's files are: its own folder, or that of the model an adapter stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The folder with config.json and the weights.
    pub folder: PathBuf,
    /// The folder of the adapter to merge into them.
    pub adapter: Option<PathBuf>,
}

/// Finds a model by its folder or hub id. The folder of a PEFT adapter names the model it stands on.
///
/// # Errors
/// If it, or the model an adapter stands on, is nowhere to be had.
pub fn locate(path: &str) -> Result<Located, TrainError> {
    let settings = hub::Settings::from_environment();
    let folder = hub::model(path, &settings)?;
    if !adapter_files::is_adapter(&folder) {
        return Ok(Located { folder, adapter: None });
    }
    let base = adapter_files::read_config(&folder)?.base;
    let found = hub::model(&base, &settings).map_err(|e| TrainError::File {
        path: folder.join(adapter_files::CONFIG),
        message: format!("`base_model_name_or_path`: {e}"),
    })?;
    Ok(Located { folder: found, adapter: Some(folder) })
}

/// The same for several ranks, of which one a machine downloads what has to be downloaded. All ranks must call this.
///
/// # Errors
/// As [`locate`], and if another rank did not find it.
pub fn locate_in_team(path: &str, team: &Team) -> Result<Located, TrainError> {
    team.world.first_here(&format!("the files of {path} are here"), || locate(path))
}

/// Loads an existing model; an adapter is merged into the weights it stands on.
///
/// # Errors
/// If the folder is not a complete model, the hub does not have it, or the device is not there.
pub fn load(source: &ModelSource) -> Result<LocalModel, TrainError> {
    let Located { folder, adapter } = locate(&source.path)?;
    let mut model = LocalModel::load(&folder, kind(source.dtype), device(source.device)?)?;
    if let Some(adapter) = adapter {
        let decoder = &model.decoder;
        adapter_files::load(&adapter, decoder.spec(), decoder.device())?.merge_into(&decoder.params);
        if adapter.join("tokenizer.json").is_file() {
            model = LocalModel::new(&source.path, model.decoder, Tokenizer::load(&adapter)?)?;
        }
    }
    model.limits = limits(source);
    Ok(model)
}

fn limits(source: &ModelSource) -> Limits {
    Limits {
        max_rows: source.max_rows,
        step_tokens: source.step_tokens,
        cache_bytes: (source.cache_gib * f64::from(1 << 30)) as usize,
        ..Limits::default()
    }
}

/// The same for ranks of which each may hold a share: then only that is read.
///
/// # Errors
/// As [`load`].
pub fn load_in_team(source: &ModelSource, team: &Team) -> Result<LocalModel, TrainError> {
    let located = locate_in_team(&source.path, team)?;
    if !team.spreads_weights() || located.adapter.is_some() {
        return load(source)?.with_decoder(|whole| team.take_share(whole));
    }
    let spec = ModelSpec::load(&located.folder)?;
    let shards = team.shards_of(&spec);
    let share = Tensor::f_zeros([shards.length() as i64], (kind(source.dtype), device(source.device)?))?;
    team.load_share(&located.folder, &share)?;
    let decoder = team.shared(&spec, shards, share)?;
    let mut model = LocalModel::new(&source.path, decoder, Tokenizer::load(&located.folder)?)?;
    model.limits = limits(source);
    Ok(model)
}

/// The shape of a new model with this tokenizer.
fn spec_of(shape: &ModelShape, tokenizer: &Tokenizer) -> ModelSpec {
    let family = match shape.family {
        Family::Qwen3 => lm::Family::Qwen3,
        Family::Qwen2 => lm::Family::Qwen2,
        Family::Llama => lm::Family::Llama,
        Family::Mistral => lm::Family::Mistral,
    };
    ModelSpec {
        family,
        // A multiple of 64 suits matrix kernels; the rows beyond the tokenizer's are never drawn for long.
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
        biases: family.biases(false, false),
        window: None,
        source: serde_json::Map::new(),
    }
}

/// A new model with random weights.
///
/// # Errors
/// If memory does not suffice, or the device is not there.
pub fn random(
    name: &str,
    shape: &ModelShape,
    tokenizer: Tokenizer,
    seed: u64,
    (wanted, dtype): (Wanted, Dtype),
) -> Result<LocalModel, TrainError> {
    let spec = spec_of(shape, &tokenizer);
    // libtorch's seed is signed; the bits are what counts.
    let mut params = Params::random(&spec, shape.init_std, seed.cast_signed(), device(wanted)?)?;
    params.flat = params.flat.to_kind(kind(dtype));
    Ok(LocalModel::new(name, Decoder::new(params), tokenizer)?)
}

/// Shape and tokenizer of the model that a run of fine-tuning starts from. Of a model on the hub only the small files are
/// downloaded.
///
/// # Errors
/// As [`tokenizer_of`], and if config.json is not that of a model.
pub fn shape_of(model: &ModelStart, data: &SftData) -> Result<(ModelSpec, Tokenizer), TrainError> {
    match model.start() {
        Start::Existing(source) => {
            let folder = description(&source.path)?;
            Ok((ModelSpec::load(&folder)?, Tokenizer::load(&folder)?))
        }
        Start::Random { shape, .. } => {
            let tokenizer = tokenizer_of(model, data)?;
            Ok((spec_of(&shape, &tokenizer), tokenizer))
        }
    }
}

/// The folder with config.json and tokenizer of a model; of one on the hub, only these are downloaded.
///
/// # Errors
/// If it, or the model an adapter stands on, is nowhere to be had.
pub fn description(path: &str) -> Result<PathBuf, TrainError> {
    let settings = hub::Settings::from_environment();
    let folder = hub::description(path, &settings)?;
    if !adapter_files::is_adapter(&folder) {
        return Ok(folder);
    }
    Ok(hub::description(&adapter_files::read_config(&folder)?.base, &settings)?)
}

/// The tokenizer that a run of fine-tuning will use, without its weights: the model's own; of a new model the one its
/// configuration names, or one trained on the rows.
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

/// The tokenizer of a new model: that of a folder, or one trained on `texts`.
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
            cache_gib: 0.5,
            max_rows: 3,
            step_tokens: 77,
        };
        let limits = load(&source).unwrap().limits;
        assert_eq!((limits.cache_bytes, limits.max_rows, limits.step_tokens), (1 << 29, 3, 77));
    }
}
