//! The model paths of a configuration that name runs, such as `runs/sft` or `runs/sft@best`.
//!
//! A run resolves them once, at its start, and records the result in [`FILE`]. A resumed run keeps these checkpoints, even if the
//! named runs have newer ones by then.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use configs::validation::ValidationConfig;
use configs::{EvalConfig, RlConfig, SftConfig};
use distributed::World;
use hub::HubError;
use hub::run_folder::resolve;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::parts;
use crate::reporter::Reporter;

/// Name of the file in a run's folder that records the resolved model paths.
pub const FILE: &str = "models.json";

/// A key of a configuration that names a model.
#[derive(Debug)]
pub struct ModelPath<'a> {
    key: String,
    value: PathValue<'a>,
}

#[derive(Debug)]
enum PathValue<'a> {
    Text(&'a mut String),
    Folder(&'a mut PathBuf),
}

impl ModelPath<'_> {
    fn get(&self) -> String {
        match &self.value {
            PathValue::Text(text) => text.to_string(),
            PathValue::Folder(folder) => folder.display().to_string(),
        }
    }

    fn set(&mut self, path: &str) {
        match &mut self.value {
            PathValue::Text(text) => **text = path.into(),
            PathValue::Folder(folder) => **folder = path.into(),
        }
    }
}

fn text(key: impl Into<String>, path: &mut String) -> ModelPath<'_> {
    ModelPath { key: key.into(), value: PathValue::Text(path) }
}

/// Returns the model paths of a fine-tuning run that are set.
pub fn of_sft(config: &mut SftConfig) -> Vec<ModelPath<'_>> {
    let mut paths: Vec<ModelPath<'_>> =
        config.model.path.as_mut().map(|path| text("model.path", path)).into_iter().collect();
    paths.extend(config.lora.as_mut().map(|lora| of_adapter(&mut lora.start)));
    paths.extend(of_validation(&mut config.validation));
    given(paths)
}

/// Returns the model paths of a GRPO run that are set.
pub fn of_rl(config: &mut RlConfig) -> Vec<ModelPath<'_>> {
    let needs_reference = config.algorithm.needs_reference();
    let mut paths =
        vec![text("model.path", &mut config.model.path), text("judge.model.path", &mut config.judge.model.path)];
    let judges = config.judges.iter_mut().enumerate();
    paths.extend(judges.map(|(i, j)| text(format!("judges[{i}].judge.model.path"), &mut j.judge.model.path)));
    if needs_reference {
        paths.push(text("algorithm.kl.reference", &mut config.algorithm.kl.reference));
    }
    paths.extend(config.lora.as_mut().map(|lora| of_adapter(&mut lora.start)));
    paths.extend(of_validation(&mut config.validation));
    given(paths)
}

/// Returns the model paths of an evaluation that are set.
pub fn of_eval(config: &mut EvalConfig) -> Vec<ModelPath<'_>> {
    let models = config.models.iter_mut().enumerate();
    let models = models.map(|(i, model)| text(format!("models[{i}].model.path"), &mut model.model.path));
    let judges = config.judges.iter_mut().enumerate();
    let judges = judges.map(|(i, judge)| text(format!("judges[{i}].judge.model.path"), &mut judge.judge.model.path));
    given(models.chain(judges).collect())
}

fn of_adapter(start: &mut PathBuf) -> ModelPath<'_> {
    ModelPath { key: "lora.start".into(), value: PathValue::Folder(start) }
}

fn of_validation(config: &mut ValidationConfig) -> Option<ModelPath<'_>> {
    let judge = &mut config.summaries.as_mut()?.judge;
    Some(text("validation.summaries.judge.model.path", &mut judge.model.path))
}

fn given(mut paths: Vec<ModelPath<'_>>) -> Vec<ModelPath<'_>> {
    paths.retain(|path| !path.get().is_empty());
    paths
}

/// A model path that names a run, and the checkpoint that it selects now.
#[derive(Debug)]
pub struct Resolution {
    /// The key of the configuration.
    pub key: String,
    /// The path, as given.
    pub path: String,
    /// The folder of the checkpoint, or why there is none.
    pub found: Result<PathBuf, HubError>,
}

/// Resolves those of `paths` that name runs, for display.
pub fn resolutions(paths: &[ModelPath<'_>]) -> Vec<Resolution> {
    let one = |model: &ModelPath<'_>| {
        let path = model.get();
        let found = resolve(&path).transpose()?;
        Some(Resolution { key: model.key.clone(), path, found })
    };
    paths.iter().filter_map(one).collect()
}

/// A model path that named a run when the run that uses it began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedModel {
    /// The path of the configuration.
    pub path: String,
    /// The folder of the checkpoint that it selected.
    pub resolved: String,
}

/// The pinned models of a run, by the key of the configuration.
pub type PinnedModels = BTreeMap<String, PinnedModel>;

/// Replaces those of `paths` that name runs by the folders of their checkpoints, and returns what was replaced. With `resume`, the
/// paths that `folder` records keep their checkpoints. Rank 0 resolves them. All ranks of `world` must call this.
///
/// # Errors
/// Returns an error if a run does not have the checkpoint, a recorded checkpoint no longer exists, the record cannot be read, or a
/// rank is lost.
pub fn pin(
    mut paths: Vec<ModelPath<'_>>,
    world: &World,
    folder: &Path,
    resume: bool,
    reporter: &dyn Reporter,
) -> Result<PinnedModels, Error> {
    let mut pinned = PinnedModels::new();
    if world.is_rank_zero() {
        let recorded = if resume { recorded(folder)? } else { PinnedModels::new() };
        for model in &paths {
            let found = pin_one(model, recorded.get(&model.key), folder, reporter)?;
            pinned.extend(found.map(|found| (model.key.clone(), found)));
        }
    }
    let own = serde_json::to_vec(&pinned).expect("a map of strings always serializes");
    let shared = world.world_group().broadcast("share the resolved model paths", &own)?;
    let pinned: PinnedModels = serde_json::from_slice(&shared)
        .map_err(|e| Error::environment(format!("rank 0 sent resolved model paths that cannot be read: {e}")))?;
    for model in &mut paths {
        if let Some(found) = pinned.get(&model.key) {
            model.set(&found.resolved);
        }
    }
    Ok(pinned)
}

fn pin_one(
    model: &ModelPath<'_>,
    recorded: Option<&PinnedModel>,
    folder: &Path,
    reporter: &dyn Reporter,
) -> Result<Option<PinnedModel>, Error> {
    let (key, path) = (&model.key, model.get());
    // A run can be resumed with its original configuration or with the one that it wrote.
    let Some(before) = recorded.filter(|before| path == before.path || path == before.resolved) else {
        let found = resolve(&path)?.map(|found| PinnedModel { path, resolved: found.display().to_string() });
        if let Some(found) = &found {
            reporter.info(&format!("{key} = {}: {}", found.path, found.resolved));
        }
        return Ok(found);
    };
    if !Path::new(&before.resolved).is_dir() {
        return Err(Error::data(format!(
            "{}: this run began with {key} = {}, which no longer exists; restore that folder, or set {key} to a copy \
             of it",
            folder.join(FILE).display(),
            before.resolved
        )));
    }
    reporter.info(&format!("{key} = {}: {}, as at the start of this run", before.path, before.resolved));
    Ok(Some(before.clone()))
}

/// Returns what a run recorded, or nothing if it recorded nothing.
fn recorded(folder: &Path) -> Result<PinnedModels, Error> {
    let path = folder.join(FILE);
    if !path.exists() {
        return Ok(PinnedModels::new());
    }
    let at = |e: String| Error::data(format!("{}: {e}; restore the file that the run wrote", path.display()));
    let text = std::fs::read_to_string(&path).map_err(|e| at(e.to_string()))?;
    serde_json::from_str(&text).map_err(|e| at(e.to_string()))
}

/// Writes the pinned models of a run into its folder.
///
/// # Errors
/// Returns an error if the file cannot be written.
pub fn record(folder: &Path, pinned: &PinnedModels) -> Result<(), Error> {
    let path = folder.join(FILE);
    if pinned.is_empty() && !path.exists() {
        return Ok(());
    }
    let text = serde_json::to_string_pretty(pinned).expect("a map of strings always serializes");
    parts::write(&path, &(text + "\n"))
}

#[cfg(test)]
mod tests {
    use configs::{EvalJudge, EvalModel, LoraConfig, RlJudge, SummaryValidation};

    use super::*;
    use crate::Silent;

    /// Adds a checkpoint to the run `name`, and returns its folder.
    fn checkpoint(place: &Path, name: &str, step: u64) -> String {
        let folder = place.join(format!("{name}/checkpoints/step-{step:06}"));
        std::fs::create_dir_all(&folder).unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::write(folder.join(file), "").unwrap();
        }
        folder.display().to_string()
    }

    fn rl(model: &str) -> RlConfig {
        let mut config = RlConfig::default();
        config.model.path = model.into();
        config.judge.model.path = "Qwen/Qwen3-8B".into();
        config
    }

    /// Returns the pinned `model.path`, and writes the record.
    fn pinned(config: &mut RlConfig, folder: &Path, resume: bool) -> Result<String, Error> {
        let models = pin(of_rl(config), &World::single(), folder, resume, &Silent)?;
        record(folder, &models)?;
        Ok(config.model.path.clone())
    }

    #[test]
    fn a_resumed_run_keeps_its_checkpoint() {
        let place = tempfile::tempdir().unwrap();
        let (sft, run) = (place.path().join("sft").display().to_string(), place.path().join("rl"));
        std::fs::create_dir(&run).unwrap();
        let first = checkpoint(place.path(), "sft", 10);
        assert_eq!(pinned(&mut rl(&sft), &run, false).unwrap(), first);
        let newer = checkpoint(place.path(), "sft", 20);
        assert_eq!(pinned(&mut rl(&sft), &run, true).unwrap(), first);
        // The configuration that the run wrote has the resolved path; the record outlives it.
        assert_eq!(pinned(&mut rl(&first), &run, true).unwrap(), first);
        assert_eq!(pinned(&mut rl(&sft), &run, true).unwrap(), first);
        // Another path is a change that the user asked for.
        let asked = format!("{sft}@20");
        assert_eq!(pinned(&mut rl(&asked), &run, true).unwrap(), newer);
        assert_eq!(pinned(&mut rl(&asked), &run, true).unwrap(), newer);
        std::fs::remove_dir_all(&newer).unwrap();
        let refused = pinned(&mut rl(&asked), &run, true).unwrap_err().to_string();
        assert!(refused.contains("models.json") && refused.contains("model.path") && refused.contains("step-000020"));
        // A new run resolves anew.
        assert_eq!(pinned(&mut rl(&sft), &run, false).unwrap(), first);
        let refused = pinned(&mut rl(&asked), &run, false).unwrap_err();
        assert_eq!(refused.kind, crate::ErrorKind::Data);
        assert!(refused.to_string().contains("no checkpoint of step 20"), "{refused}");
    }

    #[test]
    fn models_that_name_no_run_leave_no_record() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(pinned(&mut rl("Qwen/Qwen3-8B@main"), place.path(), false).unwrap(), "Qwen/Qwen3-8B@main");
        assert!(!place.path().join(FILE).exists());
    }

    #[test]
    fn every_key_of_a_model_is_resolved() {
        let place = tempfile::tempdir().unwrap();
        let folder = checkpoint(place.path(), "sft", 10);
        let run = place.path().join("sft").display().to_string();
        let keys = |paths: &[ModelPath<'_>]| -> Vec<String> {
            let found = resolutions(paths);
            assert!(found.iter().all(|one| one.path == run && *one.found.as_ref().unwrap() == Path::new(&folder)));
            found.into_iter().map(|one| one.key).collect()
        };
        let lora = LoraConfig { start: run.clone().into(), ..LoraConfig::default() };
        let mut summaries = SummaryValidation::default();
        summaries.judge.model.path.clone_from(&run);
        let validation = ValidationConfig { summaries: Some(summaries), ..ValidationConfig::default() };

        let mut config = rl(&run);
        (config.judge.model.path, config.algorithm.kl.reference) = (run.clone(), run.clone());
        (config.lora, config.validation) = (Some(lora.clone()), validation.clone());
        let judged = "validation.summaries.judge.model.path";
        assert_eq!(keys(&of_rl(&mut config)), ["model.path", "judge.model.path", "lora.start", judged]);
        config.judges = vec![RlJudge::default(), RlJudge::default()];
        config.judges[1].judge.model.path.clone_from(&run);
        assert!(keys(&of_rl(&mut config)).contains(&"judges[1].judge.model.path".to_owned()));
        config.algorithm.kl.coefficient = 0.1;
        assert!(keys(&of_rl(&mut config)).contains(&"algorithm.kl.reference".to_owned()));
        pin(of_rl(&mut config), &World::single(), place.path(), false, &Silent).unwrap();
        assert_eq!(config.lora.unwrap().start, Path::new(&folder));
        assert_eq!((&config.judge.model.path, &config.algorithm.kl.reference), (&folder, &folder));

        let mut config = SftConfig { lora: Some(lora), validation, ..SftConfig::default() };
        config.model.path = Some(run.clone());
        assert_eq!(keys(&of_sft(&mut config)), ["model.path", "lora.start", judged]);

        let models = vec![EvalModel::default(), EvalModel::default()];
        let mut config = EvalConfig { models, judges: vec![EvalJudge::default()], ..EvalConfig::default() };
        config.models[1].model.path.clone_from(&run);
        config.judges[0].judge.model.path.clone_from(&run);
        assert_eq!(keys(&of_eval(&mut config)), ["models[1].model.path", "judges[0].judge.model.path"]);
    }
}
