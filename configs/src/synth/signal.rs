//! The signal of each choice: how much more probable the history makes it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::check::{CheckResult, Under, at_least, ensure};
use crate::model::ModelStart;
use crate::optimizer::{OptimizerConfig, Schedule};
use crate::sft::SftTrain;

/// The model that scores choices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalBy {
    /// A model that is fine-tuned to continue a user's choices by the letter of the chosen item (`[scorer]`).
    #[default]
    Scorer,
    /// The judge of `[verifier]`, which sees the items in both orders whatever `verifier.orders` says: a position bias must cancel
    /// out in the difference.
    Judge,
}

/// How the signal of each choice is computed: the log-probability of the choice with the history before it, minus that without.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SignalConfig {
    /// The model that scores choices: scorer or judge. Default: scorer.
    pub by: SignalBy,
    /// Summaries that the judge reads in place of the history: JSON lines `{"uid", "summary"}`. Empty (the default): the history.
    pub summaries: PathBuf,
    /// Number of last interactions of a user that are scored and kept in scored.jsonl; 0 keeps all. Default: 100, as published.
    pub max_interactions: usize,
}

impl Default for SignalConfig {
    fn default() -> Self {
        Self { by: SignalBy::default(), summaries: PathBuf::new(), max_interactions: 100 }
    }
}

impl SignalConfig {
    pub(super) fn check(&self) -> CheckResult {
        let read = self.by == SignalBy::Judge || self.summaries.as_os_str().is_empty();
        ensure(read, "summaries", self.summaries.display(), "by = \"judge\", which alone reads summaries")
    }
}

/// The scorer and its training. Lengths, epochs and learning rate default to the published values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScorerConfig {
    /// Path, run or hub id of a trained scorer. Empty (the default): one is trained from `model`.
    pub trained: String,
    /// The model that the training starts from; published: Qwen3-1.7B. Its dtype and device also hold for `trained`.
    pub model: ModelStart,
    /// Maximum length of a training row in tokens. Default: 8192.
    pub train_max_length: usize,
    /// Maximum length of a scored history in tokens; longer ones lose their oldest interactions. Default: 16384.
    pub max_length: usize,
    /// Length and batches of the training. Default: 1 epoch.
    pub train: SftTrain,
    /// Optimizer of the training. Default: that of SFT with lr 1e-4, as published, and the default schedule of Hugging Face's Trainer:
    /// linear, without warm-up.
    pub optimizer: OptimizerConfig,
}

impl Default for ScorerConfig {
    fn default() -> Self {
        Self {
            trained: String::new(),
            model: ModelStart::default(),
            train_max_length: 8192,
            max_length: 16384,
            train: SftTrain { epochs: 1, ..SftTrain::default() },
            optimizer: OptimizerConfig {
                lr: 1e-4,
                schedule: Schedule::Linear,
                warmup_ratio: 0.0,
                ..OptimizerConfig::default()
            },
        }
    }
}

impl ScorerConfig {
    pub(super) fn check(&self) -> CheckResult {
        at_least("train_max_length", self.train_max_length, 2)?;
        at_least("max_length", self.max_length, 2)?;
        self.train.check().under("train")?;
        self.optimizer.check().under("optimizer")
    }

    pub(super) fn check_required(&self) -> CheckResult {
        if self.trained.is_empty() {
            return self.model.check().under("model");
        }
        let plain = Self::default();
        for (key, same) in [
            ("model.path", self.model.path.is_none()),
            ("model.shape", self.model.shape.is_none()),
            ("model.tokenizer", self.model.tokenizer.is_none()),
            ("train_max_length", self.train_max_length == plain.train_max_length),
            ("train", self.train == plain.train),
            ("optimizer", self.optimizer == plain.optimizer),
        ] {
            ensure(same, key, "set", "no such key with `trained`: a trained scorer is not trained again")?;
        }
        Ok(())
    }
}
