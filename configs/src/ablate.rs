//! Ablations: variants of one RL run that are trained for equal steps with the same seeds, evaluated and compared.

mod eval;
mod expand;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::Table;

pub use self::eval::AblateEval;
pub use self::expand::Variant;
use crate::check::{CheckResult, Defect, at_least, ensure, given};
use crate::error::{ConfigError, Origin};
use crate::eval::{EvalConfig, Setting};
use crate::load::load;
use crate::rl::{AlarmAction, RlConfig};
use crate::run::{RunConfig, check_name};
use crate::source::ParsedFile;

/// The name under which the model before the training is evaluated.
pub const START: &str = "start";

/// Stands for the seed of a run in `base`, in `eval`, and in the values that a variant sets.
const SEED: &str = "{seed}";

/// The combinations of factor levels that are run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Design {
    /// Every combination of levels (a full factorial design).
    #[default]
    Grid,
    /// The first level of all factors, named `baseline`, and each other level of each factor alone.
    OneAtATime,
}

/// Configuration of an ablation. Paths are relative to the current working directory. In `base`, in `eval` and in the values that a
/// variant sets, `{seed}` stands for the seed of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AblateConfig {
    /// Name of the ablation and of its folder. Default: ablation.
    pub name: String,
    /// Folder that contains the ablation. Default: runs.
    pub out: PathBuf,
    /// Configuration of `xplore rl` that the variants change. Required.
    pub base: PathBuf,
    /// Number of steps of every run. Required.
    pub steps: usize,
    /// Seeds of the runs: each variant is trained once with each. Default: [0, 1, 2].
    pub seeds: Vec<u64>,
    /// The combinations of `factors` that are run: grid or one_at_a_time. Default: grid.
    pub design: Design,
    /// Name of the variant that the others are compared with. Empty (the default): the first one.
    pub baseline: String,
    /// Whether to evaluate the model of `base` before the training too, as `start`. The test for reward hacking needs it. Default:
    /// true.
    pub start: bool,
    /// Names of the judges of the evaluation that give the reward in training. The others are held out. Default: ["training"].
    pub training_judges: Vec<String>,
    /// Keys of the base and their levels, such as `"reward.carry_discount" = [0.9, 0.0]`; the first level is the usual one. Set
    /// either this or `variants`.
    pub factors: Table,
    /// Named variants. Set either this or `factors`.
    pub variants: Vec<VariantConfig>,
    /// The evaluation of every run: the path of a configuration of `xplore eval`, or its keys. Its `models`, `name`, `out` and `seed`
    /// are those of the run. Required.
    pub eval: AblateEval,
}

impl Default for AblateConfig {
    fn default() -> Self {
        Self {
            name: "ablation".into(),
            out: "runs".into(),
            base: PathBuf::new(),
            steps: 0,
            seeds: vec![0, 1, 2],
            design: Design::default(),
            baseline: String::new(),
            start: true,
            training_judges: vec!["training".into()],
            factors: Table::new(),
            variants: Vec::new(),
            eval: AblateEval::default(),
        }
    }
}

/// A named variant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VariantConfig {
    /// Name of the variant in the report. Empty (the default): the overrides, or `base` if there is none.
    pub name: String,
    /// Overrides of the base, each `key=value`. Default: none.
    pub set: Vec<String>,
}

impl AblateConfig {
    /// Returns the folder of the ablation.
    pub fn folder(&self) -> PathBuf {
        self.out.join(&self.name)
    }

    /// Returns the variants in the order of the report.
    ///
    /// # Errors
    /// [`Defect`] if the factors or variants are not valid, which a loaded config excludes.
    pub fn expanded(&self) -> Result<Vec<Variant>, Defect> {
        expand::variants(self)
    }

    /// Returns the index of the variant that the others are compared with.
    ///
    /// # Errors
    /// Same as [`Self::expanded`].
    pub fn baseline_index(&self) -> Result<usize, Defect> {
        let variants = self.expanded()?;
        let found = variants.iter().position(|variant| self.baseline.is_empty() || variant.name == self.baseline);
        found.ok_or_else(|| {
            let names: Vec<String> = variants.iter().map(|variant| format!("\"{}\"", variant.name)).collect();
            Defect::new("baseline", format!("is \"{}\"; expected one of {}", self.baseline, names.join(", ")))
        })
    }

    /// Returns the configuration of the base with `seed`, without the changes of a variant.
    ///
    /// # Errors
    /// [`ConfigError`] if the base is not valid.
    pub fn base_config(&self, seed: u64) -> Result<RlConfig, ConfigError> {
        load(&self.base_path(seed), &self.fixed(seed))
    }

    /// Returns the configuration of the run of a variant with `seed`, in `folder`. `file` is the file of this config, which an error
    /// names.
    ///
    /// # Errors
    /// [`ConfigError`] with the line of the variant and the invalid key.
    pub fn run_config(
        &self,
        file: &Path,
        variant: &Variant,
        seed: u64,
        folder: (&Path, &str),
    ) -> Result<RlConfig, ConfigError> {
        self.base_config(seed)?;
        let (out, name) = folder;
        let mut set: Vec<String> = variant.set.iter().map(|text| with_seed(text, seed)).collect();
        set.extend(self.fixed(seed));
        let run = load::<RlConfig>(&self.base_path(seed), &set).and_then(|run| {
            let run = RlConfig { out: out.into(), name: name.into(), ..run };
            ensure(run.checkpoint.at_end, "checkpoint.at_end", false, "true: the last step is evaluated")?;
            let action = run.alarm.as_ref().map_or(AlarmAction::Warn, |alarm| alarm.action);
            let (found, expected) = (toml::Value::try_from(action)?, "\"warn\": all variants train for equal steps");
            ensure(action == AlarmAction::Warn, "alarm.action", found, expected)?;
            Ok(run)
        });
        run.map_err(|error| ConfigError::Value {
            origin: origin(file, &variant.key),
            key: variant.key.clone(),
            problem: format!("gives the variant `{}`, whose run is not valid: {error}", variant.name),
            example: None,
        })
    }

    /// Returns the configuration of the evaluation of a run with `seed`; its `models` are to be filled in.
    ///
    /// # Errors
    /// [`ConfigError`] if the evaluation is not valid, evaluates no model, lacks a judge of `training_judges`, or has no other judge.
    pub fn eval_config(&self, file: &Path, seed: u64) -> Result<EvalConfig, ConfigError> {
        let eval = self.eval.load(file, seed)?;
        let wrong = |key: &str, problem: String| {
            Err(ConfigError::Value { origin: origin(file, key), key: key.into(), problem, example: None })
        };
        if eval.settings == [Setting::Direct] {
            let problem = "is [\"direct\"], in which no model is evaluated; add \"full\" or \"streaming\"";
            return wrong("eval.settings", problem.into());
        }
        let names: Vec<&String> = eval.judges.iter().map(|judge| &judge.name).collect();
        if let Some(other) = self.training_judges.iter().find(|name| !names.contains(name)) {
            let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
            let problem = format!("names \"{other}\"; expected judges of the evaluation: {}", names.join(", "));
            return wrong("training_judges", problem);
        }
        if names.iter().all(|name| self.training_judges.contains(name)) {
            let problem = "names every judge of the evaluation; expected at least one held-out judge besides";
            return wrong("training_judges", problem.into());
        }
        Ok(EvalConfig { seed, ..eval })
    }

    fn base_path(&self, seed: u64) -> PathBuf {
        with_seed(&self.base.to_string_lossy(), seed).into()
    }

    /// Returns the overrides that are the same for all variants.
    fn fixed(&self, seed: u64) -> Vec<String> {
        vec![format!("seed={seed}"), format!("train.steps={}", self.steps)]
    }

    fn verdict(&self) -> CheckResult {
        check_name(&self.name)?;
        given(!self.base.as_os_str().is_empty(), "base", "the path of a configuration of `xplore rl`")?;
        at_least("steps", self.steps, 1)?;
        let distinct: HashSet<&u64> = self.seeds.iter().collect();
        let seeds = format!("{:?}", self.seeds);
        let valid = !self.seeds.is_empty() && distinct.len() == self.seeds.len();
        ensure(valid, "seeds", seeds, "one or more seeds without duplicates")?;
        // TOML has no larger integers.
        let largest = self.seeds.iter().max().copied().unwrap_or(0);
        ensure(i64::try_from(largest).is_ok(), "seeds", largest, "seeds below 2^63")?;
        self.expanded()?;
        self.baseline_index()?;
        let judges: HashSet<&String> = self.training_judges.iter().collect();
        let found = format!("{:?}", self.training_judges);
        ensure(judges.len() == self.training_judges.len(), "training_judges", found, "names without duplicates")?;
        self.eval.check()
    }
}

impl RunConfig for AblateConfig {
    fn defect(&self) -> Option<Defect> {
        self.verdict().err()
    }
}

/// Replaces `{seed}`.
fn with_seed(text: &str, seed: u64) -> String {
    text.replace(SEED, &seed.to_string())
}

/// Returns the location of `key`, or of the list or table that contains it, in the file of an ablation.
fn origin(file: &Path, key: &str) -> Origin {
    let parsed = std::fs::read_to_string(file).ok().and_then(|text| ParsedFile::parse(file, &text).ok());
    let Some(parsed) = parsed else { return Origin::File { path: file.into(), line: None } };
    let mut at = key;
    while !parsed.lines.contains_key(at) {
        let Some(end) = at.rfind(['.', '[']) else { break };
        at = &at[..end];
    }
    parsed.origin(at)
}
