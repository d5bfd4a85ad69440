//! Supervised fine-tuning.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::batch_size::BatchSize;
use crate::check::{CheckResult, Defect, Under, at_least, below_one, ensure, given, not_negative};
use crate::checkpoint::{Best, CheckpointConfig};
use crate::lora::LoraConfig;
use crate::metrics::MetricsConfig;
use crate::model::ModelStart;
use crate::optimizer::OptimizerConfig;
use crate::parallel::ParallelConfig;
use crate::run::{RunConfig, check_name};
use crate::validation::ValidationConfig;

/// Configuration of a supervised fine-tuning run. The defaults are the published recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftConfig {
    /// Name of the run and of its folder. Default: sft.
    pub name: String,
    /// Folder that contains the runs. Default: runs.
    pub out: PathBuf,
    /// Seed of initial weights and data order. Default: 42.
    pub seed: u64,
    /// Number of CPU threads; 0 uses all cores. Default: 0.
    pub threads: usize,
    /// Prompt set that the rows were rendered with: a built-in name or a folder. Checkpoints carry it as their default. The rows are
    /// not compared with it. Empty (the default): the set that the model carries, if any.
    pub prompts: String,
    /// The model that training starts from. Required.
    pub model: ModelStart,
    /// LoRA adapters to train in place of the model's own weights. Default: none, which trains all weights.
    pub lora: Option<LoraConfig>,
    /// The training rows.
    pub data: SftData,
    /// Length and batches of the training.
    pub train: SftTrain,
    /// Optimizer. Defaults: lr 2e-5, cosine, 10 % warm-up, no weight decay.
    pub optimizer: OptimizerConfig,
    /// Validation on held-out rows and users during training. Default: none.
    pub validation: ValidationConfig,
    /// Checkpoints. Default: only the last.
    pub checkpoint: CheckpointConfig,
    /// Metrics that are logged at each step.
    pub metrics: MetricsConfig,
    /// Distributed training. Default: each process holds the full state.
    pub parallel: ParallelConfig,
}

impl Default for SftConfig {
    fn default() -> Self {
        Self {
            name: "sft".into(),
            out: "runs".into(),
            seed: 42,
            threads: 0,
            prompts: String::new(),
            model: ModelStart::default(),
            lora: None,
            data: SftData::default(),
            train: SftTrain::default(),
            optimizer: OptimizerConfig::default(),
            validation: ValidationConfig::default(),
            checkpoint: CheckpointConfig::default(),
            metrics: MetricsConfig::default(),
            parallel: ParallelConfig::default(),
        }
    }
}

impl SftConfig {
    /// Returns the folder of the run.
    pub fn folder(&self) -> PathBuf {
        self.out.join(&self.name)
    }

    /// Returns the cache folder of tokenized rows.
    pub fn cache(&self) -> PathBuf {
        if self.data.cache.as_os_str().is_empty() { self.out.join(".cache") } else { self.data.cache.clone() }
    }

    fn verdict(&self) -> CheckResult {
        check_name(&self.name)?;
        self.model.check().under("model")?;
        self.lora.as_ref().map_or(Ok(()), LoraConfig::check).under("lora")?;
        let base = self.lora.is_none() || self.model.path.is_some();
        ensure(base, "lora", "set for a new model", "model.path, because LoRA adapters need an existing model")?;
        self.data.check().under("data")?;
        self.train.check().under("train")?;
        self.optimizer.check().under("optimizer")?;
        self.optimizer.check_beside(self.lora.is_some(), self.parallel.sharding).under("optimizer")?;
        self.validation.check().under("validation")?;
        let validated = self.validation.every == 0 || self.data.validates() || self.validation.summaries.is_some();
        let expected = "0, or validation data: data.validation, data.validation_share or [validation.summaries]";
        ensure(validated, "validation.every", self.validation.every, expected)?;
        self.checkpoint.check().under("checkpoint")?;
        let measured = match self.checkpoint.best {
            None => true,
            Some(Best::Loss) => self.data.validates() && self.validation.every > 0,
            Some(Best::Accuracy) => self.validation.summaries.is_some() && self.validation.every > 0,
        };
        let expected = "a metric that validation computes: set validation.every and the validation rows or users";
        ensure(measured, "checkpoint.best", self.checkpoint.best.map_or("", Best::key), expected)?;
        self.parallel.check().under("parallel")?;
        self.metrics.check().under("metrics")
    }
}

impl RunConfig for SftConfig {
    fn defect(&self) -> Option<Defect> {
        self.verdict().err()
    }
}

/// The tokens that the loss is computed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossOn {
    /// The completion of a prompt/completion row; the last assistant turn of a conversation; all of a plain text.
    #[default]
    Completion,
    /// Every assistant turn, including those in prompts. Plain texts have none.
    Assistant,
    /// Every token but the first, which has no context to predict it.
    All,
}

/// Handling of a row longer than `max_length`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// Keep its first tokens.
    #[default]
    KeepStart,
    /// Keep its last tokens.
    KeepEnd,
    /// Skip and count it.
    Skip,
    /// End the run with an error before training starts.
    Error,
}

/// Handling of a row that cannot be trained on: it has no tokens to compute the loss on, or the tokens of its prompt are not a
/// prefix of the tokens of prompt and completion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unusable {
    /// End the run before training starts, with an error that reports the row's location in the file.
    #[default]
    Error,
    /// Skip and count it.
    Skip,
}

/// One data set of a mix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftSet {
    /// File or data set, as in `data.train`. Required.
    pub path: PathBuf,
    /// Share of this data set in the training rows, relative to the weights of the other sets. 0 stands for its number of rows, so
    /// data sets without weights are concatenated. Default: 0.
    pub weight: f64,
}

impl Default for SftSet {
    fn default() -> Self {
        Self { path: PathBuf::new(), weight: 0.0 }
    }
}

/// The rows of supervised fine-tuning: JSON Lines, a JSON array, or Parquet, with prompt and completion, messages, text, or text
/// and indices (docs/training.md).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftData {
    /// The rows: a file, or `hf://datasets/owner/name`, with `/path/of/file` for one file of it. Required unless `mix` is set.
    pub train: PathBuf,
    /// Several data sets in place of `train`. An epoch has as many rows as all sets together. A set smaller than its share is
    /// repeated; a larger one continues in the next epoch. Default: none.
    pub mix: Vec<SftSet>,
    /// Validation rows, in the format of `train`. Empty (the default): none, or those of `validation_share`.
    pub validation: PathBuf,
    /// Fraction of the training rows to hold out for validation, sampled with the seed. Default: 0.
    pub validation_share: f64,
    /// Maximum sequence length in tokens, prompt and completion. Default: 16384.
    pub max_length: usize,
    /// Handling of longer rows. Default: keep_start.
    pub truncation: Truncation,
    /// The tokens that the loss is computed on. Rows of text and indices specify them themselves. Default: completion.
    pub loss_on: LossOn,
    /// Handling of rows that cannot be trained on. Default: error.
    pub unusable: Unusable,
    /// Whether to shuffle the rows in each epoch. If false, the order of the file is kept, as a curriculum needs. Default: true.
    pub shuffle: bool,
    /// Cache folder of tokenized rows. Its entries are keyed by the content of file, tokenizer, and settings. Empty (the default):
    /// `.cache` in the folder that contains the runs.
    pub cache: PathBuf,
}

impl Default for SftData {
    fn default() -> Self {
        Self {
            train: PathBuf::new(),
            mix: Vec::new(),
            validation: PathBuf::new(),
            validation_share: 0.0,
            max_length: 16384,
            truncation: Truncation::default(),
            loss_on: LossOn::default(),
            unusable: Unusable::default(),
            shuffle: true,
            cache: PathBuf::new(),
        }
    }
}

impl SftData {
    fn check(&self) -> CheckResult {
        let (one, several) = (!self.train.as_os_str().is_empty(), !self.mix.is_empty());
        given(one || several, "train", "the path of a JSONL or Parquet file of SFT rows, or [[data.mix]] entries")?;
        ensure(!(one && several), "train", self.train.display(), "either train or [[data.mix]], not both")?;
        self.check_reading()
    }

    /// Checks everything but the file, which some runs write themselves.
    pub(crate) fn check_reading(&self) -> CheckResult {
        for (i, set) in self.mix.iter().enumerate() {
            given(!set.path.as_os_str().is_empty(), "path", "the path of a file of SFT rows")
                .under(format!("mix[{i}]"))?;
            not_negative("weight", set.weight).under(format!("mix[{i}]"))?;
        }
        let weighted = self.mix.iter().filter(|set| set.weight > 0.0).count();
        let all_or_none = weighted == 0 || weighted == self.mix.len();
        ensure(
            all_or_none,
            "mix",
            "a list in which only some sets have a weight",
            "a weight above 0 for every set, or for none",
        )?;
        below_one("validation_share", self.validation_share)?;
        let either = self.validation.as_os_str().is_empty() || self.validation_share == 0.0;
        ensure(either, "validation_share", self.validation_share, "0 when data.validation is set")?;
        at_least("max_length", self.max_length, 2)
    }

    /// Returns whether there are validation rows.
    pub fn validates(&self) -> bool {
        !self.validation.as_os_str().is_empty() || self.validation_share > 0.0
    }
}

/// Length and batches of supervised fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftTrain {
    /// Number of passes over the rows. Default: 4.
    pub epochs: usize,
    /// Maximum number of updates; 0 sets no limit. Default: 0.
    pub max_steps: usize,
    /// Number of sequences per update (the global batch size, including gradient accumulation); 0 if `batch_tokens` is set.
    /// `"published"` computes it from the number of rows: 16 · ceil(rows / (16 · 529)), with which an epoch has the 529 updates of
    /// the released run. Default: 16.
    pub batch_size: BatchSize,
    /// Number of tokens per update, in place of `batch_size`: rows are added in order as long as they fit. Default: 0.
    pub batch_tokens: usize,
    /// Maximum number of tokens in one packed forward pass; a longer sequence is processed alone. Changes memory and speed, not the
    /// result. Default: 16384.
    pub micro_batch_tokens: usize,
    /// Activation checkpointing: 0 keeps the activations of every layer, 1 recomputes every layer in the backward pass, k every
    /// k-th. Changes memory and speed, not the result. Default: 0.
    pub activation_checkpointing_every: usize,
}

impl Default for SftTrain {
    fn default() -> Self {
        Self {
            epochs: 4,
            max_steps: 0,
            batch_size: BatchSize::Sequences(16),
            batch_tokens: 0,
            micro_batch_tokens: 16384,
            activation_checkpointing_every: 0,
        }
    }
}

impl SftTrain {
    pub(crate) fn check(&self) -> CheckResult {
        at_least("epochs", self.epochs, 1)?;
        let by_rows = self.batch_size != BatchSize::Sequences(0);
        let one = by_rows != (self.batch_tokens > 0);
        if self.batch_tokens == 0 {
            ensure(by_rows, "batch_size", 0, "at least 1, or \"published\"")?;
        }
        ensure(one, "batch_tokens", self.batch_tokens, "0 when batch_size is set, or batch_size = 0")?;
        at_least("micro_batch_tokens", self.micro_batch_tokens, 1)
    }
}
