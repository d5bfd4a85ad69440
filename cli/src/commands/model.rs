//! Model arguments of the commands that only run inference.

use std::path::Path;

use configs::{Device, Dtype, ModelSource};
use lm::generate::Limits;
use lm::{LocalModel, pretrained};
use trainer::start;

use xplore::Error;

use super::checkpoints;

/// A model and its resource limits.
#[derive(clap::Args)]
pub struct ModelArgs {
    /// Model folder, adapter folder, run (runs/sft, runs/sft@best, runs/sft@2116), or hub ID such as Qwen/Qwen3-0.6B
    /// (owner/name@revision for a revision).
    #[arg(long, value_name = "DIR|RUN|ID")]
    model: String,
    /// Dtype of weights and activations.
    #[arg(long, value_enum, default_value = "auto")]
    dtype: Number,
    /// Device of the model; auto selects a GPU if a usable one exists.
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceArg,
    /// Number of CPU threads; 0 uses all cores.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Maximum number of tokens per forward pass.
    #[arg(long, default_value_t = Limits::default().max_num_batched_tokens)]
    max_num_batched_tokens: usize,
    /// Maximum number of concurrent sequences.
    #[arg(long, default_value_t = Limits::default().max_num_seqs)]
    max_num_seqs: usize,
    /// Memory for the KV cache, in GiB.
    #[arg(long, default_value_t = 4.0)]
    kv_cache_gib: f64,
}

/// Dtypes.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Number {
    /// The dtype of config.json.
    Auto,
    Fp32,
    Bf16,
    Fp16,
}

/// Devices.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum DeviceArg {
    Auto,
    Cpu,
    Cuda,
}

impl ModelArgs {
    /// Returns the name of the folder, or the hub ID.
    pub fn name(&self) -> String {
        match Path::new(&self.model).canonicalize() {
            Ok(folder) => folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            Err(_) => self.model.clone(),
        }
    }

    /// Returns whether the model is an adapter, which is merged into its base model.
    pub fn is_adapter(&self) -> Result<bool, Error> {
        Ok(pretrained::locate(&self.model)?.adapter.is_some())
    }

    /// Loads the model.
    pub fn load(&self) -> Result<LocalModel, Error> {
        if !(self.kv_cache_gib > 0.0 && self.kv_cache_gib.is_finite()) {
            return Err(Error::usage(format!("--kv-cache-gib is {}; expected more than 0", self.kv_cache_gib)));
        }
        for (flag, value) in
            [("--max-num-seqs", self.max_num_seqs), ("--max-num-batched-tokens", self.max_num_batched_tokens)]
        {
            if value == 0 {
                return Err(Error::usage(format!("{flag} is 0; expected at least 1")));
            }
        }
        start::prepare_process(self.threads)?;
        checkpoints::say(&self.model)?;
        let located = pretrained::locate(&self.model)?;
        let dtype = match self.dtype {
            Number::Auto => stored(&located.folder)?,
            Number::Fp32 => Dtype::Fp32,
            Number::Bf16 => Dtype::Bf16,
            Number::Fp16 => Dtype::Fp16,
        };
        let source = ModelSource {
            path: located.adapter.unwrap_or(located.folder).display().to_string(),
            dtype,
            device: match self.device {
                DeviceArg::Auto => Device::Auto,
                DeviceArg::Cpu => Device::Cpu,
                DeviceArg::Cuda => Device::Cuda,
            },
            kv_cache_gib: self.kv_cache_gib,
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
        };
        Ok(start::load(&source)?)
    }
}

/// Returns the dtype that config.json names, or fp32 if it names none.
fn stored(folder: &Path) -> Result<Dtype, Error> {
    let source = lm::ModelConfig::load(folder)?.source;
    let named = ["dtype", "torch_dtype"].iter().find_map(|key| source.get(*key)).and_then(|v| v.as_str());
    Ok(match named {
        Some("bfloat16") => Dtype::Bf16,
        Some("float16") => Dtype::Fp16,
        _ => Dtype::Fp32,
    })
}
