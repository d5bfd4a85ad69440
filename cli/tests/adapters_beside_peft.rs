//! Adapters of `xplore sft` loaded in PEFT, and PEFT's adapters loaded here: the same files, the same predictions.

mod predictions;

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use fixtures::sft_runs::fit;
use python_reference::ask;
use serde_json::{Value as Json, json};
use tolerance::{assert_within, largest};

use crate::predictions::{logits, numbers, predictions};

/// Maximum absolute difference between our logits or log-probabilities and those of the reference.
const MOST: f64 = 1e-4;

/// `(family, kind)` of the adapters that PEFT writes.
const KINDS: [(&str, &str); 3] = [("qwen3", "lora"), ("qwen3", "dora"), ("llama", "lora")];

/// An adapter and its base model.
struct Adapter {
    name: String,
    base: PathBuf,
    folder: PathBuf,
}

/// Creates a folder with models, rows and PEFT's adapters.
fn world() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let case = |(family, kind): (&str, &str)| {
        json!({"name": format!("{family}-{kind}"), "family": family, "batch": 4, "accumulation": 1, "schedule": "constant",
               "lr": 1e-3, "adapter": kind})
    };
    let job = json!({"folder": place.path(), "steps": 1, "max_length": 96, "weight_decay": 0.0, "warmup": 0,
                     "cases": KINDS.map(case), "prompts": []});
    ask("sft_steps.py", &job, place.path());
    place
}

fn prompts() -> Vec<Vec<u32>> {
    vec![(3..25).collect(), (250..290).rev().collect()]
}

fn xplore(arguments: &[&str]) -> String {
    let output = Command::cargo_bin("xplore").unwrap().args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the log-probabilities of each prompt's tokens except the first, computed by `xplore score`.
fn scored(model: &Path, place: &Path) -> Vec<f64> {
    let input = place.join("prompts.jsonl");
    fs::write(&input, prompts().iter().map(|ids| json!({ "ids": ids }).to_string() + "\n").collect::<String>())
        .unwrap();
    let arguments =
        ["score", "--model", model.to_str().unwrap(), "--input", input.to_str().unwrap(), "--dtype", "fp32"];
    let lines = xplore(&arguments);
    let lines = lines.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
    lines.flat_map(|line| numbers(&json!(line["logprobs"].as_array().unwrap()[1..]))).collect()
}

/// Same as [`scored`], computed from reference logits.
fn logprobs(answer: &Json) -> Vec<f64> {
    let mut rows = logits(answer).into_iter();
    let mut found = Vec::new();
    for ids in prompts() {
        let rows: Vec<Vec<f64>> = rows.by_ref().take(ids.len()).collect();
        for (row, &next) in rows.iter().zip(&ids[1..]) {
            found.push(row[next as usize] - row.iter().map(|x| x.exp()).sum::<f64>().ln());
        }
    }
    found
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    largest(a.iter().zip(b).map(|(a, b)| (a - b).abs()))
}

/// Asserts that PEFT loads each adapter without a warning about its keys, and that its predictions equal those of `xplore score` on
/// the adapter folder and those of transformers on the folder that `xplore export --merge` writes.
fn are_the_same_everywhere(adapters: &[Adapter], place: &Path) {
    let mut models = Vec::new();
    for Adapter { name, base, folder } in adapters {
        let merged = place.join(format!("{name}-merged"));
        xplore(&["export", "--merge", "--model", folder.to_str().unwrap(), "--out", merged.to_str().unwrap()]);
        models.push((name.clone(), base.clone(), Some(folder.clone())));
        models.push((format!("{name}-merged"), merged, None));
        models.push((format!("{name}-base"), base.clone(), None));
    }
    let theirs = predictions(&models, &prompts(), place);
    for Adapter { name, folder, .. } in adapters {
        let (answer, merged) = (&theirs[name], &theirs[format!("{name}-merged")]);
        assert_eq!(answer["keys"], json!([]), "{name}: keys missing or not expected in PEFT");
        let warned = answer["warnings"].to_string();
        assert!(!warned.contains("keys") && !warned.contains("missing"), "{name}: {warned}");
        let flat = |answer: &Json| logits(answer).concat();
        let moved = distance(&flat(answer), &flat(&theirs[format!("{name}-base")]));
        assert!(moved > 0.05, "{name}: the adapter changes logits by {moved:.1e} only, so that nothing is compared");
        let here = distance(&scored(folder, place), &logprobs(answer));
        let exported = distance(&flat(merged), &flat(answer));
        println!("{name}: xplore score {here:.1e}, xplore export {exported:.1e} from PEFT, which moves {moved:.1e}");
        assert_within!(here, MOST, "{name}: log-probabilities of xplore score beside PEFT's");
        assert_within!(exported, MOST, "{name}: logits of the exported model beside PEFT's");
    }
}

/// Trains a new adapter for a few steps.
fn trained(place: &Path, name: &str, family: &str, lora: &str) -> Adapter {
    let base = place.join(format!("model-{family}"));
    let config = format!(
        "[model]\npath = '{}'\ndtype = 'fp32'\ndevice = 'cpu'\n[data]\ntrain = '{}'\n[train]\nmax_steps = 3\n\
         [optimizer]\nlr = 2e-2\nwarmup_ratio = 0.0\n[lora]\n{lora}",
        base.display(),
        place.join("rows.jsonl").display()
    );
    let run = fit(place, name, &config, &[]);
    let loss = run.column("loss");
    assert!(loss.len() == 3 && loss[2] < loss[0], "{name} learns nothing: {loss:?}");
    Adapter { name: name.into(), base, folder: run.last() }
}

#[test]
fn adapters_written_here_are_the_same_in_peft_and_merged() {
    let world = world();
    let place = world.path();
    let adapters = [
        trained(place, "lora", "qwen3", "rank = 4\nalpha = 8.0\n"),
        trained(place, "few", "llama", "rank = 3\nalpha = 5.0\ntargets = ['v_proj', 'q_proj', 'down_proj']\n"),
        trained(place, "dora", "qwen3", "rank = 4\nalpha = 8.0\ndora = true\n"),
    ];
    are_the_same_everywhere(&adapters, place);
}

#[test]
fn adapters_written_by_peft_are_the_same_here_and_merged() {
    let world = world();
    let place = world.path();
    let adapters = KINDS.map(|(family, kind)| Adapter {
        name: format!("{family}-{kind}"),
        base: place.join(format!("model-{family}")),
        folder: place.join(format!("{family}-{kind}")),
    });
    are_the_same_everywhere(&adapters, place);
}
