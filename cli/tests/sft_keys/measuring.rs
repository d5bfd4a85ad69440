//! `[validation]` and `[metrics]`.

use std::fs;

use serde_json::{Value as Json, json};

use crate::bench::{Bench, same};
use crate::witness::ask;

/// Steps whose lines have a validation loss.
fn measured(lines: &[Json]) -> Vec<u64> {
    lines.iter().filter(|l| l["validation/loss"].is_f64()).map(|l| l["step"].as_u64().unwrap()).collect()
}

#[test]
fn validation_comes_as_often_as_asked_and_its_loss_is_that_of_training() {
    let bench = Bench::new();
    let rows = format!("data.validation='{}'", bench.path("rows.jsonl").display());
    let set = [rows.as_str(), "validation.every=3"];
    assert_eq!(measured(&bench.fit("every", &set).lines), [3, 6, 8]);
    let all = [&set[..], &["validation.at_start=true", "train.batch_size=24", "train.max_steps=2"]].concat();
    let run = bench.fit("start", &all);
    assert_eq!(measured(&run.lines), [0, 2]);
    // One batch of all rows: its loss is that of the same rows as validation, before the update.
    same(&run.column("loss")[..1], &run.column("validation/loss")[..1]);
}

#[test]
fn a_share_of_the_rows_is_held_out() {
    let bench = Bench::new();
    let epoch = ["train.max_steps=0", "train.epochs=1", "validation.every=100"];
    let run = bench.fit("share", &[&epoch[..], &["data.validation_share=0.25"]].concat());
    assert_eq!(run.column("sequences").iter().sum::<f64>(), 18.0);
    assert_eq!(measured(&run.lines), [5], "the last step is measured too");
}

#[test]
fn tensorboard_reads_what_metrics_jsonl_says() {
    let bench = Bench::new();
    let run = bench.fit("seen", &["metrics.tensorboard=true", "train.max_steps=3"]);
    let names = fs::read_dir(&run.folder).unwrap().map(|entry| entry.unwrap().path());
    let events: Vec<_> = names.filter(|path| path.to_string_lossy().contains("tfevents")).collect();
    assert_eq!(events.len(), 1);
    let scalars = ask("tensorboard_events.py", &json!({"file": events[0]}), &bench.path(""));
    for line in &run.lines {
        for (key, value) in line.as_object().unwrap().iter().filter(|(key, _)| *key != "step") {
            let Some(value) = value.as_f64() else { continue };
            let step = &line["step"];
            let read = scalars[format!("sft/{key}")][step.to_string()].as_f64();
            let read = read.unwrap_or_else(|| panic!("{key} at step {step} is not in the event file"));
            // Written in single precision.
            assert!((read - value).abs() <= 1e-6 * value.abs(), "{key} at step {step}: {read}, not {value}");
        }
    }
    let quiet = bench.fit("quiet", &["train.max_steps=1"]);
    let silent =
        fs::read_dir(&quiet.folder).unwrap().all(|e| !e.unwrap().path().to_string_lossy().contains("tfevents"));
    assert!(silent, "metrics.tensorboard = false leaves no event file");
}

#[test]
fn utilisation_counts_against_the_given_peak() {
    let bench = Bench::new();
    for (name, peak) in [("one", 1.0), ("half", 0.5)] {
        let run = bench.fit(name, &[&format!("metrics.peak_tflops={peak}"), "train.max_steps=2"]);
        let share: Vec<f64> = run.column("mfu").iter().map(|mfu| mfu * peak).collect();
        assert_eq!(share.len(), 2);
        same(&share, &run.column("tflops_per_second"));
    }
}
