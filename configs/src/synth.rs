//! Data synthesis: from raw interaction logs to the rows of SFT and RL.

mod export;
mod import;
mod prune;
mod signal;
mod teach;
mod thresholds;

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::Table;

pub use self::export::{ExportConfig, ExportFormat};
pub use self::import::{
    ColumnsConfig, Duplicates, ImportConfig, ImportOrder, MessageUsers, NegativePolicy, Quotes, WorldImport,
    WorldPopulation,
};
pub use self::prune::{PolicyPruning, PruneBy, PruneConfig};
pub use self::signal::{ScorerConfig, SignalBy, SignalConfig};
pub use self::teach::{OnError, TeachConfig, TeacherConfig, VerifyBy};
pub use self::thresholds::{PruningConfig, PruningRule, SynthesisConfig};
use crate::check::{CheckResult, Defect, Under, ensure, given};
use crate::endpoint::EndpointConfig;
use crate::error::ConfigError;
use crate::judge::{JudgeConfig, JudgeMode, JudgePlacement, JudgePrices};
use crate::model::ModelSource;
use crate::run::{RunConfig, check_name};
use crate::sft::SftTrain;

/// A step of the synthesis. Each has a folder of its name in the folder of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SynthStep {
    /// Reads raw files and writes histories.
    Import,
    /// Scores each choice with and without the history before it.
    Signal,
    /// Selects hard but solvable choices and writes RL rows.
    Prune,
    /// Lets the teacher write summaries, verifies them, and writes SFT rows.
    Teach,
    /// Writes both sets as files to publish or to train on.
    Export,
}

impl SynthStep {
    /// All steps, in the order in which they run.
    pub const ALL: [Self; 5] = [Self::Import, Self::Signal, Self::Prune, Self::Teach, Self::Export];

    /// Returns the name of the step, of its section in the configuration, and of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Import => "import",
            Self::Signal => "signal",
            Self::Prune => "prune",
            Self::Teach => "teach",
            Self::Export => "export",
        }
    }
}

/// Configuration of a data synthesis. The defaults are the published values wherever AlignXplore+ gives them. Paths are relative to
/// the current working directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SynthConfig {
    /// Name of the pipeline and of its folder. Default: synth.
    pub name: String,
    /// Folder that contains the pipeline. Default: runs.
    pub out: PathBuf,
    /// Seed of all random choices: splits, negatives, targets, item orders, sampling. Default: 42.
    pub seed: u64,
    /// Number of CPU threads; 0 uses all cores. Default: 0.
    pub threads: usize,
    /// Prompt set of the teacher and of the SFT rows: a built-in name or a folder. Empty (the default): plain. It also words the
    /// history that the judge reads (`signal.by = "judge"`) and the prompt of the policy (`prune.by = "policy"`); empty, these have
    /// the set that the model carries, if it carries one.
    pub prompts: String,
    /// The steps that `xplore synth run` runs. Default: all of them.
    pub steps: Vec<SynthStep>,
    /// The raw files and how they become histories.
    pub import: ImportConfig,
    /// How the signal of each choice is computed.
    pub signal: SignalConfig,
    /// The model that scores choices, for `signal.by = "scorer"`.
    pub scorer: ScorerConfig,
    /// The choices that become targets of RL.
    pub prune: PruneConfig,
    /// Generate, verify, merge, re-test.
    pub teach: TeachConfig,
    /// The model that writes summaries. Published: Qwen3-32B.
    pub teacher: TeacherConfig,
    /// The judge that verifies summaries; it also gives the signal with `signal.by = "judge"`, and the pass rates with
    /// `prune.by = "policy"`.
    pub verifier: JudgeConfig,
    /// The files to publish or to train on.
    pub export: ExportConfig,
}

impl Default for SynthConfig {
    fn default() -> Self {
        Self {
            name: "synth".into(),
            out: "runs".into(),
            seed: 42,
            threads: 0,
            prompts: String::new(),
            steps: SynthStep::ALL.to_vec(),
            import: ImportConfig::default(),
            signal: SignalConfig::default(),
            scorer: ScorerConfig::default(),
            prune: PruneConfig::default(),
            teach: TeachConfig::default(),
            teacher: TeacherConfig::default(),
            verifier: JudgeConfig::default(),
            export: ExportConfig::default(),
        }
    }
}

impl SynthConfig {
    /// Returns the folder of the pipeline.
    pub fn folder(&self) -> PathBuf {
        self.out.join(&self.name)
    }

    /// Returns the verifier as `teach.verify` asks it. For `answer`, the answer is sampled, and one that cannot be parsed is wrong, as
    /// published.
    pub fn teaching_verifier(&self) -> JudgeConfig {
        match self.teach.verify {
            VerifyBy::Probability => self.verifier.clone(),
            VerifyBy::Answer => JudgeConfig { mode: JudgeMode::Sampled, no_answer: 0.0, ..self.verifier.clone() },
        }
    }

    /// Checks the keys that `step` requires. Loading checks them for the steps in `steps` only.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for the first key that is not set.
    pub fn check_step(&self, step: SynthStep) -> Result<(), ConfigError> {
        Ok(self.requirements(step)?)
    }

    /// Returns all that the output of `step` depends on as TOML: the seed and the sections that the step reads. Keys that change
    /// only the speed or the costs are left out.
    ///
    /// # Errors
    /// [`ConfigError::Unwritable`] if an integer is above 2⁶³ − 1.
    pub fn step_text(&self, step: SynthStep) -> Result<String, ConfigError> {
        let read: &[&str] = match (step, self.signal.by, self.prune.by) {
            (SynthStep::Import, ..) => &["seed", "import"],
            (SynthStep::Signal, SignalBy::Scorer, _) => &["seed", "signal", "scorer"],
            (SynthStep::Signal, SignalBy::Judge, _) => &["seed", "prompts", "signal", "verifier"],
            (SynthStep::Prune, _, PruneBy::Signal) => &["prune"],
            (SynthStep::Prune, _, PruneBy::Policy) => &["seed", "prompts", "prune", "verifier"],
            (SynthStep::Teach, ..) => &["seed", "prompts", "teach", "teacher", "verifier"],
            (SynthStep::Export, ..) => &["seed", "name", "export"],
        };
        let all = Table::try_from(self.without_speed())?;
        let sections: Table = all.into_iter().filter(|(key, _)| read.contains(&key.as_str())).collect();
        Ok(toml::to_string(&sections)?)
    }

    /// Reads what [`step_text`](Self::step_text) wrote, without checks. Sections that the step does not read have their defaults.
    /// Returns `None` if another version of Xplore wrote it.
    pub fn of_step_text(text: &str) -> Option<Self> {
        toml::from_str(text).ok()
    }

    /// Returns the configuration with the defaults of all keys that do not change the output.
    fn without_speed(&self) -> Self {
        let mut plain = self.clone();
        let ModelSource { kv_cache_gib, max_num_seqs, max_num_batched_tokens, .. } = ModelSource::default();
        for model in [&mut plain.teacher.model, &mut plain.verifier.model, &mut plain.prune.policy.model] {
            model.kv_cache_gib = kv_cache_gib;
            model.max_num_seqs = max_num_seqs;
            model.max_num_batched_tokens = max_num_batched_tokens;
        }
        for endpoint in [&mut plain.teacher.endpoint, &mut plain.verifier.endpoint] {
            // The name of the model tells models apart, as in the journal; the address may change between two runs.
            *endpoint = EndpointConfig { model: endpoint.model.clone(), ..EndpointConfig::default() };
        }
        let SftTrain { micro_batch_tokens, activation_checkpointing_every, .. } = SftTrain::default();
        plain.scorer.train = SftTrain { micro_batch_tokens, activation_checkpointing_every, ..plain.scorer.train };
        plain.verifier.placement = JudgePlacement::default();
        plain.teacher.prices = JudgePrices::default();
        plain.teach.verifier_prices = JudgePrices::default();
        plain.teach.users_per_batch = TeachConfig::default().users_per_batch;
        plain
    }

    fn requirements(&self, step: SynthStep) -> CheckResult {
        let judged = match step {
            SynthStep::Import => {
                self.import.check_required().under("import")?;
                false
            }
            SynthStep::Signal => {
                if self.signal.by == SignalBy::Scorer {
                    self.scorer.check_required().under("scorer")?;
                }
                self.signal.by == SignalBy::Judge
            }
            SynthStep::Prune => {
                if self.prune.by == PruneBy::Policy {
                    self.prune.policy.model.check().under("prune.policy.model")?;
                }
                self.prune.by == PruneBy::Policy
            }
            SynthStep::Teach => {
                self.teacher.check_required().under("teacher")?;
                let answers = self.teach.verify == VerifyBy::Answer;
                let reasoned = answers && self.verifier.mode == JudgeMode::Reasoned;
                let expected = "\"sampled\" with teach.verify = \"answer\": the verifier writes an answer";
                ensure(!reasoned, "verifier.mode", "\"reasoned\"", expected)?;
                self.teaching_verifier().check_question().under("verifier")?;
                true
            }
            SynthStep::Export => false,
        };
        if judged { self.verifier.check().under("verifier") } else { Ok(()) }
    }

    fn verdict(&self) -> CheckResult {
        check_name(&self.name)?;
        given(!self.steps.is_empty(), "steps", "at least one of import, signal, prune, teach and export")?;
        let once = self.steps.iter().collect::<BTreeSet<_>>().len() == self.steps.len();
        ensure(once, "steps", format!("a list of {}", self.steps.len()), "each step once")?;
        self.import.check().under("import")?;
        self.signal.check().under("signal")?;
        self.scorer.check().under("scorer")?;
        self.prune.check().under("prune")?;
        self.teach.check().under("teach")?;
        self.teacher.check().under("teacher")?;
        self.verifier.check_question().under("verifier")?;
        self.export.check().under("export")?;
        self.steps.iter().try_for_each(|&step| self.requirements(step))
    }
}

impl RunConfig for SynthConfig {
    fn defect(&self) -> Option<Defect> {
        self.verdict().err()
    }
}
