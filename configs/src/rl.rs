//! Reinforcement learning: GRPO with streaming stages.

pub mod alarm;
pub mod algorithm;
pub mod composing;
pub mod curriculum;
pub mod external;
pub mod reward;
pub mod rollout;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use self::alarm::{AlarmAction, AlarmConfig, AlarmSign};
pub use self::algorithm::AlgorithmConfig;
pub use self::composing::{Normalization, ScheduleKind, WeightSchedule};
pub use self::curriculum::CurriculumConfig;
pub use self::external::{ExternalConfig, ExternalSource, OnFailure};
pub use self::reward::{RewardConfig, TermConfig};
pub use self::rollout::RolloutConfig;
use crate::check::{CheckResult, Defect, Under, at_least, ensure, given};
use crate::checkpoint::{Best, CheckpointConfig};
use crate::judge::{DEFAULT_PANEL_TEMPERATURE, JudgeConfig, PanelCheck, PanelRule, RlJudge};
use crate::lora::LoraConfig;
use crate::metrics::MetricsConfig;
use crate::model::ModelSource;
use crate::optimizer::OptimizerConfig;
use crate::parallel::ParallelConfig;
use crate::run::{RunConfig, check_name};
use crate::sft::Unusable;
use crate::validation::ValidationConfig;

/// Configuration of a GRPO run. The defaults are the published recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RlConfig {
    /// Name of the run and of its folder. Default: rl.
    pub name: String,
    /// Folder that contains the runs. Default: runs.
    pub out: PathBuf,
    /// Seed of data order, rollouts, item orders, sampled answers of the judge, and the choice of carried summaries. Default: 42.
    pub seed: u64,
    /// Number of CPU threads; 0 uses all cores. Default: 0.
    pub threads: usize,
    /// Prompt set of the policy: a built-in name or a folder. Empty (the default): the set that the model carries, or plain if it
    /// carries none.
    pub prompts: String,
    /// The policy that training starts from. Required.
    pub model: ModelSource,
    /// LoRA adapters to train in place of the model's own weights. Default: none, which trains all weights.
    pub lora: Option<LoraConfig>,
    /// The judge of the summaries: the short form of one judge named "judge". Give either this or `judges`.
    pub judge: JudgeConfig,
    /// The judges of the summaries, by name. Default: none, so that `judge` is the only one.
    pub judges: Vec<RlJudge>,
    /// How the judges with a weight above 0 are combined to the panel that judges the summaries. Default: mean.
    pub panel: PanelRule,
    /// Temperature τ of `panel = "softmin"`. Default: 0.1.
    pub panel_temperature: f64,
    /// Folder of verdicts of judges in this process, which runs with the same judges share and a resumed run finds again. Each is
    /// stored under a hash of the model's files, the judge's settings, its prompt set and the question. Empty (the default):
    /// verdicts are kept in memory only.
    pub judge_cache: PathBuf,
    /// The training rows.
    pub data: RlData,
    /// The order of users.
    pub curriculum: CurriculumConfig,
    /// Sampling of summaries.
    pub rollout: RolloutConfig,
    /// Reward of a summary.
    pub reward: RewardConfig,
    /// The policy update.
    pub algorithm: AlgorithmConfig,
    /// Length of the training.
    pub train: RlTrain,
    /// Optimizer. Defaults: lr 1e-6, constant, weight decay 0.01.
    pub optimizer: OptimizerConfig,
    /// Validation on held-out users during training. Default: none.
    pub validation: ValidationConfig,
    /// The reward hacking alarm. Default: none.
    pub alarm: Option<AlarmConfig>,
    /// Checkpoints. Default: every 30 steps, the last 2 kept.
    pub checkpoint: CheckpointConfig,
    /// Metrics that are logged at each step.
    pub metrics: MetricsConfig,
    /// Distributed training. Default: each process holds the full state.
    pub parallel: ParallelConfig,
    /// Logging of rollouts.
    pub log: LogConfig,
}

impl Default for RlConfig {
    fn default() -> Self {
        Self {
            name: "rl".into(),
            out: "runs".into(),
            seed: 42,
            threads: 0,
            prompts: String::new(),
            model: ModelSource::default(),
            lora: None,
            judge: JudgeConfig::default(),
            judges: Vec::new(),
            panel: PanelRule::default(),
            panel_temperature: DEFAULT_PANEL_TEMPERATURE,
            judge_cache: PathBuf::new(),
            data: RlData::default(),
            curriculum: CurriculumConfig::default(),
            rollout: RolloutConfig::default(),
            reward: RewardConfig::default(),
            algorithm: AlgorithmConfig::default(),
            train: RlTrain::default(),
            optimizer: OptimizerConfig::published_rl(),
            validation: ValidationConfig::default(),
            alarm: None,
            checkpoint: CheckpointConfig { every: 30, ..CheckpointConfig::default() },
            metrics: MetricsConfig::default(),
            parallel: ParallelConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl RlConfig {
    /// Returns the folder of the run.
    pub fn folder(&self) -> PathBuf {
        self.out.join(&self.name)
    }

    /// Returns the judges, each with the key of its settings: `judges[0].judge`, …, or `judge` for the short form.
    pub fn panel_judges(&self) -> Vec<(String, RlJudge)> {
        if self.judges.is_empty() {
            let only = RlJudge { name: "judge".into(), judge: self.judge.clone(), ..RlJudge::default() };
            return vec![("judge".into(), only)];
        }
        let keyed = |(index, judge): (usize, &RlJudge)| (format!("judges[{index}].judge"), judge.clone());
        self.judges.iter().enumerate().map(keyed).collect()
    }

    fn panel_check(&self) -> PanelCheck<'_> {
        let Self { judge, judges, panel, panel_temperature, .. } = self;
        PanelCheck { judge, judges, panel: *panel, temperature: *panel_temperature }
    }

    fn verdict(&self) -> CheckResult {
        check_name(&self.name)?;
        self.model.check().under("model")?;
        self.lora.as_ref().map_or(Ok(()), LoraConfig::check).under("lora")?;
        self.panel_check().check()?;
        given(!self.data.train.as_os_str().is_empty(), "data.train", "the path of a JSONL file of RL rows")?;
        self.curriculum.check().under("curriculum")?;
        self.rollout.check().under("rollout")?;
        self.reward.check().under("reward")?;
        self.algorithm.check().under("algorithm")?;
        fit_together(&self.rollout, &self.reward, &self.algorithm)?;
        self.train.check().under("train")?;
        self.optimizer.check().under("optimizer")?;
        self.optimizer.check_beside(self.lora.is_some(), self.parallel.sharding).under("optimizer")?;
        self.check_measuring()?;
        self.parallel.check().under("parallel")?;
        self.metrics.check().under("metrics")
    }

    fn check_measuring(&self) -> CheckResult {
        self.validation.check().under("validation")?;
        if let Some(alarm) = &self.alarm {
            alarm.check().under("alarm")?;
            alarm.check_beside(self).under("alarm")?;
            let expected = "1 or more: [alarm] looks at summaries every validation.every steps";
            ensure(self.validation.every > 0, "validation.every", 0, expected)?;
            let resumable = alarm.action != AlarmAction::Pause || self.checkpoint.state;
            let expected = "true: alarm.action = \"pause\" writes a checkpoint to resume from";
            ensure(resumable, "checkpoint.state", false, expected)?;
        }
        let measured = self.validation.every > 0 && self.validation.summaries.is_some();
        let expected = "0, or users to validate on: [validation.summaries], or an [alarm]";
        let used = measured || self.alarm.is_some();
        ensure(self.validation.every == 0 || used, "validation.every", self.validation.every, expected)?;
        let v = &self.validation;
        let expected = "false, or users to validate on: [validation.summaries]";
        ensure(!v.at_start || v.summaries.is_some(), "validation.at_start", true, expected)?;
        let asked = v.summaries.is_none() || v.every > 0 || v.at_start;
        let expected = "1 or more, or at_start = true; otherwise [validation.summaries] is never used";
        ensure(asked, "validation.every", 0, expected)?;
        self.checkpoint.check().under("checkpoint")?;
        let expected = "false: a step of RL may span two epochs; set checkpoint.every";
        ensure(!self.checkpoint.every_epoch, "checkpoint.every_epoch", true, expected)?;
        let known = match self.checkpoint.best {
            None => true,
            Some(Best::Loss) => false,
            Some(Best::Accuracy) => measured,
        };
        let expected = "\"validation/accuracy\", with validation.every and [validation.summaries]";
        ensure(known, "checkpoint.best", self.checkpoint.best.map_or("", Best::key), expected)
    }
}

impl RunConfig for RlConfig {
    fn defect(&self) -> Option<Defect> {
        self.verdict().err()
    }
}

/// Checks keys of one table that are only valid with a setting of another.
pub(crate) fn fit_together(rollout: &RolloutConfig, reward: &RewardConfig, algorithm: &AlgorithmConfig) -> CheckResult {
    algorithm.check_batches(rollout).under("algorithm")?;
    let weights = reward.stage_weights.len();
    let expected = format!("no weights, or {} of them (rollout.stages)", rollout.stages);
    ensure(weights == 0 || weights == rollout.stages, "reward.stage_weights", format!("{weights} weights"), &expected)?;
    for (index, term) in reward.terms.iter().enumerate() {
        let (key, weights) = (format!("reward.terms[{index}].stage_weights"), term.stage_weights.len());
        ensure(weights == 0 || weights == rollout.stages, &key, format!("{weights} weights"), &expected)?;
    }
    let band = reward.overlong_band;
    let expected = format!("at most rollout.max_new_tokens ({})", rollout.max_new_tokens);
    ensure(band <= rollout.max_new_tokens, "reward.overlong_band", band, &expected)
}

/// The training rows of GRPO.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RlData {
    /// Rows of `{uid, history, mid_position, …}`, or rows as published for verl: a JSON Lines file, a JSON array, or Parquet; a
    /// folder of such files; or `hf://datasets/owner/name`. Required.
    pub train: PathBuf,
    /// Handling of rows that cannot be used: a field is missing or has another type, the history has fewer than three interactions,
    /// `mid_position` is not between the first and the last one, or a target has no `rejected` item. With `skip`, the start of the run
    /// reports their number and the first reasons. Default: error.
    pub unusable: Unusable,
}

/// Length of GRPO training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RlTrain {
    /// Maximum number of steps; 0 sets no limit, so that `epochs` decides. Default: 0.
    pub steps: usize,
    /// Number of passes over the users. With zero_variance = "refill", a step may use additional users; the number of steps does
    /// not change. Default: 1.
    pub epochs: usize,
    /// Whether the users that remain at the end of an epoch, too few for a step, are left out, as published. If false, users of the
    /// next epoch complete the step. Default: false.
    pub drop_last: bool,
    /// Activation checkpointing: 0 keeps the activations of every layer, 1 recomputes every layer in the backward pass, k every
    /// k-th. Changes memory and speed, not the result. Default: 0.
    pub activation_checkpointing_every: usize,
}

impl Default for RlTrain {
    fn default() -> Self {
        Self { steps: 0, epochs: 1, drop_last: false, activation_checkpointing_every: 0 }
    }
}

impl RlTrain {
    pub(crate) fn check(&self) -> CheckResult {
        at_least("epochs", self.epochs, 1)
    }
}

/// Logging of rollouts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Number of steps between rollout files; 0 writes none. Default: 10.
    pub rollouts_every: usize,
    /// Maximum number of rows in a rollout file. Default: 64.
    pub rollouts_max: usize,
    /// Whether to also write everything of a step that `xplore replay` needs. Default: true.
    pub replay: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { rollouts_every: 10, rollouts_max: 64, replay: true }
    }
}
