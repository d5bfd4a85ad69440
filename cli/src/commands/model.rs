//! A model for the commands that only ask it.

use std::path::Path;

use configs::{Device, Dtype, ModelSource};
use lm::LocalModel;
use lm::generate::Limits;
use trainer::start;

use crate::failure::Failure;

/// A model and what it may use.
#[derive(clap::Args)]
pub struct Source {
    /// A model folder, an adapter's folder, or a hub id such as Qwen/Qwen3-0.6B (owner/name@revision for a revision).
    #[arg(long, value_name = "DIR|ID")]
    model: String,
    /// Number format of weights and activations.
    #[arg(long, value_enum, default_value = "auto")]
    dtype: Number,
    /// Where the model works; auto is a GPU if there is a usable one.
    #[arg(long, value_enum, default_value = "auto")]
    device: Place,
    /// CPU threads; 0 is all cores.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Tokens of one forward pass.
    #[arg(long, default_value_t = Limits::default().step_tokens)]
    step_tokens: usize,
    /// Rows at once.
    #[arg(long, default_value_t = Limits::default().max_rows)]
    max_rows: usize,
    /// Memory for keys and values, GiB.
    #[arg(long, default_value_t = 4.0)]
    cache_gib: f64,
}

/// Number formats.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Number {
    /// As config.json says.
    Auto,
    Fp32,
    Bf16,
    Fp16,
}

/// Devices.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Place {
    Auto,
    Cpu,
    Cuda,
}

impl Source {
    /// The folder's own name, or the id.
    pub fn name(&self) -> String {
        match Path::new(&self.model).canonicalize() {
            Ok(folder) => folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            Err(_) => self.model.clone(),
        }
    }

    /// Whether it is an adapter, to be merged into the model it stands on.
    pub fn is_adapter(&self) -> Result<bool, Failure> {
        Ok(start::locate(&self.model)?.adapter.is_some())
    }

    /// Loads the model.
    pub fn load(&self) -> Result<LocalModel, Failure> {
        if !(self.cache_gib > 0.0 && self.cache_gib.is_finite()) {
            return Err(Failure::usage(format!("--cache-gib is {}; expected more than 0", self.cache_gib)));
        }
        for (flag, value) in [("--max-rows", self.max_rows), ("--step-tokens", self.step_tokens)] {
            if value == 0 {
                return Err(Failure::usage(format!("{flag} is 0; expected at least 1")));
            }
        }
        start::prepare_process(self.threads)?;
        let located = start::locate(&self.model)?;
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
                Place::Auto => Device::Auto,
                Place::Cpu => Device::Cpu,
                Place::Cuda => Device::Cuda,
            },
            cache_gib: self.cache_gib,
            max_rows: self.max_rows,
            step_tokens: self.step_tokens,
        };
        Ok(start::load(&source)?)
    }
}

/// The format that config.json names; fp32 if it names none.
fn stored(folder: &Path) -> Result<Dtype, Failure> {
    let source = lm::ModelSpec::load(folder)?.source;
    let named = ["dtype", "torch_dtype"].iter().find_map(|key| source.get(*key)).and_then(|v| v.as_str());
    Ok(match named {
        Some("bfloat16") => Dtype::Bf16,
        Some("float16") => Dtype::Fp16,
        _ => Dtype::Fp32,
    })
}
