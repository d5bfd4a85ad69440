//! Evaluation: how well other models predict a user's choices from the summaries.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::check::{CheckResult, Defect, Under, ensure, given};
use crate::judge::JudgeConfig;
use crate::model::ModelSource;
use crate::run::{RunConfig, check_name};
use crate::sampling::SamplingConfig;

/// The input that describes the user's preferences to the judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Setting {
    /// The raw history, without a summary.
    Direct,
    /// A summary of the whole history, read in one prompt.
    Full,
    /// A summary of the later part of the history, conditioned on a summary of the earlier part.
    Streaming,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Setting::Direct => "direct",
            Setting::Full => "full",
            Setting::Streaming => "streaming",
        })
    }
}

/// Configuration of an evaluation: every judge scores every model's summaries in every setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Name of the run and of its folder. Default: eval.
    pub name: String,
    /// Folder that contains the runs. Default: runs.
    pub out: PathBuf,
    /// Seed of sampling and item orders. Default: 42.
    pub seed: u64,
    /// Number of CPU threads; 0 uses all cores. Default: 0.
    pub threads: usize,
    /// Prompt set of the summarizing models: a built-in name or a folder. Empty (the default): for each model the set that it
    /// carries, or plain if it carries none. The raw history of `direct` then has the wording of the first model's set.
    pub prompts: String,
    /// JSON Lines file of the users, with their histories and held-out targets. Required.
    pub users: PathBuf,
    /// Maximum number of users to evaluate, from the start of the file; 0 evaluates all. Default: 0.
    pub max_users: usize,
    /// The settings to evaluate. Default: all three.
    pub settings: Vec<Setting>,
    /// Whether to evaluate the reference contenders too: no summary (in `direct`, the raw history) and, if the users' true preferences
    /// are known, those of another user and their own. Default: true.
    pub references: bool,
    /// Sampling of the summaries. Defaults: temperature 0.6, top_k 20, top_p 0.95.
    pub sampling: SamplingConfig,
    /// The models that write summaries. Required.
    pub models: Vec<EvalModel>,
    /// The judges. Required.
    pub judges: Vec<EvalJudge>,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self {
            name: "eval".into(),
            out: "runs".into(),
            seed: 42,
            threads: 0,
            prompts: String::new(),
            users: PathBuf::new(),
            max_users: 0,
            settings: vec![Setting::Direct, Setting::Full, Setting::Streaming],
            references: true,
            sampling: SamplingConfig::default(),
            models: Vec::new(),
            judges: Vec::new(),
        }
    }
}

impl EvalConfig {
    /// Returns the folder of the run.
    pub fn folder(&self) -> PathBuf {
        self.out.join(&self.name)
    }

    fn verdict(&self) -> CheckResult {
        check_name(&self.name)?;
        given(!self.users.as_os_str().is_empty(), "users", "the path of a JSONL file of users")?;
        check_settings(&self.settings)?;
        let read = self.references || self.settings.iter().any(|setting| *setting != Setting::Direct);
        ensure(read, "references", false, "true with the setting \"direct\" alone, which has no other contender")?;
        self.sampling.check().under("sampling")?;
        check_names("models", self.models.iter().map(|model| &model.name))?;
        for (index, model) in self.models.iter().enumerate() {
            model.model.check().under(format!("models[{index}].model"))?;
        }
        check_names("judges", self.judges.iter().map(|judge| &judge.name))?;
        for (index, judge) in self.judges.iter().enumerate() {
            judge.judge.check().under(format!("judges[{index}].judge"))?;
        }
        Ok(())
    }
}

impl RunConfig for EvalConfig {
    fn defect(&self) -> Option<Defect> {
        self.verdict().err()
    }
}

/// Checks that there is at least one setting and no duplicate.
pub(crate) fn check_settings(settings: &[Setting]) -> CheckResult {
    let distinct: HashSet<_> = settings.iter().collect();
    if settings.is_empty() || distinct.len() < settings.len() {
        let problem = "is empty or has duplicates; expected one or more of \"direct\", \"full\", \"streaming\"";
        return Err(Defect::new("settings", problem));
    }
    Ok(())
}

/// Checks that there is at least one entry and that the names are unique.
fn check_names<'a>(list: &str, names: impl Iterator<Item = &'a String>) -> CheckResult {
    let mut seen = HashSet::new();
    for (index, name) in names.enumerate() {
        let key = format!("{list}[{index}].name");
        given(!name.is_empty(), &key, "a name for the result tables")?;
        ensure(seen.insert(name), &key, format!("\"{name}\", which is already used"), "a unique name")?;
    }
    given(!seen.is_empty(), list, &format!("at least one [[{list}]] entry"))
}

/// A model that writes summaries.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalModel {
    /// Name of the model in tables, such as sft or rl. Required.
    pub name: String,
    /// The model to load.
    pub model: ModelSource,
}

/// A judge of the evaluation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalJudge {
    /// Name of the judge in tables, such as training or second. Required.
    pub name: String,
    /// The judge's model and its settings.
    pub judge: JudgeConfig,
}
