//! The whole pipeline on the built-in world. Paths that the run creates itself are not part of this config; setting them is an
//! error.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::check::{CheckResult, Defect, Under, ensure, given};
use crate::eval::{Setting, check_settings};
use crate::judge::JudgeConfig;
use crate::load;
use crate::model::{Device, Dtype, ModelShape, ModelSource, ModelStart, TokenizerConfig};
use crate::optimizer::OptimizerConfig;
use crate::rl::{
    AlgorithmConfig, CurriculumConfig, LogConfig, RewardConfig, RlConfig, RlTrain, RolloutConfig, fit_together,
};
use crate::run::{RunConfig, check_name};
use crate::sampling::SamplingConfig;
use crate::sft::{SftConfig, SftData, SftTrain};
use crate::synth::{PruningConfig, SynthesisConfig};
use crate::world::WorldConfig;

/// The text of `configs/quickstart.toml`, which holds the defaults.
pub const EMBEDDED: &str = include_str!("../quickstart.toml");
/// The text of `configs/quickstart-tiny.toml`: the same phases at toy size.
pub const TINY: &str = include_str!("../quickstart-tiny.toml");

/// Configuration of the quickstart. The defaults are those of `configs/quickstart.toml`, which is embedded in the program.
// No `serde(default)`: deserializing the default would request the default recursively.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuickstartConfig {
    /// Name of the run and of its folder.
    pub name: String,
    /// Folder that contains the runs.
    pub out: PathBuf,
    /// Seed of the world, from which all later phases derive theirs.
    pub seed: u64,
    /// Number of CPU threads; 0 uses all cores.
    pub threads: usize,
    /// Dtype of all models.
    pub dtype: Dtype,
    /// Device of all models.
    pub device: Device,
    /// Prompt set of the policy: a built-in name or a folder. Every model of the run carries the set that its rows have.
    pub prompts: String,
    /// Sizes of the world's data sets.
    pub world: WorldConfig,
    /// Synthesis of the fine-tuning rows.
    pub synthesis: SynthesisConfig,
    /// Pruning of the RL rows.
    pub pruning: PruningConfig,
    /// The tokenizer that all models share, trained on the world's text.
    pub tokenizer: TokenizerConfig,
    /// The judge that computes the reward.
    pub judge: QuickstartJudge,
    /// The judge that is only used for evaluation.
    pub second_judge: QuickstartJudge,
    /// Shape of the policy.
    pub policy: ModelShape,
    /// Training of the base model, which takes the role of a pretrained model in real runs.
    pub reading: QuickstartSft,
    /// Fine-tuning of the policy, from the base model.
    pub sft: QuickstartSft,
    /// Reinforcement learning of the policy.
    pub rl: QuickstartRl,
    /// The evaluation.
    pub eval: QuickstartEval,
}

/// A judge that the run trains, and its settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuickstartJudge {
    /// Shape of the judge's model.
    pub shape: ModelShape,
    /// How its rows are read; the run sets the file.
    pub data: SftData,
    /// Length and batches of the training.
    pub train: SftTrain,
    /// Optimizer of the training.
    pub optimizer: OptimizerConfig,
    /// Settings of the judge; the run sets the model.
    pub ask: JudgeConfig,
}

/// Fine-tuning of the policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuickstartSft {
    /// How the rows are read; the run sets the file.
    pub data: SftData,
    /// Length and batches of the training.
    pub train: SftTrain,
    /// Optimizer of the training.
    pub optimizer: OptimizerConfig,
}

/// Reinforcement learning of the policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuickstartRl {
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
    /// Optimizer of the training.
    pub optimizer: OptimizerConfig,
    /// Logging of rollouts.
    pub log: LogConfig,
}

impl Default for QuickstartRl {
    fn default() -> Self {
        let RlConfig { curriculum, rollout, reward, algorithm, train, optimizer, log, .. } = RlConfig::default();
        Self { curriculum, rollout, reward, algorithm, train, optimizer, log }
    }
}

/// The evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuickstartEval {
    /// The settings to evaluate.
    pub settings: Vec<Setting>,
    /// Sampling of summaries.
    pub sampling: SamplingConfig,
}

impl Default for QuickstartEval {
    fn default() -> Self {
        Self { settings: vec![Setting::Direct, Setting::Full, Setting::Streaming], sampling: SamplingConfig::default() }
    }
}

impl Default for QuickstartConfig {
    fn default() -> Self {
        load::parse_over(&Self::bare(), Path::new("configs/quickstart.toml"), EMBEDDED, &[])
            .expect("the embedded quickstart.toml is valid: a test loads it")
    }
}

impl QuickstartConfig {
    /// Returns the defaults of the parts, which the embedded file overrides.
    fn bare() -> Self {
        Self {
            name: "quickstart".into(),
            out: "runs".into(),
            seed: 0,
            threads: 0,
            dtype: Dtype::Fp32,
            device: Device::Cpu,
            prompts: "compact".into(),
            world: WorldConfig::default(),
            synthesis: SynthesisConfig::default(),
            pruning: PruningConfig::default(),
            tokenizer: TokenizerConfig::default(),
            judge: QuickstartJudge::default(),
            second_judge: QuickstartJudge::default(),
            policy: ModelShape::default(),
            reading: QuickstartSft::default(),
            sft: QuickstartSft::default(),
            rl: QuickstartRl::default(),
            eval: QuickstartEval::default(),
        }
    }

    /// Returns the folder of the run.
    pub fn folder(&self) -> PathBuf {
        self.out.join(&self.name)
    }

    /// Returns a model of the run, with the run's dtype and device.
    pub fn source(&self, path: &Path) -> ModelSource {
        ModelSource {
            path: path.display().to_string(),
            dtype: self.dtype,
            device: self.device,
            ..ModelSource::default()
        }
    }

    /// Returns the config that trains a judge from random weights on the rows in `rows`, with the tokenizer in the folder
    /// `tokenizer`.
    pub fn judge_training(&self, judge: &QuickstartJudge, rows: &Path, tokenizer: &Path) -> SftConfig {
        let QuickstartJudge { shape, data, train, optimizer, ask } = judge;
        let recipe = QuickstartSft { data: data.clone(), train: train.clone(), optimizer: optimizer.clone() };
        let training = self.training(shape, &recipe).with_files(rows, tokenizer);
        SftConfig { prompts: ask.prompts.clone(), ..training }
    }

    /// Returns the config that trains the base model from random weights on the rows in `rows`, with the tokenizer in the folder
    /// `tokenizer`.
    pub fn base_training(&self, rows: &Path, tokenizer: &Path) -> SftConfig {
        self.training(&self.policy, &self.reading).with_files(rows, tokenizer)
    }

    /// Returns the config that fine-tunes the policy from the model in `base` on the rows in `rows`.
    pub fn policy_training(&self, rows: &Path, base: &Path) -> SftConfig {
        let source = self.source(base);
        SftConfig {
            name: "sft".into(),
            data: SftData { train: rows.into(), ..self.sft.data.clone() },
            model: ModelStart {
                path: Some(source.path),
                dtype: self.dtype,
                device: self.device,
                ..ModelStart::default()
            },
            ..self.training(&self.policy, &self.sft)
        }
    }

    /// Returns the config that trains the model in `policy` with reinforcement learning on the rows in `rows`, judged by the model
    /// in `judge`.
    pub fn rl_training(&self, rows: &Path, policy: &Path, judge: &Path) -> RlConfig {
        let QuickstartRl { curriculum, rollout, reward, algorithm, train, optimizer, log } = self.rl.clone();
        RlConfig {
            name: "rl".into(),
            out: self.folder(),
            seed: self.seed,
            threads: self.threads,
            prompts: self.prompts.clone(),
            model: self.source(policy),
            judge: JudgeConfig { model: self.source(judge), ..self.judge.ask.clone() },
            data: crate::rl::RlData { train: rows.into(), ..crate::rl::RlData::default() },
            curriculum,
            checkpoint: crate::CheckpointConfig::default(),
            rollout,
            reward,
            algorithm,
            train,
            optimizer,
            log,
            ..RlConfig::default()
        }
    }

    fn training(&self, shape: &ModelShape, recipe: &QuickstartSft) -> SftConfig {
        SftConfig {
            out: self.folder(),
            seed: self.seed,
            threads: self.threads,
            prompts: self.prompts.clone(),
            model: ModelStart {
                path: None,
                dtype: self.dtype,
                device: self.device,
                shape: Some(shape.clone()),
                tokenizer: Some(self.tokenizer.clone()),
            },
            data: recipe.data.clone(),
            train: recipe.train.clone(),
            optimizer: recipe.optimizer.clone(),
            ..SftConfig::default()
        }
    }

    fn verdict(&self) -> CheckResult {
        check_name(&self.name)?;
        given(!self.prompts.is_empty(), "prompts", crate::prompts::EXPECTED)?;
        self.world.check().under("world")?;
        self.synthesis.check().under("synthesis")?;
        self.pruning.check().under("pruning")?;
        self.tokenizer.check().under("tokenizer")?;
        self.judge.check().under("judge")?;
        self.second_judge.check().under("second_judge")?;
        self.policy.check().under("policy")?;
        self.reading.check().under("reading")?;
        self.sft.check().under("sft")?;
        self.rl.check().under("rl")?;
        let least = self.rl.reward.targets_per_stage - 1;
        let for_stages = format!("at least {least} (rl.reward.targets_per_stage - 1; one target is the stage's own)");
        ensure(self.world.rl_targets >= least, "rl_targets", self.world.rl_targets, &for_stages).under("world")?;
        check_settings(&self.eval.settings).under("eval")?;
        self.eval.sampling.check().under("eval.sampling")
    }
}

impl RunConfig for QuickstartConfig {
    fn defect(&self) -> Option<Defect> {
        self.verdict().err()
    }
}

impl SftConfig {
    /// Returns the same training on other rows, with an existing tokenizer.
    fn with_files(mut self, rows: &Path, tokenizer: &Path) -> Self {
        self.data.train = rows.into();
        if let Some(config) = &mut self.model.tokenizer {
            config.path = Some(tokenizer.into());
        }
        self
    }
}

/// Checks that a path that the run creates itself is not set.
fn not_given(empty: bool, key: &str) -> CheckResult {
    if empty { Ok(()) } else { Err(Defect::new(key, "is set, but the quickstart sets it itself; remove the key")) }
}

impl QuickstartJudge {
    fn check(&self) -> CheckResult {
        self.shape.check().under("shape")?;
        not_given(self.data.train.as_os_str().is_empty(), "data.train")?;
        self.data.check_reading().under("data")?;
        self.train.check().under("train")?;
        self.optimizer.check().under("optimizer")?;
        // The run sets dtype and device, so no key of a model can be set here.
        not_given(self.ask.model == ModelSource::default(), "ask.model")?;
        self.ask.check_question().under("ask")
    }
}

impl QuickstartSft {
    fn check(&self) -> CheckResult {
        not_given(self.data.train.as_os_str().is_empty(), "data.train")?;
        self.data.check_reading().under("data")?;
        self.train.check().under("train")?;
        self.optimizer.check().under("optimizer")
    }
}

impl QuickstartRl {
    fn check(&self) -> CheckResult {
        self.curriculum.check().under("curriculum")?;
        self.rollout.check().under("rollout")?;
        self.reward.check().under("reward")?;
        self.algorithm.check().under("algorithm")?;
        fit_together(&self.rollout, &self.reward, &self.algorithm)?;
        self.train.check().under("train")?;
        self.optimizer.check().under("optimizer")
    }
}
