//! Start of a training process: threads, device, ranks, and the model.

use std::path::Path;

use chat::tokenizer::Tokenizer;
use configs::ParallelConfig;
use configs::model::{Device as Wanted, Dtype, ModelShape, ModelSource, ModelStart, Start, TokenizerConfig};
use configs::sft::SftData;
use distributed::RankEnv;
use lm::pretrained::{self, Located};
use lm::{LocalModel, ModelConfig, device};
use tch::{Device, Tensor};

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
    let _ = device::gpus();
    // Before any computation: XPLORE_CPU may name instructions that this CPU lacks.
    torch_ext::CpuLevel::in_use().map_err(|e| TrainError::Environment(e.to_string()))?;
    torch_ext::keep_memory();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = if threads == 0 { (cores / processes).max(1) } else { threads };
    tch::set_num_threads(i32::try_from(threads).unwrap_or(1));
    Ok(())
}

/// Returns the device that a config asks for; with several GPUs, that of this rank.
///
/// # Errors
/// [`LmError::Environment`](lm::LmError::Environment) if CUDA is requested but not usable.
pub fn device(wanted: Wanted) -> Result<Device, TrainError> {
    Ok(device::select(wanted, place()?.local_rank)?)
}

/// Loads an existing model onto this rank's device; see [`pretrained::load`].
///
/// # Errors
/// As [`pretrained::load`] and [`device()`].
pub fn load(source: &ModelSource) -> Result<LocalModel, TrainError> {
    Ok(pretrained::load(source, device(source.device)?)?)
}

/// Initializes a new model with random weights on this rank's device; see [`pretrained::random`].
///
/// # Errors
/// As [`pretrained::random`] and [`device()`].
pub fn random(
    name: &str,
    shape: &ModelShape,
    tokenizer: Tokenizer,
    seed: u64,
    (wanted, dtype): (Wanted, Dtype),
) -> Result<LocalModel, TrainError> {
    Ok(pretrained::random(name, shape, tokenizer, seed, (device(wanted)?, dtype))?)
}

/// Finds a model on several ranks; one rank per machine downloads what is missing. All ranks must call this.
///
/// # Errors
/// As [`pretrained::locate`], and if another rank did not find it.
pub fn locate_on_ranks(path: &str, context: &ParallelContext) -> Result<Located, TrainError> {
    context.world.main_process_first(&format!("locate {path}"), || Ok(pretrained::locate(path)?))
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
    let share = Tensor::f_zeros([shards.length() as i64], (device::kind(source.dtype), device(source.device)?))?;
    context.load_shard(&located.folder, &share)?;
    let decoder = context.sharded(&spec, shards, share)?;
    let mut model = LocalModel::new(&source.path, decoder, Tokenizer::load(&located.folder)?)?;
    model.prompts = located.prompts()?;
    model.limits = pretrained::limits(source);
    Ok(model)
}

/// Returns the configuration and tokenizer of the model that a fine-tuning run starts from. For a model on the hub only the
/// small files are downloaded.
///
/// # Errors
/// As [`tokenizer_of`], and if config.json is not that of a model.
pub fn shape_of(model: &ModelStart, data: &SftData) -> Result<(ModelConfig, Tokenizer), TrainError> {
    match model.start() {
        Start::Existing(source) => {
            let folder = pretrained::description(&source.path)?;
            Ok((ModelConfig::load(&folder)?, Tokenizer::load(&folder)?))
        }
        Start::Random { shape, .. } => {
            let tokenizer = tokenizer_of(model, data)?;
            Ok((pretrained::new_config(&shape, &tokenizer), tokenizer))
        }
    }
}

/// Returns the tokenizer that a fine-tuning run will use, without loading weights: the existing model's own; for a new model
/// the one its configuration names, or one trained on the rows.
///
/// # Errors
/// If there is none, or the rows cannot be read.
pub fn tokenizer_of(model: &ModelStart, data: &SftData) -> Result<Tokenizer, TrainError> {
    match model.start() {
        Start::Existing(source) => Ok(Tokenizer::load(&pretrained::description(&source.path)?)?),
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
        pretrained::save(&folder, &model).unwrap();
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
