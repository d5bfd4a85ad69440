//! Reinforcement learning: GRPO with streaming stages.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::check::{Defect, Under, Verdict, at_least, ensure, fraction, given, inside_unit, not_negative, positive};
use crate::checkpoint::CheckpointConfig;
use crate::judge::JudgeConfig;
use crate::model::ModelSource;
use crate::optimizer::OptimizerConfig;
use crate::run::{RunConfig, check_name};
use crate::sampling::check_top_p;

/// A run of GRPO. The defaults are the published recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RlConfig {
    /// The run's name and the name of its folder. Default: rl.
    pub name: String,
    /// The folder that holds runs. Default: runs.
    pub out: PathBuf,
    /// Seed of data order, rollouts, item orders and the choice of carried summaries. Default: 42.
    pub seed: u64,
    /// CPU threads; 0 takes all cores. Default: 0.
    pub threads: usize,
    /// Prompt set of the policy, built in or a folder. Default: plain.
    pub prompts: String,
    /// The policy that training starts from. Required.
    pub model: ModelSource,
    /// Who judges the summaries.
    pub judge: JudgeConfig,
    /// The rows.
    pub data: RlData,
    /// How summaries are drawn.
    pub rollout: RolloutConfig,
    /// What a summary is worth.
    pub reward: RewardConfig,
    /// The policy update.
    pub algorithm: AlgorithmConfig,
    /// How long.
    pub train: RlTrain,
    /// Optimizer. Defaults: lr 1e-6, constant, weight decay 0.01.
    pub optimizer: OptimizerConfig,
    /// Checkpoints. Default: every 30 steps, the last 2 kept.
    pub checkpoint: CheckpointConfig,
    /// What is written down of the rollouts.
    pub log: LogConfig,
}

impl Default for RlConfig {
    fn default() -> Self {
        Self {
            name: "rl".into(),
            out: "runs".into(),
            seed: 42,
            threads: 0,
            prompts: crate::prompts::DEFAULT.into(),
            model: ModelSource::default(),
            judge: JudgeConfig::default(),
            data: RlData::default(),
            rollout: RolloutConfig::default(),
            reward: RewardConfig::default(),
            algorithm: AlgorithmConfig::default(),
            train: RlTrain::default(),
            optimizer: OptimizerConfig::published_rl(),
            checkpoint: CheckpointConfig { every: 30, ..CheckpointConfig::default() },
            log: LogConfig::default(),
        }
    }
}

impl RlConfig {
    /// The run's folder.
    pub fn folder(&self) -> PathBuf {
        self.out.join(&self.name)
    }

    fn verdict(&self) -> Verdict {
        check_name(&self.name)?;
        given(!self.prompts.is_empty(), "prompts", crate::prompts::EXPECTED)?;
        self.model.check().under("model")?;
        self.judge.check().under("judge")?;
        given(!self.data.train.as_os_str().is_empty(), "data.train", "the path of a JSONL file of RL rows")?;
        self.rollout.check().under("rollout")?;
        self.reward.check().under("reward")?;
        self.algorithm.check().under("algorithm")?;
        at_most_rows(&self.algorithm, &self.rollout)?;
        self.train.check().under("train")?;
        self.optimizer.check().under("optimizer")?;
        self.checkpoint.check().under("checkpoint")
    }
}

impl RunConfig for RlConfig {
    fn defect(&self) -> Option<Defect> {
        self.verdict().err()
    }
}

/// A step cannot be cut into more updates than it has rows.
pub(crate) fn at_most_rows(algorithm: &AlgorithmConfig, rollout: &RolloutConfig) -> Verdict {
    let rows = rollout.people_per_step.saturating_mul(rollout.samples).saturating_mul(rollout.stages);
    let updates = algorithm.updates_per_step;
    let expected = format!("at most the {rows} rows of a step (people_per_step · samples · stages)");
    ensure(updates <= rows, "algorithm.updates_per_step", updates, &expected)
}

/// The rows of GRPO.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RlData {
    /// JSON lines of `{uid, history, mid_position, …}`. Required.
    pub train: PathBuf,
}

/// How summaries are drawn. Temperature 1 without truncation, as published, keeps the sampled distribution the one that
/// the loss is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutConfig {
    /// Streaming stages: how many parts of a history are read one after the other, each with the summary of the part
    /// before; 1 reads all at once. Default: 2.
    pub stages: usize,
    /// Summaries per person and stage: the size of a GRPO group. Default: 4.
    pub samples: usize,
    /// People per step. Default: 1024.
    pub people_per_step: usize,
    /// Divides the logits; above 0. Default: 1.
    pub temperature: f64,
    /// Keep the likeliest `top_k` tokens; 0 keeps all. Default: 0.
    pub top_k: usize,
    /// Keep the smallest set of tokens whose probabilities reach this; 1 keeps all. Default: 1.
    pub top_p: f64,
    /// Longest prompt in tokens; a longer one loses its left end. Default: 8192.
    pub max_prompt_tokens: usize,
    /// Longest response in tokens. Default: 4096.
    pub max_new_tokens: usize,
}

impl Default for RolloutConfig {
    fn default() -> Self {
        Self {
            stages: 2,
            samples: 4,
            people_per_step: 1024,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            max_prompt_tokens: 8192,
            max_new_tokens: 4096,
        }
    }
}

impl RolloutConfig {
    pub(crate) fn check(&self) -> Verdict {
        at_least("stages", self.stages, 1)?;
        ensure(self.samples >= 2, "samples", self.samples, "at least 2 (a group of one has no advantage)")?;
        at_least("people_per_step", self.people_per_step, 1)?;
        positive("temperature", self.temperature)?;
        check_top_p(self.top_p)?;
        at_least("max_prompt_tokens", self.max_prompt_tokens, 1)?;
        at_least("max_new_tokens", self.max_new_tokens, 1)
    }
}

/// What a summary is worth: the weighted sum of its terms, and from the stage after it a share of what it led to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RewardConfig {
    /// The terms. Default: [{ name = "judge", weight = 1 }].
    pub terms: Vec<TermConfig>,
    /// Share of the next stage's mean reward that the carried summary gets. Default: 0.9.
    pub carry_discount: f64,
    /// What every other summary of the group gets in its place, before the discount: the reward expected by chance.
    /// Default: 0.5.
    pub carry_baseline: f64,
}

impl Default for RewardConfig {
    fn default() -> Self {
        Self { terms: vec![TermConfig::default()], carry_discount: 0.9, carry_baseline: 0.5 }
    }
}

impl RewardConfig {
    pub(crate) fn check(&self) -> Verdict {
        if self.terms.is_empty() {
            return Err(Defect::new("terms", "is empty; expected at least one term"));
        }
        for (index, term) in self.terms.iter().enumerate() {
            let at = format!("terms[{index}]");
            given(!term.name.is_empty(), "name", "the name of a reward term").under(&at)?;
            ensure(term.weight.is_finite(), "weight", term.weight, "a finite number").under(&at)?;
            let twice = self.terms[..index].iter().any(|earlier| earlier.name == term.name);
            let found = format!("\"{}\" for the second time", term.name);
            ensure(!twice, "name", found, "each term once; put its weights together").under(&at)?;
        }
        fraction("carry_discount", self.carry_discount)?;
        not_negative("carry_baseline", self.carry_baseline)
    }
}

/// One term of the reward.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TermConfig {
    /// The term's registered name. Default: judge.
    pub name: String,
    /// Its factor in the sum; negative for a penalty. Default: 1.
    pub weight: f64,
}

impl Default for TermConfig {
    fn default() -> Self {
        Self { name: "judge".into(), weight: 1.0 }
    }
}

/// The policy update: clipped ratios, mean over the tokens of the mini-batch, no KL term, no entropy bonus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlgorithmConfig {
    /// The ratio counts no lower than 1 − this. Default: 0.2.
    pub clip_low: f64,
    /// The ratio counts no higher than 1 + this. Default: 0.2.
    pub clip_high: f64,
    /// For negative advantages the loss counts no more than this times the advantage's size; above 1. Default: 3.
    pub dual_clip: f64,
    /// Added to a group's standard deviation. Default: 1e-6.
    pub advantage_eps: f64,
    /// Optimizer updates per step: the step's rows are cut into so many mini-batches. Default: 4 (8192 rows, 2048 each).
    pub updates_per_step: usize,
    /// Most tokens in one packed forward pass; a longer sequence goes alone. Changes memory and speed, not the result.
    /// Default: 16384.
    pub tokens_per_microbatch: usize,
}

impl Default for AlgorithmConfig {
    fn default() -> Self {
        Self {
            clip_low: 0.2,
            clip_high: 0.2,
            dual_clip: 3.0,
            advantage_eps: 1e-6,
            updates_per_step: 4,
            tokens_per_microbatch: 16384,
        }
    }
}

impl AlgorithmConfig {
    pub(crate) fn check(&self) -> Verdict {
        inside_unit("clip_low", self.clip_low)?;
        inside_unit("clip_high", self.clip_high)?;
        ensure(self.dual_clip > 1.0 && self.dual_clip.is_finite(), "dual_clip", self.dual_clip, "a number above 1")?;
        not_negative("advantage_eps", self.advantage_eps)?;
        at_least("updates_per_step", self.updates_per_step, 1)?;
        at_least("tokens_per_microbatch", self.tokens_per_microbatch, 1)
    }
}

/// Length of GRPO.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RlTrain {
    /// Stop after so many steps; 0 sets no limit, so that `epochs` decides. Default: 0.
    pub steps: usize,
    /// Passes over the people. Default: 1.
    pub epochs: usize,
}

impl Default for RlTrain {
    fn default() -> Self {
        Self { steps: 0, epochs: 1 }
    }
}

impl RlTrain {
    pub(crate) fn check(&self) -> Verdict {
        at_least("epochs", self.epochs, 1)
    }
}

/// What is written down of the rollouts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Steps between files of rollouts; 0 writes none. Default: 10.
    pub rollouts_every: usize,
    /// Most rows in such a file. Default: 64.
    pub rollouts_max: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { rollouts_every: 10, rollouts_max: 64 }
    }
}
