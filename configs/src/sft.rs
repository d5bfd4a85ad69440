//! Supervised fine-tuning.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::check::{Defect, Under, Verdict, at_least, below_one, ensure, given, not_negative};
use crate::checkpoint::{Best, CheckpointConfig};
use crate::lora::LoraConfig;
use crate::metrics::MetricsConfig;
use crate::model::ModelStart;
use crate::optimizer::OptimizerConfig;
use crate::parallel::ParallelConfig;
use crate::run::{RunConfig, check_name};
use crate::validation::ValidationConfig;

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
    /// Adapters in place of the model's own weights. Default: none, so that all weights are trained.
    pub lora: Option<LoraConfig>,
    /// The rows.
    pub data: SftData,
    /// How long and in what batches.
    pub train: SftTrain,
    /// Optimizer. Defaults: lr 2e-5, cosine, 10 % warm-up, no weight decay.
    pub optimizer: OptimizerConfig,
    /// What is measured on held-out rows and people while training. Default: nothing.
    pub validation: ValidationConfig,
    /// Checkpoints. Default: only the last.
    pub checkpoint: CheckpointConfig,
    /// What is written down of each step.
    pub metrics: MetricsConfig,
    /// Several processes. Default: each holds everything.
    pub parallel: ParallelConfig,
}

impl Default for SftConfig {
    fn default() -> Self {
        Self {
            name: "sft".into(),
            out: "runs".into(),
            seed: 42,
            threads: 0,
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
    /// The run's folder.
    pub fn folder(&self) -> PathBuf {
        self.out.join(&self.name)
    }

    /// The folder of tokenized rows.
    pub fn cache(&self) -> PathBuf {
        if self.data.cache.as_os_str().is_empty() { self.out.join(".cache") } else { self.data.cache.clone() }
    }

    fn verdict(&self) -> Verdict {
        check_name(&self.name)?;
        self.model.check().under("model")?;
        self.lora.as_ref().map_or(Ok(()), LoraConfig::check).under("lora")?;
        let base = self.lora.is_none() || self.model.path.is_some();
        ensure(base, "lora", "given beside a new model", "model.path: adapters stand on a model that exists")?;
        self.data.check().under("data")?;
        self.train.check().under("train")?;
        self.optimizer.check().under("optimizer")?;
        self.optimizer.check_beside(self.lora.is_some(), self.parallel.sharding).under("optimizer")?;
        self.validation.check().under("validation")?;
        let validated = self.validation.every == 0 || self.data.validates() || self.validation.summaries.is_some();
        let expected =
            "0, or something to validate on: data.validation, data.validation_share or [validation.summaries]";
        ensure(validated, "validation.every", self.validation.every, expected)?;
        self.checkpoint.check().under("checkpoint")?;
        let measured = match self.checkpoint.best {
            None => true,
            Some(Best::Loss) => self.data.validates() && self.validation.every > 0,
            Some(Best::Accuracy) => self.validation.summaries.is_some() && self.validation.every > 0,
        };
        let expected = "a number that [validation] measures: set validation.every and give it the rows or people";
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

/// Which tokens are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossOn {
    /// The completion of a prompt/completion row; the last assistant turn of a conversation; all of a plain text.
    #[default]
    Completion,
    /// Every assistant turn, also those in prompts. Plain texts have none.
    Assistant,
    /// Every token but the first, which nothing predicts.
    All,
}

/// What is done with a row longer than `max_length`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// Its first tokens are kept.
    #[default]
    KeepStart,
    /// Its last tokens are kept.
    KeepEnd,
    /// It is left out and counted.
    Skip,
    /// It ends the run before training starts.
    Error,
}

/// What is done with a row that cannot be trained on: none of its tokens is trained, or the tokens of its prompt are no
/// prefix of those of prompt and completion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unusable {
    /// It ends the run before training starts, with its place in the file.
    #[default]
    Error,
    /// It is left out and counted.
    Skip,
}

/// One of several sets that are mixed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftSet {
    /// Its file or data set, as in `data.train`. Required.
    pub path: PathBuf,
    /// Its share of the rows trained on, relative to the other sets' weights; 0 stands for its number of rows, so that
    /// sets without weights are simply put together. Default: 0.
    pub weight: f64,
}

impl Default for SftSet {
    fn default() -> Self {
        Self { path: PathBuf::new(), weight: 0.0 }
    }
}

/// The rows of supervised fine-tuning: JSON lines, a JSON array, or Parquet, of prompt and completion, of messages, of
/// text, or of text and indices (docs/training.md).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftData {
    /// The rows: a file, or `hf://datasets/owner/name`, with `/path/of/file` for one file of it. Required, unless `mix`
    /// is given.
    pub train: PathBuf,
    /// Several sets in place of `train`. An epoch has as many rows as all sets together; a set smaller than its share
    /// comes again, a larger one goes on in the next epoch. Default: none.
    pub mix: Vec<SftSet>,
    /// Rows for validation, as `train`. Empty (the default): none, or those of `validation_share`.
    pub validation: PathBuf,
    /// Share of the training rows that is held out for validation, drawn by seed. Default: 0.
    pub validation_share: f64,
    /// Longest sequence in tokens, prompt and completion. Default: 16384.
    pub max_length: usize,
    /// What is done with longer rows. Default: keep_start.
    pub truncation: Truncation,
    /// Which tokens are trained. Rows of text and indices say so themselves. Default: completion.
    pub loss_on: LossOn,
    /// What is done with rows that cannot be trained on. Default: error.
    pub unusable: Unusable,
    /// Whether each epoch has its own random order; without, the file's order is kept, as a curriculum needs.
    /// Default: true.
    pub shuffle: bool,
    /// Folder of tokenized rows, found again by the content of file, tokenizer and settings. Empty (the default):
    /// `.cache` in the folder that holds runs.
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
    fn check(&self) -> Verdict {
        let (one, several) = (!self.train.as_os_str().is_empty(), !self.mix.is_empty());
        given(one || several, "train", "the path of a JSONL or Parquet file of SFT rows, or [[data.mix]] entries")?;
        ensure(!(one && several), "train", self.train.display(), "one of the two: train, or [[data.mix]]")?;
        self.check_reading()
    }

    /// Everything but the file, which some runs write themselves.
    pub(crate) fn check_reading(&self) -> Verdict {
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
            "a list in which some sets have a weight",
            "a weight above 0 for each of them, or none",
        )?;
        below_one("validation_share", self.validation_share)?;
        let either = self.validation.as_os_str().is_empty() || self.validation_share == 0.0;
        ensure(either, "validation_share", self.validation_share, "0 beside a file of validation rows")?;
        at_least("max_length", self.max_length, 2)
    }

    /// Whether there are rows for validation.
    pub fn validates(&self) -> bool {
        !self.validation.as_os_str().is_empty() || self.validation_share > 0.0
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
    /// Sequences per update (the global batch, all accumulation included); 0 if `batch_tokens` is given. Default: 16.
    pub batch_size: usize,
    /// Tokens per update, in place of `batch_size`: rows are taken in order as long as they fit. Default: 0.
    pub batch_tokens: usize,
    /// Most tokens in one packed forward pass; a longer sequence goes alone. Changes memory and speed, not the result.
    /// Default: 16384.
    pub tokens_per_microbatch: usize,
    /// Activation recomputation: 0 keeps what every layer computed, 1 runs every layer again on the way back, k every
    /// k-th. Changes memory and speed, not the result. Default: 0.
    pub recompute_every: usize,
}

impl Default for SftTrain {
    fn default() -> Self {
        Self {
            epochs: 4,
            max_steps: 0,
            batch_size: 16,
            batch_tokens: 0,
            tokens_per_microbatch: 16384,
            recompute_every: 0,
        }
    }
}

impl SftTrain {
    pub(crate) fn check(&self) -> Verdict {
        at_least("epochs", self.epochs, 1)?;
        let one = (self.batch_size > 0) != (self.batch_tokens > 0);
        if self.batch_tokens == 0 {
            at_least("batch_size", self.batch_size, 1)?;
        }
        ensure(one, "batch_tokens", self.batch_tokens, "0 beside batch_size, or batch_size = 0")?;
        at_least("tokens_per_microbatch", self.tokens_per_microbatch, 1)
    }
}
