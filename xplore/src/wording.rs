//! The prompt sets of a run: which set each model is prompted with, and whether the model was trained on that wording.
//!
//! A `prompts` key that is not set stands for the set that the model carries in its folder, or the built-in default if it carries
//! none. A model carries the set that it was trained on, so a key is needed only to prompt it with other words.

use std::path::Path;

use chat::PromptSet;
use chat::prompt_manifest::{PromptManifest, PromptTask};
use configs::validation::SummaryValidation;
use configs::{EvalConfig, JudgeConfig, RlConfig, SftConfig};
use distributed::World;
use lm::{ModelPrompts, pretrained};
use report::{PromptSetId, PromptUse};

use crate::error::Error;
use crate::parts;
use crate::reporter::Reporter;

/// File in the run's folder that records the prompt sets.
pub(crate) const FILE: &str = "prompts.json";

/// Returns the prompt set for `task` of the model `model` (a folder or hub id): the set named `set`, or, if `set` is empty, the set
/// that the model carries if it has a template for the task, or else the built-in default.
///
/// ```
/// use chat::prompt_manifest::PromptTask;
/// use xplore::wording;
///
/// # let folder = fixtures::policy::model_and_rows();
/// # let model = folder.path().join("model").display().to_string();
/// // A model that carries no set.
/// assert_eq!(wording::of_model("", &model, PromptTask::Summarize)?.name(), "plain");
/// assert_eq!(wording::of_model("compact", &model, PromptTask::Summarize)?.name(), "compact");
/// # Ok::<(), xplore::Error>(())
/// ```
///
/// # Errors
/// Returns an error if the model or the set does not exist, or a template is not valid.
pub fn of_model(set: &str, model: &str, task: PromptTask) -> Result<PromptSet, Error> {
    if !set.is_empty() {
        return parts::prompts(set);
    }
    match pretrained::prompts(model)? {
        Some(own) if own.set().has(task) => Ok(own.into_set()),
        _ => parts::prompts(set),
    }
}

/// Returns the prompt set of a judge, as [`of_model`] does. What a judge at an endpoint carries is not known.
///
/// # Errors
/// Same as [`of_model`].
pub fn of_judge(config: &JudgeConfig) -> Result<PromptSet, Error> {
    match config.endpoint.is_given() {
        true => parts::prompts(&config.prompts),
        false => of_model(&config.prompts, &config.model.path, PromptTask::Judge),
    }
}

/// Returns the prompt set that the rows of a fine-tuning run were rendered with: the set that `prompts` names, or else the one that
/// the model carries, if any.
///
/// # Errors
/// Same as [`of_model`].
pub fn of_rows(config: &SftConfig) -> Result<Option<PromptSet>, Error> {
    match &config.model.path {
        _ if !config.prompts.is_empty() => parts::prompts(&config.prompts).map(Some),
        Some(model) => Ok(pretrained::prompts(model)?.map(ModelPrompts::into_set)),
        None => Ok(None),
    }
}

/// Returns the prompt set of the summaries of a model in training on `trained`: the set named `set`, or, if `set` is empty, `trained`
/// if it has a template for summaries, or else the built-in default.
///
/// # Errors
/// Returns an error if the set does not exist, or a template is not valid.
pub fn of_training(set: &str, trained: Option<&PromptSet>) -> Result<PromptSet, Error> {
    match trained {
        Some(own) if set.is_empty() && own.has(PromptTask::Summarize) => Ok(own.clone()),
        _ => parts::prompts(set),
    }
}

/// Returns the prompt set that words the raw histories of an evaluation: the set that `prompts` names, or, if it is empty, the first
/// of `sets` that has a template for histories (with `of_messages`, also for those of messages), or else the built-in default.
///
/// # Errors
/// Same as [`of_training`].
pub fn of_histories(prompts: &str, sets: &[PromptSet], of_messages: bool) -> Result<PromptSet, Error> {
    let words =
        |set: &PromptSet| set.has(PromptTask::History) && (!of_messages || set.has_for_messages(PromptTask::History));
    match sets.iter().find(|set| prompts.is_empty() && words(set)) {
        Some(own) => Ok(own.clone()),
        None => parts::prompts(prompts),
    }
}

/// Returns how one model is prompted for `task`, under the name `key` of the setting that chooses `set`.
///
/// # Errors
/// Same as [`of_model`].
pub fn use_of_model(key: &str, set: &str, model: &str, task: PromptTask) -> Result<PromptUse, Error> {
    let used = of_model(set, model, task)?;
    Ok(compared((key, set), model, &used, trained_on(model)?.as_ref(), Some(task)))
}

/// Returns the prompt sets of a fine-tuning run that starts from its model, or resumes from the checkpoint `from`.
///
/// # Errors
/// Same as [`of_model`].
pub fn of_sft(config: &SftConfig, from: Option<&Path>) -> Result<Vec<PromptUse>, Error> {
    let rows = of_rows(config)?;
    let mut uses = Vec::new();
    if let Some(set) = &rows {
        let model = start_of(config.model.path.as_deref().unwrap_or("a new model"), from);
        let trained = match (from, &config.model.path) {
            (None, None) => None,
            _ => trained_on(&model)?,
        };
        uses.push(compared(("prompts", &config.prompts), &model, set, trained.as_ref(), None));
    }
    uses.extend(of_validation(config.validation.summaries.as_ref(), rows.as_ref())?);
    Ok(uses)
}

/// Returns the prompt sets of an RL run that starts from its model, or resumes from the checkpoint `from`.
///
/// # Errors
/// Same as [`of_model`].
pub fn of_rl(config: &RlConfig, from: Option<&Path>) -> Result<Vec<PromptUse>, Error> {
    let used = of_model(&config.prompts, &config.model.path, PromptTask::Summarize)?;
    let model = start_of(&config.model.path, from);
    let trained = trained_on(&model)?;
    let policy = compared(("prompts", &config.prompts), &model, &used, trained.as_ref(), Some(PromptTask::Summarize));
    let mut uses = vec![policy];
    for (key, judge) in config.panel_judges() {
        uses.push(use_of_judge(&key, &judge.judge)?);
    }
    uses.extend(of_validation(config.validation.summaries.as_ref(), Some(&used))?);
    Ok(uses)
}

/// Returns the prompt sets of an evaluation.
///
/// # Errors
/// Same as [`of_model`].
pub fn of_eval(config: &EvalConfig) -> Result<Vec<PromptUse>, Error> {
    let models = config.models.iter().map(|m| {
        let path = &m.model.path;
        use_of_model("prompts", &config.prompts, path, PromptTask::Summarize)
    });
    let judge = |(i, j): (usize, &configs::EvalJudge)| use_of_judge(&format!("judges[{i}].judge"), &j.judge);
    models.chain(config.judges.iter().enumerate().map(judge)).collect()
}

/// Reports the sets that no key names, and warns of each set that is not the wording of its model. Also writes the sets to
/// prompts.json in `folder`. Only rank 0 of `world` does so.
///
/// # Errors
/// Returns an error if the file cannot be written.
pub fn begin(world: &World, folder: &Path, uses: &[PromptUse], reporter: &dyn Reporter) -> Result<(), Error> {
    if !world.is_rank_zero() {
        return Ok(());
    }
    announce(uses, reporter);
    write(folder, uses)
}

/// Reports the sets that no key names, and warns of each set that is not the wording of its model.
pub fn announce(uses: &[PromptUse], reporter: &dyn Reporter) {
    for used in uses {
        if let Some(warning) = used.warning() {
            reporter.warn(&warning);
        } else if !used.named {
            reporter.info(&used.to_string());
        }
    }
}

/// Writes the sets to prompts.json in the run's folder, where the report reads them.
///
/// # Errors
/// Returns an error if the file cannot be written.
pub fn write(folder: &Path, uses: &[PromptUse]) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(uses).expect("strings and lists always serialize");
    parts::write(&folder.join(FILE), &(text + "\n"))
}

/// Returns the model that training goes on from.
fn start_of(model: &str, from: Option<&Path>) -> String {
    from.map_or_else(|| model.to_owned(), |checkpoint| checkpoint.display().to_string())
}

fn trained_on(model: &str) -> Result<Option<PromptManifest>, Error> {
    Ok(pretrained::prompts(model)?.map(|own| own.trained().clone()))
}

/// Returns how a judge is prompted. `table` is the key of its settings.
pub(crate) fn use_of_judge(table: &str, config: &JudgeConfig) -> Result<PromptUse, Error> {
    let key = format!("{table}.prompts");
    if !config.endpoint.is_given() {
        return use_of_model(&key, &config.prompts, &config.model.path, PromptTask::Judge);
    }
    let model = format!("{} at {}", config.endpoint.model, config.endpoint.url);
    Ok(compared((&key, &config.prompts), &model, &of_judge(config)?, None, Some(PromptTask::Judge)))
}

/// Returns the prompt sets of a validation by summaries, of a model in training on `trained`.
fn of_validation(summaries: Option<&SummaryValidation>, trained: Option<&PromptSet>) -> Result<Vec<PromptUse>, Error> {
    let Some(config) = summaries else { return Ok(Vec::new()) };
    let used = of_training(&config.prompts, trained)?;
    let trained = trained.map(PromptSet::manifest);
    let (key, model) = (("validation.summaries.prompts", config.prompts.as_str()), "the model in training");
    let summaries = compared(key, model, &used, trained.as_ref(), Some(PromptTask::Summarize));
    Ok(vec![summaries, use_of_judge("validation.summaries.judge", &config.judge)?])
}

/// Compares the set that a model is prompted with (or trained on, without a task) with the one that it was trained on.
fn compared(
    (key, set): (&str, &str),
    model: &str,
    used: &PromptSet,
    trained: Option<&PromptManifest>,
    task: Option<PromptTask>,
) -> PromptUse {
    // A set without a template for the task says nothing about its wording.
    let trained = trained.filter(|trained| task.is_none_or(|task| trained.has(task)));
    let used = used.manifest();
    let id = |of: &PromptManifest| PromptSetId { name: of.name.clone(), hash: of.hash.clone() };
    PromptUse {
        key: key.into(),
        named: !set.is_empty(),
        model: model.into(),
        used: id(&used),
        trained: trained.map(id),
        differ: trained.map_or_else(Vec::new, |trained| used.differing(trained, task)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_histories_are_worded_by_a_set_with_templates_for_their_kinds() {
        let set = |name: &str, files: &[&str]| {
            let sources = files.iter().map(|&file| (file.to_owned(), "text".to_owned())).collect();
            PromptSet::new(name, &sources).unwrap()
        };
        let sets = [set("first", &["history.j2"]), set("second", &["history.j2", "history_messages.j2"])];
        let name = |prompts: &str, sets: &[PromptSet], of_messages: bool| {
            of_histories(prompts, sets, of_messages).unwrap().name().to_owned()
        };
        assert_eq!([name("", &sets, false), name("", &sets, true)], ["first", "second"]);
        assert_eq!([name("", &sets[..1], true), name("compact", &sets, true)], ["plain", "compact"]);
    }
}
