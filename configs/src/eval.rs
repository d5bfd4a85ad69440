//! Evaluation: how well other models predict a person's choices from the summaries.

use std::collections::HashSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::check::{Defect, Under, Verdict, ensure, given};
use crate::judge::JudgeConfig;
use crate::model::ModelSource;
use crate::run::{RunConfig, check_name};
use crate::sampling::SamplingConfig;

/// What stands in the place of the person's preferences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Setting {
    /// The raw history, no summary.
    Direct,
    /// A summary of the whole history, read at once.
    Full,
    /// A summary of the later part of the history, built on a summary of the earlier part.
    Streaming,
}

/// An evaluation: every model's summaries, in every setting, judged by every judge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// The run's name and the name of its folder. Default: eval.
    pub name: String,
    /// The folder that holds runs. Default: runs.
    pub out: PathBuf,
    /// Seed of sampling and item orders. Default: 42.
    pub seed: u64,
    /// CPU threads; 0 takes all cores. Default: 0.
    pub threads: usize,
    /// Prompt set of the summarising models, built in or a folder. Default: plain.
    pub prompts: String,
    /// JSON lines of the people, with their histories and held-out targets. Required.
    pub people: PathBuf,
    /// Evaluate only the first so many people; 0 takes all. Default: 0.
    pub max_people: usize,
    /// The settings. Default: all three.
    pub settings: Vec<Setting>,
    /// How summaries are drawn. Defaults: temperature 0.6, top_k 20, top_p 0.95.
    pub sampling: SamplingConfig,
    /// The models that summarise. Required.
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
            prompts: crate::prompts::DEFAULT.into(),
            people: PathBuf::new(),
            max_people: 0,
            settings: vec![Setting::Direct, Setting::Full, Setting::Streaming],
            sampling: SamplingConfig::default(),
            models: Vec::new(),
            judges: Vec::new(),
        }
    }
}

impl EvalConfig {
    /// The run's folder.
    pub fn folder(&self) -> PathBuf {
        self.out.join(&self.name)
    }

    fn verdict(&self) -> Verdict {
        check_name(&self.name)?;
        given(!self.prompts.is_empty(), "prompts", crate::prompts::EXPECTED)?;
        given(!self.people.as_os_str().is_empty(), "people", "the path of a JSONL file of people")?;
        check_settings(&self.settings)?;
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

/// At least one setting, none twice.
pub(crate) fn check_settings(settings: &[Setting]) -> Verdict {
    let distinct: HashSet<_> = settings.iter().collect();
    if settings.is_empty() || distinct.len() < settings.len() {
        let problem = "names no setting, or one twice; expected some of \"direct\", \"full\", \"streaming\"";
        return Err(Defect::new("settings", problem));
    }
    Ok(())
}

/// At least one entry, each with a name of its own.
fn check_names<'a>(list: &str, names: impl Iterator<Item = &'a String>) -> Verdict {
    let mut seen = HashSet::new();
    for (index, name) in names.enumerate() {
        let key = format!("{list}[{index}].name");
        given(!name.is_empty(), &key, "a name for the tables")?;
        ensure(seen.insert(name), &key, format!("\"{name}\" for the second time"), "a name of its own")?;
    }
    given(!seen.is_empty(), list, &format!("at least one [[{list}]] entry"))
}

/// A model that summarises.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalModel {
    /// Its name in tables, such as sft or rl. Required.
    pub name: String,
    /// The model.
    pub model: ModelSource,
}

/// A judge of the evaluation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalJudge {
    /// Its name in tables, such as training or second. Required.
    pub name: String,
    /// The judge and how it is asked.
    pub judge: JudgeConfig,
}
