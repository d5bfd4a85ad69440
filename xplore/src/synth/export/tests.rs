use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;

use super::*;
use crate::error::ErrorKind;
use crate::reporter::{Reporter, Silent, Task};

const SFT: &str = r#"{"prompt":[{"role":"user","content":"read"}],"completion":[{"role":"assistant","content":"<think>\na\n</think>\n\nb"}]}"#;
const RL: &str = r#"{"uid":"u","history":[{"chosen":"a"},{"chosen":"b"},{"chosen":"c"}],"mid_position":1}"#;
const TEST: &str = r#"{"uid":"t","interactions":[{"chosen":"a","rejected":"b"},{"chosen":"c","rejected":"d"}]}"#;

/// Keeps the warnings.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Reporter for Warnings {
    fn task(&self, _: &str) -> Box<dyn Task> {
        Box::new(Silent)
    }

    fn heading(&self, _: &str) {}

    fn warn(&self, message: &str) {
        self.0.lock().unwrap().push(message.into());
    }

    fn info(&self, _: &str) {}
}

fn config(set: &[&str]) -> SynthConfig {
    let set: Vec<String> = set.iter().map(ToString::to_string).collect();
    configs::parse("synth.toml", "steps = ['export']\nexport.validation_share = 0.0", &set).unwrap()
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Writes the stamp of a step of a pipeline with `keys`, and the names and contents of the files that it read and wrote.
fn stamp(folder: &Path, step: SynthStep, keys: &[&str], inputs: &[(&str, &str)], outputs: &[(&str, &str)]) {
    let files = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
        list.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    };
    let stamp = Stamp {
        version: 1,
        config: String::new(),
        text: config(keys).step_text(step).unwrap(),
        inputs: files(inputs),
        models: BTreeMap::new(),
        outputs: files(outputs),
    };
    fs::create_dir_all(folder.join(step.name())).unwrap();
    stamp.write(&folder.join(step.name())).unwrap();
}

/// Writes the stamps of all steps of a run, whose files are called after it.
fn stamp_run(folder: &Path, run: &str, steps: &[SynthStep]) {
    for &step in steps {
        let (train, scored) = (("import/train.jsonl", run), ("signal/scored.jsonl", run));
        match step {
            SynthStep::Import => stamp(folder, step, &[], &[("raw", run)], &[train]),
            SynthStep::Signal => stamp(folder, step, &[], &[train], &[scored]),
            _ => stamp(folder, step, &["teacher.model.path=a/teacher"], &[scored], &[]),
        }
    }
}

#[test]
fn what_the_steps_left_is_exported_and_named() {
    let place = tempfile::tempdir().unwrap();
    // The teacher is configured anew after the run.
    let (config, reporter) = (config(&["teacher.model.path=another/teacher"]), Warnings::default());
    let context = StepContext { config: &config, folder: place.path(), input: None, reporter: &reporter };
    let nothing = run(&context).unwrap_err();
    assert_eq!(nothing.kind, ErrorKind::Data);
    assert!(nothing.to_string().contains("nothing to export"), "{nothing}");
    write(&place.path().join("prune/rl.jsonl"), RL);
    write(&place.path().join("teach/sft.jsonl"), SFT);
    write(&place.path().join("import/test.jsonl"), TEST);
    stamp_run(place.path(), "first", &BEFORE);
    let said = run(&context).unwrap();
    let expected = "1 SFT rows for training and 0 for validation, 1 RL rows for training and 0 for validation, 1 users to evaluate";
    assert_eq!(said, expected);
    let card = fs::read_to_string(place.path().join("export/README.md")).unwrap();
    assert!(card.contains("| teacher | `a/teacher` |") && !card.contains("another/teacher"), "{card}");
    assert!(reporter.0.lock().unwrap().is_empty());
    let names: Vec<String> = outputs(&context)
        .iter()
        .map(|path| path.strip_prefix(place.path().join("export")).unwrap().display().to_string())
        .collect();
    let both = ["sft/train.jsonl", "sft/train.parquet", "rl/train.jsonl", "rl/train.parquet"];
    assert_eq!(names, [&both[..], &["eval/users.jsonl", "README.md"]].concat());
}

#[test]
fn a_given_file_is_exported_alone() {
    let place = tempfile::tempdir().unwrap();
    let config = config(&[]);
    let file = place.path().join("rows.jsonl");
    let with = |text: &str| {
        write(&file, text);
        run(&StepContext { config: &config, folder: place.path(), input: Some(&file), reporter: &Silent })
    };
    assert_eq!(with(SFT).unwrap(), "1 SFT rows for training and 0 for validation");
    assert_eq!(with(RL).unwrap(), "1 RL rows for training and 0 for validation");
    assert!(!place.path().join("export/eval").exists());
    let histories = with(TEST).unwrap_err().to_string();
    assert!(histories.contains("rows.jsonl: has histories; expected SFT rows or RL rows"), "{histories}");
    assert!(with("").unwrap_err().to_string().contains("has no rows"));
}

#[test]
fn steps_of_different_runs_are_not_exported_together() {
    let place = tempfile::tempdir().unwrap();
    let (config, reporter) = (config(&[]), Warnings::default());
    let context = StepContext { config: &config, folder: place.path(), input: None, reporter: &reporter };
    let error = || run(&context).unwrap_err().to_string();
    for (name, text) in [("prune/rl.jsonl", RL), ("teach/sft.jsonl", SFT), ("import/test.jsonl", TEST)] {
        write(&place.path().join(name), text);
    }
    stamp_run(place.path(), "first", &BEFORE);
    run(&context).unwrap();
    stamp_run(place.path(), "second", &[SynthStep::Import]);
    let signal = error();
    assert!(signal.contains("signal: made from another import/train.jsonl; run `xplore synth signal`"), "{signal}");
    stamp_run(place.path(), "second", &[SynthStep::Signal, SynthStep::Prune]);
    let teach = error();
    assert!(teach.contains("teach: made from another signal/scored.jsonl; run `xplore synth teach`"), "{teach}");
    stamp_run(place.path(), "second", &[SynthStep::Teach]);
    run(&context).unwrap();
    Stamp::remove(&place.path().join("signal")).unwrap();
    assert!(error().contains("the step signal is not finished; run `xplore synth signal` first"), "{}", error());
    // What an interrupted step or one without users left is not exported, and the rest is.
    stamp_run(place.path(), "second", &[SynthStep::Signal]);
    Stamp::remove(&place.path().join("teach")).unwrap();
    let said = run(&context).unwrap();
    assert_eq!(said, "1 RL rows for training and 0 for validation, 1 users to evaluate");
    assert!(!place.path().join("export/sft/train.jsonl").exists());
    stamp_run(place.path(), "second", &[SynthStep::Teach]);
    write(&place.path().join("teach/sft.jsonl"), "");
    run(&context).unwrap();
    let warnings = reporter.0.lock().unwrap().clone();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("not exported, because the step teach is not finished"), "{warnings:?}");
    assert!(warnings[1].contains("sft.jsonl: not exported, because it has no rows"), "{warnings:?}");
}

#[test]
fn models_are_named_by_the_steps_that_used_them() {
    let keys = ["teacher.model.path=a/teacher", "verifier.endpoint.url='http://x/v1'", "verifier.endpoint.model=judge"];
    let of = |steps: &[SynthStep], more: &[&str]| -> Vec<String> {
        let place = tempfile::tempdir().unwrap();
        steps.iter().for_each(|step| stamp(place.path(), *step, &[&keys[..], more].concat(), &[], &[]));
        let config = config(&[]);
        let context = StepContext { config: &config, folder: place.path(), input: None, reporter: &Silent };
        let found = models(&finished(&context).unwrap());
        found.into_iter().map(|model| format!("{} {}", model.role, model.name)).collect()
    };
    use SynthStep::{Import, Prune, Signal, Teach};
    assert_eq!(of(&[Import, Prune], &[]), [""; 0]);
    assert_eq!(of(&[Signal], &["scorer.trained=a/scorer"]), ["scorer a/scorer"]);
    assert_eq!(of(&[Signal], &["scorer.model.path=a/base"]), ["scorer from a/base"]);
    assert_eq!(of(&[Signal], &["signal.by=judge"]), ["verifier judge"]);
    assert_eq!(of(&[Teach], &[]), ["teacher a/teacher", "verifier judge"]);
    let policy = ["prune.by=policy", "prune.policy.model.path=a/policy"];
    assert_eq!(of(&[Prune, Teach], &policy), ["policy a/policy", "verifier judge", "teacher a/teacher"]);
}
