//! The judges of a run.

use std::fs::File;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use chat::{Completer, RlRow};
use configs::judge::{JudgeConfig, JudgePlacement, RlJudge};
use configs::{ModelSource, RlConfig};
use lm::pretrained::{self, Located};
use rewards::{Composition, JudgeModel, Panel, PanelJudge, VerdictStore};
use sha2::{Digest, Sha256};
use trainer::grpo::curriculum_sampler::usable;

use crate::certify::hashes::model_files;
use crate::error::Error;
use crate::{parts, wording};

/// Models in this process that several judges share, and their identities.
#[derive(Default)]
pub(crate) struct Loaded {
    models: Vec<(ModelSource, JudgePlacement, Rc<dyn Completer>)>,
    identities: Vec<(ModelSource, String)>,
}

impl Loaded {
    /// Returns the model of a judge that is not at an endpoint, and loads it if no judge before had it.
    pub(crate) fn get(&mut self, judge: &JudgeConfig) -> Result<Rc<dyn Completer>, Error> {
        let (source, placement) = (&judge.model, judge.placement);
        if let Some((.., model)) = self.models.iter().find(|(s, p, _)| s == source && *p == placement) {
            return Ok(Rc::clone(model));
        }
        let model: Rc<dyn Completer> = Rc::from(parts::judge_model(judge)?);
        self.models.push((source.clone(), placement, Rc::clone(&model)));
        Ok(model)
    }

    fn identity(&mut self, source: &ModelSource) -> Result<String, Error> {
        if let Some((_, known)) = self.identities.iter().find(|(s, _)| s == source) {
            return Ok(known.clone());
        }
        let identity = identity(source)?;
        self.identities.push((source.clone(), identity.clone()));
        Ok(identity)
    }
}

/// Loads the judges of a run in this process, and connects to those at endpoints. Judges with the same model share its weights.
///
/// # Errors
/// Returns an error if a model or a prompt set cannot be loaded, the API key of an endpoint is missing, or the folder of
/// `judge_cache` cannot be used.
pub fn panel(config: &RlConfig) -> Result<Panel, Error> {
    let mut loaded = Loaded::default();
    let judges = config.panel_judges().into_iter();
    let judges = judges.map(|(_, judge)| with_models(&judge, config.seed, &config.judge_cache, &mut loaded));
    let judges = judges.collect::<Result<Vec<_>, _>>()?;
    Ok(Panel::new(judges, config.panel, config.panel_temperature)?)
}

/// Loads one judge. `seed` determines the item order if the judge sees only one order, and sampled answers. `cache` is the folder of
/// the verdicts on disk; empty for none.
///
/// # Errors
/// Same as [`panel`].
pub fn panel_judge(judge: &RlJudge, seed: u64, cache: &Path) -> Result<PanelJudge, Error> {
    with_models(judge, seed, cache, &mut Loaded::default())
}

fn with_models(judge: &RlJudge, seed: u64, cache: &Path, loaded: &mut Loaded) -> Result<PanelJudge, Error> {
    let config = &judge.judge;
    let prompts = wording::of_judge(config)?;
    let settings = parts::judge_settings(config, seed);
    let model = match config.endpoint.is_given() {
        true => JudgeModel::Remote(Arc::new(parts::remote_model(config)?)),
        false => JudgeModel::Local(Box::new(loaded.get(config)?)),
    };
    let stored = !cache.as_os_str().is_empty() && !config.endpoint.is_given();
    let store = if stored { Some(VerdictStore::open(cache, &loaded.identity(&config.model)?)?) } else { None };
    let base = PanelJudge::new(&judge.name, model, prompts, settings);
    Ok(PanelJudge { weight: judge.weight, tasks: judge.tasks.clone(), prices: judge.prices, store, ..base })
}

/// Returns the SHA-256 of all that the answers of a model in this process depend on besides the question: its files and those of its
/// adapter, dtype, kind of device, and this version of Xplore. It is the same on all ranks, which share the verdicts.
fn identity(model: &ModelSource) -> Result<String, Error> {
    let Located { folder, adapter } = pretrained::locate(&model.path)?;
    let device = if trainer::start::device(model.device)?.is_cuda() { "cuda" } else { "cpu" };
    let mut whole = Sha256::new();
    whole.update(format!("{} {:?} {device}\n", env!("CARGO_PKG_VERSION"), model.dtype));
    for folder in std::iter::once(&folder).chain(&adapter) {
        let unreadable = |e: io::Error| Error::data(format!("{}: {e}", folder.display()));
        for path in model_files(folder).map_err(unreadable)? {
            let mut hash = Sha256::new();
            io::copy(&mut File::open(&path).map_err(unreadable)?, &mut hash).map_err(unreadable)?;
            whole.update(path.file_name().unwrap_or_default().as_encoded_bytes());
            whole.update(hash.finalize());
        }
        whole.update("\n");
    }
    Ok(whole.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Checks that every choice of the rows that the panel is asked about has a judge that serves its task: the targets of the stages,
/// and further targets and choices in other domains where the reward uses them.
///
/// # Errors
/// Returns an error that names the user and the task.
pub fn check_tasks(config: &RlConfig, composition: &Composition, rows: &[RlRow]) -> Result<(), Error> {
    let judges = config.panel_judges();
    let serves = |task: Option<&str>| judges.iter().any(|(_, judge)| judge.serves(task));
    let (several, transfers) = (
        config.reward.targets_per_stage > 1,
        config.reward.transfer_per_stage > 0 && composition.asks_panel_about_transfer(),
    );
    for user in usable(rows, config) {
        let further = user.row.targets.iter().filter(|_| several);
        let transfer = user.row.transfer.iter().filter(|target| transfers && target.rejected.is_some());
        let mut targets = user.stages.iter().map(|stage| stage.target).chain(further).chain(transfer);
        if let Some(target) = targets.find(|target| !serves(target.task.as_deref())) {
            let task = target.task.as_ref().map_or("no task".into(), |task| format!("the task `{task}`"));
            return Err(Error::data(format!(
                "user {}: a target has {task}, which no judge of the panel serves; add it to `tasks` of a judge, or leave \
                 `tasks` of one empty",
                user.row.uid
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use chat::Interaction;
    use rewards::Registry;

    use super::*;

    #[test]
    fn only_choices_that_the_panel_is_asked_about_need_a_judge() {
        let item = |task: &str| Interaction {
            chosen: "a".into(),
            rejected: Some("b".into()),
            task: Some(task.into()),
            ..Interaction::default()
        };
        let row = RlRow {
            uid: "u".into(),
            history: vec![item("shop"); 4],
            mid_position: 1,
            distance_to_end: 2,
            targets: vec![item("news")],
            transfer: vec![item("books")],
            ..RlRow::default()
        };
        let text = "[model]\npath='p'\n[data]\ntrain='r'\n\
                    [[judges]]\nname='near'\ntasks=['shop']\njudge.model.path='j'\n";
        let checked = |set: &[&str]| {
            let set: Vec<String> = set.iter().map(ToString::to_string).collect();
            let config: RlConfig = configs::parse("my.toml", text, &set).unwrap();
            let composition = parts::composition(&config.reward, &Registry::default()).unwrap();
            check_tasks(&config, &composition, std::slice::from_ref(&row)).map_err(|e| e.to_string())
        };
        assert_eq!(checked(&[]), Ok(()));
        assert!(checked(&["reward.targets_per_stage=2"]).unwrap_err().contains("the task `news`"));
        let cross = "reward.terms=[{name='cross_task'}]";
        assert!(checked(&[cross]).unwrap_err().contains("the task `books`"));
        assert_eq!(checked(&[cross, "reward.transfer_per_stage=0"]), Ok(()));
        assert_eq!(checked(&["reward.terms=[{name='cross_task', params={judge='near'}}]"]), Ok(()));
    }
}
