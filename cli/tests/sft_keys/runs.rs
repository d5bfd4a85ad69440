//! Models that are named by the run that trained them: `runs/NAME`, `runs/NAME@best`, `runs/NAME@STEP`.

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use fixtures::sft_runs::SftRun;
use serde_json::{Value as Json, json};

use crate::fixture::Bench;

const KEEP: [&str; 2] = ["checkpoint.every=1", "checkpoint.keep_last=9"];

/// Trains the run `first` for two steps. Returns its folder and that of its newest checkpoint.
fn first(bench: &Bench) -> (String, String) {
    let folder = bench.fit("first", &[&KEEP[..], &["train.max_steps=2"]].concat()).folder;
    (folder.display().to_string(), folder.join("checkpoints/step-000002").display().to_string())
}

fn start(path: &str) -> String {
    format!("model.path='{path}'")
}

fn json(path: &Path) -> Json {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_model_path_may_name_a_run() {
    let bench = Bench::new();
    let (run, newest) = first(&bench);
    let shown = bench.check(&[&start(&run)]);
    assert!(shown.contains(&format!("model.path = {run}: {newest}")), "{shown}");

    let fit = |name: &str, path: &str| bench.fit(name, &[start(path).as_str(), "train.max_steps=1"]);
    let by_run = fit("by-run", &run);
    let by_folder = fit("by-folder", &newest);
    assert_eq!(by_run.column("loss"), by_folder.column("loss"));
    assert_ne!(by_run.column("loss"), fit("by-step", &format!("{run}@1")).column("loss"));
    // The run records what it resolved, and its own configuration names the checkpoint.
    assert_eq!(json(&by_run.folder.join("models.json"))["model.path"], json!({ "path": run, "resolved": newest }));
    let config = |run: &SftRun| fs::read_to_string(run.folder.join("config.toml")).unwrap();
    assert!(config(&by_run).contains(&format!("path = \"{newest}\"")), "{}", config(&by_run));
    assert!(!by_folder.folder.join("models.json").exists());

    for (suffix, words) in [
        ("@7", "the run has no checkpoint of step 7; the steps of its checkpoints are 1, 2"),
        ("@best", "the run has no best checkpoint"),
        ("@newest", "expected @latest, @best or a step"),
        ("-of-another-name", "the runs in"),
    ] {
        let (code, said) = bench.start("refused", &[&start(&format!("{run}{suffix}"))], &[]);
        assert!(code == 3 && said.contains(words), "{suffix}: {code}: {said}");
    }
}

#[test]
fn a_resumed_run_stays_with_the_checkpoint_that_it_began_with() {
    let bench = Bench::new();
    let (run, newest) = first(&bench);
    let path = start(&run);
    let lora = [path.as_str(), "lora.rank=2"];
    let adapted = |steps: &str, more: &[&str]| {
        let (code, said) = bench.start("adapted", &[&KEEP[..], &lora, &[steps]].concat(), more);
        assert_eq!(code, 0, "{said}");
        json(&bench.path("runs/adapted/checkpoints").join(format!("step-00000{}/adapter_config.json", &steps[16..])))
    };
    assert_eq!(adapted("train.max_steps=1", &[])["base_model_name_or_path"], json!(newest));
    let (code, said) = bench.start("first", &[&KEEP[..], &["train.max_steps=3"]].concat(), &["--resume"]);
    assert_eq!(code, 0, "{said}");
    assert!(bench.path("runs/first/checkpoints/step-000003/model.safetensors").exists());
    assert!(bench.check(&[&path]).contains("step-000003"), "the run has a newer checkpoint");
    assert_eq!(adapted("train.max_steps=2", &["--resume"])["base_model_name_or_path"], json!(newest));
    assert_eq!(json(&bench.path("runs/adapted/models.json"))["model.path"]["resolved"], json!(newest));

    // An adapter run can be named too, also as the adapter to start from.
    let from = start(&bench.path("runs/adapted@1").display().to_string());
    bench.fit("on-adapted", &[&from, "train.max_steps=1"]);
    let adapter = format!("lora.start='{}'", bench.path("runs/adapted").display());
    let on = bench.fit("goes-on", &[&path, "lora.rank=2", &adapter, "train.max_steps=1"]);
    let recorded = json(&on.folder.join("models.json"));
    assert!(recorded["lora.start"]["resolved"].as_str().unwrap().ends_with("adapted/checkpoints/step-000002"));
}

#[test]
fn commands_that_load_a_model_take_a_run() {
    let bench = Bench::new();
    let (run, newest) = first(&bench);
    let input = bench.path("prompts.jsonl");
    fs::write(&input, "{\"text\": \"likes warm stories\"}\n").unwrap();
    for command in ["generate", "score"] {
        let output = |model: &str| {
            let mut xplore = Command::cargo_bin("xplore").unwrap();
            xplore.args([command, "--device", "cpu", "--threads", "1", "--model", model, "--input"]).arg(&input);
            if command == "generate" {
                xplore.args(["--greedy", "--max-new-tokens", "4"]);
            }
            let output = xplore.output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success(), "{command}: {said}");
            (String::from_utf8(output.stdout).unwrap(), said)
        };
        let (by_run, said) = output(&run);
        assert!(said.contains(&newest), "{command}: {said}");
        assert_eq!(by_run, output(&newest).0, "{command}");
        assert!(output(&format!("{run}@1")).1.contains("step-000001"), "{command}");
    }
}
