//! `scripts/gpu-check` on a CPU: every stage writes its records, and an interrupted run keeps the records that it wrote.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use serde_json::Value as Json;

/// Starts the script with the Python that has torch and transformers.
fn begun(out: &Path, more: &[&str]) -> Child {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let python = std::env::var_os("XPLORE_REFERENCE_PYTHON").map_or(root.join(".venv/bin/python"), PathBuf::from);
    let mut command = Command::new(python);
    // Temporary files of an interrupted script are removed with the test's folder.
    command.env("TMPDIR", out.ancestors().find(|folder| folder.is_dir()).unwrap());
    command.arg(root.join("scripts/gpu-check")).args(["--device", "cpu", "--shapes", "tiny", "--new", "8"]);
    command.args(["--users", "2", "--batches", "1,4", "--tokens", "512", "--binary"]).arg(cargo_bin("xplore"));
    command.arg("--out").arg(out).args(more).spawn().unwrap()
}

fn records(out: &Path) -> HashMap<String, Json> {
    let Ok(text) = fs::read_to_string(out) else { return HashMap::new() };
    let all: Json = serde_json::from_str(&text).unwrap();
    let runs = all["runs"].as_array().unwrap().iter();
    runs.map(|run| (run["run"].as_str().unwrap().to_owned(), run.clone())).collect()
}

#[test]
fn every_stage_leaves_its_records() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results/gpu.json");
    // In two calls, for machines with limited time per call.
    for more in
        [["--only", "agreement,decode", "--deadline", "300"], ["--only", "sft,grpo,profile", "--deadline", "300"]]
    {
        assert!(begun(&out, &more).wait().unwrap().success(), "{more:?}");
    }
    let found = records(&out);
    let failed: Vec<&Json> = found.values().filter(|record| record.get("failed").is_some()).collect();
    assert!(failed.is_empty(), "{failed:?}");
    for stage in ["agreement", "sft, tiny", "decode, tiny", "grpo, tiny", "profile, tiny"] {
        assert!(found.contains_key(&format!("stage {stage}")), "{stage}: {:?}", found.keys());
    }
    // The number of tokens is the same in one row and in eight rows.
    let tokens = |rows: &str| found[&format!("sft, tiny, rows of {rows}")]["tokens"].as_f64().unwrap();
    assert_eq!((tokens("512"), tokens("64")), (512.0, 512.0));
    assert!(found["decode, tiny, 4 rows"]["share"].as_f64().unwrap() > 0.0);
    assert_eq!(found["decode, tiny, 4 rows"]["preemptions"], 0);
    let named = found["seconds until a stopped rank is named"]["apart"].as_f64().unwrap();
    assert!(named > 20.0 && found.contains_key("five steps on two ranks"), "{named}");
}

#[test]
fn a_stage_has_its_deadline_and_a_stopped_run_its_records() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("gpu.json");
    let mut stopped = begun(&out, &["--only", "agreement"]);
    let begin = Instant::now();
    while records(&out).len() < 2 {
        assert!(begin.elapsed() < Duration::from_secs(300) && stopped.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    stopped.kill().unwrap();
    stopped.wait().unwrap();
    let before = records(&out);
    assert!(before.contains_key("device") && before.contains_key("log-probabilities, fp32"), "{before:?}");

    assert!(begun(&out, &["--only", "grpo", "--deadline", "0.5"]).wait().unwrap().success());
    let after = records(&out);
    assert!(after["stage grpo, tiny"]["failed"].as_str().unwrap().contains("0.5 s"), "{after:?}");
    assert!(before.keys().all(|name| after.contains_key(name)));
}
