//! `xplore certify`: hashes, settings, scores and what is skipped, of a real small run and of folders written as a run writes them.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use configs::{RlConfig, RunConfig};
use fixtures::sft_runs::fit;
use serde_json::Value as Json;
use tempfile::TempDir;

const ROW: &str = r#"{"prompt":[{"role":"user","content":"likes warm stories?"}],"completion":[{"role":"assistant","content":"yes, warm ones"}]}
"#;

/// Runs `xplore certify` and returns the exit code and the output.
fn certify(arguments: &[&str]) -> (i32, String) {
    let mut command = Command::cargo_bin("xplore").unwrap();
    let output = command.arg("certify").args(arguments).env("HF_HUB_OFFLINE", "1").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), said)
}

/// Runs `xplore certify`, asserts that it succeeds, and returns the certificate in `folder`.
fn certificate(folder: &Path, arguments: &[&str]) -> Json {
    let (code, said) = certify(arguments);
    assert_eq!(code, 0, "{said}");
    serde_json::from_str(&fs::read_to_string(folder.join("certificate.json")).unwrap()).unwrap()
}

/// Returns the hash that coreutils compute.
fn sha256(path: &Path) -> String {
    let output = std::process::Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

fn setting<'a>(run: &'a Json, key: &str) -> &'a Json {
    let settings = run["settings"].as_array().unwrap();
    settings.iter().find(|setting| setting["key"] == key).unwrap_or_else(|| panic!("{key} is not in {run}"))
}

fn skipped(certificate: &Json) -> String {
    let lines = certificate["skipped"].as_array().unwrap().iter().map(|line| line.as_str().unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

/// A fine-tuning run of two steps.
fn sft(place: &TempDir) -> PathBuf {
    let data = place.path().join("sft.jsonl");
    fs::write(&data, ROW.repeat(8)).unwrap();
    let config = format!(
        "prompts = 'compact'\n[model]\ndtype = 'fp32'\ndevice = 'cpu'\n[model.shape]\nhidden_size = 32\n\
         intermediate_size = 64\nlayers = 1\n[data]\ntrain = '{}'\n[train]\nepochs = 1\nbatch_size = 4\n",
        data.display()
    );
    fit(place.path(), "sft", &config, &[]).folder
}

/// Writes the folder of a run with the published RL configuration and these overrides.
fn rl(place: &TempDir, overrides: &[&str]) -> PathBuf {
    let preset = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/rl-alignxplore-plus.toml");
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let config: RlConfig = configs::load(&preset, &overrides).unwrap();
    let folder = place.path().join("rl");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.toml"), config.resolved().unwrap()).unwrap();
    folder
}

#[test]
fn a_run_is_certified_with_its_files_and_settings() {
    let place = tempfile::tempdir().unwrap();
    let run = sft(&place);
    let name = run.display().to_string();
    let found = certificate(&run, &[&name]);
    let one = &found["runs"][0];
    assert_eq!((one["stage"].as_str(), one["last_step"].as_u64()), (Some("sft"), Some(2)));
    let hash = |role: &str, file: &str| {
        let files = one["files"].as_array().unwrap();
        let of = |entry: &&Json| entry["role"] == role && entry["path"].as_str().unwrap().ends_with(file);
        files.iter().find(of).unwrap_or_else(|| panic!("{role} {file} is not in {one}"))["sha256"].clone()
    };
    assert_eq!(hash("config", "config.toml"), sha256(&run.join("config.toml")));
    assert_eq!(hash("data", "sft.jsonl"), sha256(&place.path().join("sft.jsonl")));
    let weights = run.join("checkpoints/step-000002/model.safetensors");
    assert_eq!(hash("checkpoint", "model.safetensors"), sha256(&weights));
    assert_eq!(found["program"]["sha256"], sha256(&assert_cmd::cargo::cargo_bin("xplore")));
    assert!(skipped(&found).contains("training starts from random weights"), "{}", skipped(&found));
    assert!(skipped(&found).contains("RL: no run of this stage was given"), "{}", skipped(&found));

    let (epochs, lr) = (setting(one, "train.epochs"), setting(one, "optimizer.lr"));
    assert_eq!((epochs["published"].as_str(), epochs["ours"].as_str()), (Some("4"), Some("1")));
    assert_eq!((epochs["agreement"].as_str(), &epochs["reason"]), (Some("different"), &Json::Null));
    assert!(epochs["why"].as_str().unwrap().contains("number of updates"));
    assert_eq!((lr["agreement"].as_str(), lr["ours"].as_str()), (Some("same"), Some("2e-5")));
    // The checkpoint carries the prompt set that the configuration names.
    let prompts = one["prompts"].as_array().unwrap();
    let carried = prompts.iter().find(|entry| entry["key"] == "checkpoint").unwrap();
    assert_eq!(carried["used"]["name"], "compact");
    assert_eq!(carried["used"]["hash"].as_str().unwrap().len(), 64);

    let page = fs::read_to_string(run.join("certificate.md")).unwrap();
    assert!(page.contains("| epochs (`train.epochs`) | `4` | `1` | **none stated** |"), "{page}");
    assert!(page.contains(&sha256(&weights)) && page.contains("## Skipped"), "{page}");
}

#[test]
fn reasons_explain_what_differs_and_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let run = rl(&place, &["optimizer.lr=2e-6", "judge.model.path=models/qwen"]);
    let name = run.display().to_string();
    let out = place.path().join("out");
    let to = out.display().to_string();
    let found = certificate(&out, &[&name, "--out", &to]);
    assert!(!run.join("certificate.json").exists());
    // The presets of this version deviate in two wordings; the learning rate is ours.
    let settings = found["runs"][0]["settings"].as_array().unwrap().len() as u64;
    let counts = |found: &Json| {
        ["same", "other_location", "explained", "unexplained"].map(|key| found["counts"][key].as_u64().unwrap())
    };
    assert_eq!(counts(&found), [settings - 4, 1, 2, 1]);
    assert!(setting(&found["runs"][0], "prompts")["reason"].as_str().unwrap().contains("prompts import"));
    assert_eq!(setting(&found["runs"][0], "judge.model.path")["agreement"], "other_location");
    assert!(skipped(&found).contains("judge not hashed"), "{}", skipped(&found));
    let differences = found["differences"].as_array().unwrap();
    assert!(!differences.is_empty() && differences.iter().all(|difference| difference["stage"] == "rl"));

    let (code, said) = certify(&[&name, "--out", &to]);
    assert!(code == 0 && said.contains("optimizer.lr = 2e-6; published: 1e-6. Sets the size of an update."), "{said}");
    let explained = certificate(&out, &[&name, "--out", &to, "--explain", "optimizer.lr=a sweep = ours"]);
    assert_eq!(counts(&explained), [settings - 4, 1, 3, 0]);
    assert_eq!(setting(&explained["runs"][0], "optimizer.lr")["reason"], "a sweep = ours");

    for (reason, expected) in [
        ("optimizer.lr", "expected KEY=REASON"),
        ("optimizer.lr= ", "expected KEY=REASON"),
        ("optimiser.lr=x", "`optimiser.lr` is no published setting"),
        ("optimizer.weight_decay=x", "as published in every run; remove the reason"),
    ] {
        let (code, said) = certify(&[&name, "--out", &to, "--explain", reason]);
        assert!(code == 2 && said.contains(expected), "{reason}: {code} {said}");
    }
}

#[test]
fn scores_are_held_against_the_published_ones() {
    let place = tempfile::tempdir().unwrap();
    let run = rl(&place, &[]);
    let name = run.display().to_string();
    let evaluation = place.path().join("eval");
    fs::create_dir(&evaluation).unwrap();
    let row = r#"{"model":"rl","setting":"full","targets":"in_domain","judge":"judge","accuracy":0.6503,"ci_low":0.6,"ci_high":0.7,"users":350,"targets_judged":350,"no_answer":0.0}"#;
    fs::write(evaluation.join("eval.json"), format!("[\n{row}\n]\n")).unwrap();
    let given = format!("alignx={}", evaluation.display());
    let found = certificate(&run, &[&name, "--eval", &given]);
    let score = &found["scores"][0];
    assert_eq!((score["benchmark"].as_str(), score["published"].as_f64()), (Some("AlignX"), Some(0.7503)));
    assert_eq!((score["users_if_exact"].as_u64(), score["users_of_each"].as_u64()), (Some(157), Some(329)));
    assert_eq!(score["in_interval"], false);
    let page = fs::read_to_string(run.join("certificate.md")).unwrap();
    assert!(page.contains("| 75.03 | 65.03 (60.00 to 70.00) | 350 | 157 | 329 |"), "{page}");

    // Scores in the folder of the run, of a benchmark that no name tells.
    fs::copy(evaluation.join("eval.json"), run.join("eval.json")).unwrap();
    let found = certificate(&run, &[&name]);
    assert_eq!((found["scores"][0]["ours"].as_f64(), &found["scores"][0]["published"]), (Some(0.6503), &Json::Null));
    assert!(skipped(&found).contains("the benchmark is not known; name it with --eval"), "{}", skipped(&found));
}

#[test]
fn what_is_no_run_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().display().to_string();
    let (code, said) = certify(&[&folder]);
    assert!(code == 3 && said.contains("not a run folder") && said.contains("config.toml"), "{code} {said}");
    fs::write(place.path().join("config.toml"), "name = 'quickstart'\n[world]\n").unwrap();
    let (code, said) = certify(&[&folder]);
    assert!(
        code == 3 && said.contains("expected the resolved configuration of an SFT, RL or evaluation run"),
        "{said}"
    );
    let run = rl(&place, &[]).display().to_string();
    let (code, said) = certify(&[&run, "--eval", "mnid=nowhere"]);
    assert!(code == 2 && said.contains("unknown benchmark `mnid`; expected one of mind, amazon"), "{said}");
    let (code, said) = certify(&[&run, "--eval", &folder]);
    assert!(code == 2 && said.contains("has no eval.json"), "{said}");
    fs::write(place.path().join("rl/eval.json"), "[\n{\"model\": 1}\n]\n").unwrap();
    let (code, said) = certify(&[&run]);
    assert!(code == 3 && said.contains("eval.json:2:"), "{code} {said}");
}
