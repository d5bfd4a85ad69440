//! Supervised fine-tuning.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::check::{Defect, Under, Verdict, at_least, given};
use crate::checkpoint::CheckpointConfig;
use crate::model::ModelStart;
use crate::optimizer::OptimizerConfig;
use crate::run::{RunConfig, check_name};

/// A run of supervised fine-tuning. The defaults are the published recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftConfig {
    /// The run's name and the name of its folder. Default: sft.
    pub name: String,
    /// The folder that holds runs. Default: runs.
    pub out: PathBuf,
    /// Seed of initial weights and data order. Default: 42.
    pub seed: u64,
    /// CPU threads; 0 takes all cores. Default: 0.
    pub threads: usize,
    /// What training starts from. Required.
    pub model: ModelStart,
    /// The rows.
    pub data: SftData,
    /// How long and in what batches.
    pub train: SftTrain,
    /// Optimizer. Defaults: lr 2e-5, cosine, 10 % warm-up, no weight decay.
    pub optimizer: OptimizerConfig,
    /// Checkpoints. Default: only the last.
    pub checkpoint: CheckpointConfig,
}

impl Default for SftConfig {
    fn default() -> Self {
        Self {
            name: "sft".into(),
            out: "runs".into(),
            seed: 42,
            threads: 0,
            model: ModelStart::default(),
            data: SftData::default(),
            train: SftTrain::default(),
            optimizer: OptimizerConfig::default(),
            checkpoint: CheckpointConfig::default(),
        }
    }
}

impl SftConfig {
    /// The run's folder.
    pub fn folder(&self) -> PathBuf {
        self.out.join(&self.name)
    }

    fn verdict(&self) -> Verdict {
        check_name(&self.name)?;
        self.model.check().under("model")?;
        self.data.check().under("data")?;
        self.train.check().under("train")?;
        self.optimizer.check().under("optimizer")?;
        self.checkpoint.check().under("checkpoint")
    }
}

impl RunConfig for SftConfig {
    fn defect(&self) -> Option<Defect> {
        self.verdict().err()
    }
}

/// The rows of supervised fine-tuning. Loss is taken on the completion only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftData {
    /// JSON lines of `{prompt, completion}`, both lists of messages. Required.
    pub train: PathBuf,
    /// Longest sequence in tokens, prompt and completion. Default: 16384.
    pub max_length: usize,
    /// Whether each epoch has its own random order; without, the file's order is kept, as a curriculum needs.
    /// Default: true.
    pub shuffle: bool,
}

impl Default for SftData {
    fn default() -> Self {
        Self { train: PathBuf::new(), max_length: 16384, shuffle: true }
    }
}

impl SftData {
    fn check(&self) -> Verdict {
        given(!self.train.as_os_str().is_empty(), "train", "the path of a JSONL file of SFT rows")?;
        self.check_reading()
    }

    /// Everything but the file, which some runs write themselves.
    pub(crate) fn check_reading(&self) -> Verdict {
        at_least("max_length", self.max_length, 2)
    }
}

/// Length and batches of supervised fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftTrain {
    /// Passes over the rows. Default: 4.
    pub epochs: usize,
    /// Stop after so many updates; 0 sets no limit. Default: 0.
    pub max_steps: usize,
    /// Sequences per update. Default: 16.
    pub batch_size: usize,
    /// Most tokens in one packed forward pass; a longer sequence goes alone. Changes memory and speed, not the result.
    /// Default: 16384.
    pub tokens_per_microbatch: usize,
}

impl Default for SftTrain {
    fn default() -> Self {
        Self { epochs: 4, max_steps: 0, batch_size: 16, tokens_per_microbatch: 16384 }
    }
}

impl SftTrain {
    pub(crate) fn check(&self) -> Verdict {
        at_least("epochs", self.epochs, 1)?;
        at_least("batch_size", self.batch_size, 1)?;
        at_least("tokens_per_microbatch", self.tokens_per_microbatch, 1)
    }
}
