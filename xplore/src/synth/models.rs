//! The models of the steps: teacher and verifier, in this process or at an endpoint.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use chat::completer::{CompleterError, Done, Failures, JournalStats, Usage};
use chat::prompt_manifest::PromptTask;
use chat::{Completer, Completion, CompletionRequest, Question};
use configs::synth::{PruneBy, SignalBy};
use configs::{JudgeConfig, ModelSource, SynthConfig, SynthStep};
use data_synth::teacher::Teacher;
use hub::HubSettings;
use rewards::Judge;

use crate::certify::hashes::{model_files, model_folders};
use crate::error::Error;
use crate::{parts, runtime, wording};

/// The error of a model that a stop has ended, in this process or at an endpoint.
pub(super) const INTERRUPTED: &str = "interrupted";

/// Loads the teacher, or connects to its endpoint. It fails once a stop was requested.
///
/// # Errors
/// Returns an error if the model cannot be loaded, the API key of the endpoint is missing, or its journal cannot be read.
pub fn teacher(config: &SynthConfig) -> Result<Box<dyn Completer>, Error> {
    match config.teacher.world {
        true => Ok(interruptible(Box::<Teacher>::default())),
        false => completer(&config.teacher.as_judge()),
    }
}

/// Loads the model of a judge, or connects to its endpoint. It fails once a stop was requested.
///
/// # Errors
/// Same as [`teacher`].
pub fn completer(config: &JudgeConfig) -> Result<Box<dyn Completer>, Error> {
    match config.endpoint.is_given() {
        true => Ok(Box::new(parts::remote_model(config)?.stop_if(runtime::stop_requested))),
        false => Ok(interruptible(parts::judge_model(config)?)),
    }
}

/// Returns a completer that fails once a stop was requested. A model in this process then ends after the next answer that it
/// finishes; the requests that it was working on are lost.
pub fn interruptible(model: Box<dyn Completer>) -> Box<dyn Completer> {
    Box::new(Interruptible(model))
}

/// Returns the judge as a function from questions to the probability of the item that the user chose, as
/// [`data_synth::signal::Verify`] expects it.
pub fn probabilities<'a>(judge: &'a Judge<'a>) -> impl Fn(&[Question]) -> Result<Vec<f64>, String> + 'a {
    move |questions: &[Question]| {
        let verdicts = judge.score(questions).map_err(|e| e.to_string())?;
        Ok(verdicts.into_iter().map(|verdict| verdict.p_chosen).collect())
    }
}

/// The completer of [`interruptible`].
struct Interruptible(Box<dyn Completer>);

impl Completer for Interruptible {
    fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
        let answers = self.complete_with(requests, Failures::Stop, &mut |_, _| Ok(()))?;
        answers.into_iter().map(|answer| answer.map_err(CompleterError::Model)).collect()
    }

    fn complete_each(&self, requests: &[CompletionRequest]) -> Result<Vec<Result<Completion, String>>, CompleterError> {
        self.complete_with(requests, Failures::Keep, &mut |_, _| Ok(()))
    }

    fn complete_with(
        &self,
        requests: &[CompletionRequest],
        failures: Failures,
        done: &mut Done<'_>,
    ) -> Result<Vec<Result<Completion, String>>, CompleterError> {
        let goes_on = || match runtime::stop_requested() {
            true => Err(CompleterError::Model(INTERRUPTED.into())),
            false => Ok(()),
        };
        goes_on()?;
        let mut done = |index: usize, completion: &Completion| {
            done(index, completion)?;
            goes_on()
        };
        self.0.complete_with(requests, failures, &mut done)
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn usage(&self) -> Usage {
        self.0.usage()
    }

    fn journal_stats(&self) -> JournalStats {
        self.0.journal_stats()
    }
}

/// Returns what tells the models and prompt sets of a step apart, by role. A model at an endpoint is known by its name only, which
/// the configuration holds; a model that is not on this machine has none.
pub(super) fn identities(config: &SynthConfig, step: SynthStep) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut model = |role: &str, source: &ModelSource| {
        found.extend(identity(&source.path).map(|identity| (role.to_owned(), identity)));
    };
    let verifies = match step {
        SynthStep::Import | SynthStep::Export => false,
        SynthStep::Signal => config.signal.by == SignalBy::Judge,
        SynthStep::Prune => config.prune.by == PruneBy::Policy,
        SynthStep::Teach => true,
    };
    match step {
        SynthStep::Signal if !verifies => {
            let start = config.scorer.model.path.clone().unwrap_or_default();
            let path = if config.scorer.trained.is_empty() { start } else { config.scorer.trained.clone() };
            model("scorer", &ModelSource { path, ..ModelSource::default() });
            let tokenizer = config.scorer.model.tokenizer.as_ref().and_then(|tokenizer| tokenizer.path.as_ref());
            if let Some(folder) = tokenizer {
                model(
                    "scorer.tokenizer",
                    &ModelSource { path: folder.display().to_string(), ..ModelSource::default() },
                );
            }
        }
        SynthStep::Prune if verifies => model("policy", &config.prune.policy.model),
        SynthStep::Teach => model("teacher", &config.teacher.model),
        _ => {}
    }
    if verifies {
        model("verifier", &config.verifier.model);
        // The set that a model carries is known only where the model is.
        let known = |set: &str, role: &str| !set.is_empty() || found.contains_key(role);
        let (judge, policy) = (&config.verifier, &config.prune.policy.model.path);
        let mut sets = vec![("prompts", parts::prompts(&config.prompts))];
        if judge.endpoint.is_given() || known(&judge.prompts, "verifier") {
            sets.push(("verifier.prompts", wording::of_judge(judge)));
        }
        if step == SynthStep::Prune && known(&config.prompts, "policy") {
            let own = wording::of_model(&config.prompts, policy, PromptTask::Summarize);
            sets.push(("policy.prompts", own));
        }
        // A set that does not exist is reported by the step, which then has no stamp that holds.
        found.extend(sets.into_iter().filter_map(|(role, set)| Some((role.to_owned(), set.ok()?.hash()))));
    }
    found
}

/// Returns names, sizes and modification times of the files of a model on this machine. Their contents may be tens of gigabytes, which
/// a finished pipeline should not read again.
fn identity(path: &str) -> Option<String> {
    of_files(path, |file| {
        let known = std::fs::metadata(file).ok()?;
        let modified = known.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos();
        Some(format!("{} {modified}", known.len()))
    })
}

/// Returns a hash of the names and contents of the files of a model on this machine, which a copy of the model shares. A journal
/// knows its model by it, because its answers may have taken hours.
pub(super) fn contents(path: &str) -> Option<String> {
    of_files(path, |file| files::sha256(file).ok().map(|(_, hash)| hash))
}

/// Returns a hash of the names of the files of a model and of what `describe` returns of each; `None` if the model is not here.
fn of_files(path: &str, describe: impl Fn(&Path) -> Option<String>) -> Option<String> {
    if path.is_empty() {
        return None;
    }
    let settings = HubSettings { offline: true, ..HubSettings::from_environment() };
    let folders = model_folders(path, &settings).ok()?;
    let files = folders.iter().map(|folder| model_files(folder).ok()).collect::<Option<Vec<_>>>()?;
    let line = |file: &PathBuf| Some(format!("{} {}\n", file.file_name()?.to_string_lossy(), describe(file)?));
    let lines = files.iter().flatten().map(line).collect::<Option<Vec<String>>>()?;
    Some(super::stamps::sha256(lines.concat().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> SynthConfig {
        configs::parse("synth.toml", &format!("steps = ['prune']\n{text}"), &[]).unwrap()
    }

    #[test]
    fn a_model_is_known_by_its_files_and_a_prompt_set_by_its_text() {
        let place = fixtures::policy::model_and_rows();
        let model = place.path().join("model");
        let text = format!("[teacher]\nworld = true\n[verifier]\nmodel.path = '{}'\n", model.display());
        let before = identities(&config(&text), SynthStep::Teach);
        assert_eq!(before.keys().collect::<Vec<_>>(), ["prompts", "verifier", "verifier.prompts"]);
        assert_eq!(before, identities(&config(&text), SynthStep::Teach));
        let others =
            identities(&config(&format!("prompts = 'compact'\n{text}prompts = 'compact'\n")), SynthStep::Teach);
        assert_eq!(before["verifier"], others["verifier"]);
        assert!(before["prompts"] != others["prompts"] && before["verifier.prompts"] != others["verifier.prompts"]);
        std::fs::write(model.join("config.json"), "{}").unwrap();
        assert_ne!(before["verifier"], identities(&config(&text), SynthStep::Teach)["verifier"]);
        // The steps without a verifier do not depend on it.
        assert!(identities(&config(&text), SynthStep::Prune).is_empty());
        assert!(identities(&config(&text), SynthStep::Export).is_empty());
    }

    #[test]
    fn each_model_and_set_of_a_step_has_a_role() {
        let place = fixtures::policy::model_and_rows();
        let model = place.path().join("model");
        let at = model.display().to_string();
        let of = |text: &str, step| identities(&config(text), step);
        let roles = |text: &str, step| of(text, step).into_keys().collect::<Vec<_>>();
        assert_eq!(roles(&format!("[scorer]\nmodel.path = '{at}'\n"), SynthStep::Signal), ["scorer"]);
        assert_eq!(roles(&format!("[scorer]\ntrained = '{at}'\n"), SynthStep::Signal), ["scorer"]);
        let new = format!("[scorer.model]\nshape.layers = 1\ntokenizer.path = '{at}'\n");
        assert_eq!(roles(&new, SynthStep::Signal), ["scorer.tokenizer"]);
        let verified = format!("[verifier]\nmodel.path = '{at}'\n");
        let judged = format!("[signal]\nby = 'judge'\n{verified}");
        assert_eq!(roles(&judged, SynthStep::Signal), ["prompts", "verifier", "verifier.prompts"]);
        let policy = format!("[prune]\nby = 'policy'\npolicy.model.path = '{at}'\n{verified}");
        let all = ["policy", "policy.prompts", "prompts", "verifier", "verifier.prompts"];
        assert_eq!(roles(&policy, SynthStep::Prune), all);
        // The policy is prompted with the set that it carries.
        let before = of(&policy, SynthStep::Prune);
        std::fs::create_dir(model.join("prompts")).unwrap();
        std::fs::write(model.join("prompts/summarize.j2"), "{{ history }}").unwrap();
        let after = of(&policy, SynthStep::Prune);
        assert!(before["policy.prompts"] != after["policy.prompts"] && before["prompts"] == after["prompts"]);
        // A model that is gone has no role, and neither has the set that it carried.
        std::fs::rename(&model, place.path().join("moved")).unwrap();
        assert_eq!(roles(&policy, SynthStep::Prune), ["prompts"]);
    }

    #[test]
    fn a_copy_of_a_model_has_the_same_contents() {
        let place = fixtures::policy::model_and_rows();
        let (model, copy) = (place.path().join("model"), place.path().join("copy"));
        std::fs::create_dir(&copy).unwrap();
        for file in model_files(&model).unwrap() {
            std::fs::write(copy.join(file.file_name().unwrap()), std::fs::read(&file).unwrap()).unwrap();
        }
        let config = std::fs::File::options().append(true).open(copy.join("config.json")).unwrap();
        config.set_modified(UNIX_EPOCH + std::time::Duration::from_secs(1)).unwrap();
        let (of_model, of_copy) = (model.to_str().unwrap(), copy.to_str().unwrap());
        assert!(contents(of_model).is_some() && contents(of_model) == contents(of_copy));
        assert_ne!(identity(of_model), identity(of_copy));
        std::fs::write(copy.join("config.json"), "{}").unwrap();
        assert_ne!(contents(of_model), contents(of_copy));
        assert_eq!((contents(""), contents("no/such-model")), (None, None));
    }

    #[test]
    fn the_teacher_of_the_world_needs_no_model() {
        let teacher = teacher(&config("[teacher]\nworld = true\n")).unwrap();
        assert_eq!(teacher.name(), "world-teacher");
        assert!(teacher.complete(&[]).unwrap().is_empty());
    }
}
