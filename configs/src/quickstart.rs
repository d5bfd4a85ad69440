//! The whole pipeline on the built-in world. Paths that the run makes itself are not given here, and refused.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::check::{Defect, Under, Verdict, at_least, ensure, fraction, given};
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

/// The text of `configs/quickstart.toml`, which holds the defaults.
pub const EMBEDDED: &str = include_str!("../quickstart.toml");
/// The text of `configs/quickstart-tiny.toml`: the same phases at toy size.
pub const TINY: &str = include_str!("../quickstart-tiny.toml");

/// The quickstart. The defaults are those of `configs/quickstart.toml`, which is built into the program.
// No `serde(default)`: it would ask for the default while the default is being read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuickstartConfig {
    /// The run's name and the name of its folder.
    pub name: String,
    /// The folder that holds runs.
    pub out: PathBuf,
    /// Seed of the world and, through it, of everything after.
    pub seed: u64,
    /// CPU threads; 0 takes all cores.
    pub threads: usize,
    /// Number format of all models.
    pub dtype: Dtype,
    /// Where all models compute.
    pub device: Device,
    /// Prompt set of the policy, built in or a folder.
    pub prompts: String,
    /// How much of the world is made.
    pub world: WorldConfig,
    /// The synthesis of the fine-tuning rows.
    pub synthesis: SynthesisConfig,
    /// The pruning of the RL rows.
    pub pruning: PruningConfig,
    /// The one tokenizer of all models, trained on the world's text.
    pub tokenizer: TokenizerConfig,
    /// The judge that gives reward.
    pub judge: QuickstartJudge,
    /// The judge that only evaluates.
    pub second_judge: QuickstartJudge,
    /// The shape of the policy.
    pub policy: ModelShape,
    /// The base model's training: it stands where a pretrained model stands in real runs.
    pub reading: QuickstartSft,
    /// The policy's fine-tuning, from the base model.
    pub sft: QuickstartSft,
    /// The policy's reinforcement learning.
    pub rl: QuickstartRl,
    /// The evaluation.
    pub eval: QuickstartEval,
}

/// Sizes of the built-in world's data sets. Every set has people of its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorldConfig {
    /// Judge rows per judge.
    pub judge_rows: usize,
    /// Rows from which the policy's base model learns to read and count, before the synthesized rows.
    pub reading_rows: usize,
    /// People whose histories the teacher summarises for fine-tuning.
    pub synthesis_people: usize,
    /// People whose histories become rows for reinforcement learning, before pruning.
    pub rl_people: usize,
    /// Further choices of each of them, for `rl.reward.targets_per_stage`.
    pub rl_targets: usize,
    /// Held-out people that are evaluated.
    pub eval_people: usize,
    /// Targets judged per evaluated person in their own domain.
    pub eval_targets: usize,
    /// Targets judged per evaluated person in each of the two other domains.
    pub eval_transfer_targets: usize,
}

/// The teacher's synthesis: generate, verify by the judge, merge, re-test. The defaults are the published thresholds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SynthesisConfig {
    /// A choice is a target if the informed judge gives it more than this probability. Default: 0.9.
    pub target_probability: f64,
    /// Most targets of a stage. Default: 5.
    pub most_targets: usize,
    /// Fewest targets of a stage. Default: 4.
    pub least_targets: usize,
    /// Fewest candidate summaries that must predict their target. Default: 3.
    pub least_correct: usize,
    /// Fraction of the predicted targets that the merged summary must predict too. Default: 0.8.
    pub retest: f64,
}

impl Default for SynthesisConfig {
    fn default() -> Self {
        Self { target_probability: 0.9, most_targets: 5, least_targets: 4, least_correct: 3, retest: 0.8 }
    }
}

impl SynthesisConfig {
    fn check(&self) -> Verdict {
        fraction("target_probability", self.target_probability)?;
        at_least("least_targets", self.least_targets, 1)?;
        let expected = format!("at least least_targets ({})", self.least_targets);
        ensure(self.most_targets >= self.least_targets, "most_targets", self.most_targets, &expected)?;
        at_least("least_correct", self.least_correct, 1)?;
        fraction("retest", self.retest)
    }
}

/// Curriculum pruning of the RL rows: which choices become targets. See the published rule in docs/architecture.md.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PruningConfig {
    /// Share of all choices kept, by descending signal (a). Default: 0.8.
    pub most_signal: f64,
    /// Least probability that the informed judge gives the choice (b). Default: 0.5.
    pub least_probability: f64,
    /// End of the band of descending probability that is kept (c). Default: 1.
    pub band_end: f64,
    /// Width of that band; published: 0.1. Default: 1, since in a small world every person counts.
    pub band_width: f64,
    /// Fewest interactions that each of the two stages reads. Default: 4, as in the published rows from AlignX.
    pub least_window: usize,
}

impl Default for PruningConfig {
    fn default() -> Self {
        Self { most_signal: 0.8, least_probability: 0.5, band_end: 1.0, band_width: 1.0, least_window: 4 }
    }
}

impl PruningConfig {
    fn check(&self) -> Verdict {
        fraction("most_signal", self.most_signal)?;
        fraction("least_probability", self.least_probability)?;
        fraction("band_end", self.band_end)?;
        fraction("band_width", self.band_width)?;
        at_least("least_window", self.least_window, 1)
    }
}

/// A judge trained by the run, and how it is asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuickstartJudge {
    /// Shape of its model.
    pub shape: ModelShape,
    /// How its rows are read; the file is the run's own.
    pub data: SftData,
    /// Length and batches.
    pub train: SftTrain,
    /// Optimizer.
    pub optimizer: OptimizerConfig,
    /// How it is asked; the model is the run's own.
    pub ask: JudgeConfig,
}

/// The policy's fine-tuning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuickstartSft {
    /// How the rows are read; the file is the run's own.
    pub data: SftData,
    /// Length and batches.
    pub train: SftTrain,
    /// Optimizer.
    pub optimizer: OptimizerConfig,
}

/// The policy's reinforcement learning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuickstartRl {
    /// In which order people come.
    pub curriculum: CurriculumConfig,
    /// How summaries are drawn.
    pub rollout: RolloutConfig,
    /// What a summary is worth.
    pub reward: RewardConfig,
    /// The policy update.
    pub algorithm: AlgorithmConfig,
    /// How long.
    pub train: RlTrain,
    /// Optimizer.
    pub optimizer: OptimizerConfig,
    /// What is written down of the rollouts.
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
    /// The settings.
    pub settings: Vec<Setting>,
    /// How summaries are drawn.
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
    /// The defaults of the parts, below those of the embedded file.
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

    /// The run's folder.
    pub fn folder(&self) -> PathBuf {
        self.out.join(&self.name)
    }

    /// A model of the run, in the run's number format and place.
    pub fn source(&self, path: &Path) -> ModelSource {
        ModelSource {
            path: path.display().to_string(),
            dtype: self.dtype,
            device: self.device,
            ..ModelSource::default()
        }
    }

    /// The training of a judge, from random weights, on the rows in `rows`, with the tokenizer in the folder
    /// `tokenizer`.
    pub fn judge_training(&self, judge: &QuickstartJudge, rows: &Path, tokenizer: &Path) -> SftConfig {
        let QuickstartJudge { shape, data, train, optimizer, .. } = judge;
        self.training(shape, &QuickstartSft { data: data.clone(), train: train.clone(), optimizer: optimizer.clone() })
            .with_files(rows, tokenizer)
    }

    /// The base model's training, from random weights, on the rows in `rows`, with the tokenizer in the folder
    /// `tokenizer`.
    pub fn base_training(&self, rows: &Path, tokenizer: &Path) -> SftConfig {
        self.training(&self.policy, &self.reading).with_files(rows, tokenizer)
    }

    /// The policy's fine-tuning, from the model in `base`, on the rows in `rows`.
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

    /// The policy's reinforcement learning, from the model in `policy`, judged by the one in `judge`.
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
            data: crate::rl::RlData { train: rows.into() },
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

    fn verdict(&self) -> Verdict {
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
        let for_stages = format!("at least {least} (rl.reward.targets_per_stage, one of which is the stage's own)");
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
    /// The same training on other rows, with a tokenizer that exists.
    fn with_files(mut self, rows: &Path, tokenizer: &Path) -> Self {
        self.data.train = rows.into();
        if let Some(config) = &mut self.model.tokenizer {
            config.path = Some(tokenizer.into());
        }
        self
    }
}

impl WorldConfig {
    fn check(&self) -> Verdict {
        at_least("judge_rows", self.judge_rows, 1)?;
        at_least("reading_rows", self.reading_rows, 1)?;
        at_least("synthesis_people", self.synthesis_people, 1)?;
        at_least("rl_people", self.rl_people, 1)?;
        at_least("eval_people", self.eval_people, 2)?;
        at_least("eval_targets", self.eval_targets, 1)?;
        at_least("eval_transfer_targets", self.eval_transfer_targets, 1)
    }
}

/// A path that the run makes itself.
fn not_given(empty: bool, key: &str) -> Verdict {
    if empty { Ok(()) } else { Err(Defect::new(key, "is given; the quickstart makes it itself, so remove the key")) }
}

impl QuickstartJudge {
    fn check(&self) -> Verdict {
        self.shape.check().under("shape")?;
        not_given(self.data.train.as_os_str().is_empty(), "data.train")?;
        self.data.check_reading().under("data")?;
        self.train.check().under("train")?;
        self.optimizer.check().under("optimizer")?;
        // Number format and place are the run's, so nothing of a model can be said here.
        not_given(self.ask.model == ModelSource::default(), "ask.model")?;
        self.ask.check_question().under("ask")
    }
}

impl QuickstartSft {
    fn check(&self) -> Verdict {
        not_given(self.data.train.as_os_str().is_empty(), "data.train")?;
        self.data.check_reading().under("data")?;
        self.train.check().under("train")?;
        self.optimizer.check().under("optimizer")
    }
}

impl QuickstartRl {
    fn check(&self) -> Verdict {
        self.curriculum.check().under("curriculum")?;
        self.rollout.check().under("rollout")?;
        self.reward.check().under("reward")?;
        self.algorithm.check().under("algorithm")?;
        fit_together(&self.rollout, &self.reward, &self.algorithm)?;
        self.train.check().under("train")?;
        self.optimizer.check().under("optimizer")
    }
}
