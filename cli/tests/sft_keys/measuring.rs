//! Keys of `[validation]` and `[metrics]`.

use std::fs;

use python_reference::ask;
use serde_json::{Value as Json, json};
use tolerance::assert_within;

use crate::fixture::{Bench, same};

/// Returns the steps that have a validation loss.
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
    // One batch contains all rows. Its loss equals the validation loss of the same rows before the update.
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
            // TensorBoard stores single precision.
            assert_within!(read - value, 1e-6 * value.abs(), "{key} at step {step}: {read}, not {value}");
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

/// The accuracy of a judge with the summaries of the current model, and the checkpoint with the best accuracy.
#[test]
fn summaries_are_judged_and_the_best_checkpoint_is_kept() {
    let bench = Bench::new();
    let choice = |chosen: &str, rejected: &str| json!({"query": "which?", "chosen": chosen, "rejected": rejected});
    let user = |uid: usize| {
        json!({"uid": uid.to_string(), "history": [choice("warm space", "dry finance"), choice("stories", "reports")],
               "targets": [choice("space", "finance"), choice("long", "dry")], "transfer": [choice("warm", "dry")]})
    };
    let users = bench.path("users.jsonl");
    fs::write(&users, (0..4).map(|uid| user(uid).to_string() + "\n").collect::<String>()).unwrap();
    let summaries = |more: &str| {
        format!(
            "validation.summaries={{users='{}', prompts='compact', sampling={{max_new_tokens=8}}, {more}judge={{model={{\
             path='{}', dtype='fp32', device='cpu'}}, prompts='compact', mode='forced', orders='both'}}}}",
            users.display(),
            bench.model.display()
        )
    };
    let set =
        ["validation.every=2", "train.max_steps=6", "checkpoint.best=validation/accuracy", "checkpoint.keep_last=1"];
    let run = bench.fit("judged", &[&set[..], &[&summaries("")]].concat());
    for key in ["validation/accuracy", "validation/transfer_accuracy"] {
        let found = run.column(key);
        assert_eq!(found.len(), 3, "{key} every second step");
        assert!(found.iter().all(|share| (0.0..=1.0).contains(share)), "{key}: {found:?}");
    }
    let accuracy = run.column("validation/accuracy");
    let first_best = (0..3).find(|&i| accuracy.iter().all(|a| *a <= accuracy[i])).unwrap();
    let link = fs::read_link(run.folder.join("checkpoints/best")).unwrap();
    assert_eq!(link.to_string_lossy(), format!("step-{:06}", 2 * (first_best + 1)));
    // One user of four, in one setting, is judged in fewer ways: shares are multiples of 1/4, not of 1/8 or 1/16.
    let one = bench.fit("one", &[&set[..], &[&summaries("max_users=1, settings=['full'], ")]].concat());
    assert!(one.column("validation/accuracy").iter().all(|share| (share * 4.0).fract() == 0.0));
    let streaming = bench.fit("streaming", &[&set[..], &[&summaries("settings=['streaming'], ")]].concat());
    assert_eq!(streaming.column("validation/accuracy").len(), 3);
}

/// The plan of `config check` matches the run, and its memory is close to the memory that the run used.
#[test]
fn the_plan_told_beforehand_is_what_happens() {
    let bench = Bench::new();
    let set = ["train.batch_size=5", "train.max_steps=0", "train.epochs=2", "train.micro_batch_tokens=40"];
    let run = bench.fit("planned", &set);
    let sum = |key: &str| run.column(key).iter().sum::<f64>();
    let said = bench.check(&set);
    let expect = |words: String| assert!(said.contains(&words), "expected `{words}` in\n{said}");
    expect(format!("{} of 5 sequences over 2.00 epochs", run.lines.len()));
    expect(format!("{} sequences, {} tokens, {} trained", sum("sequences"), sum("tokens"), sum("trained_tokens")));
    expect(format!("{:.2} micro-batches of at most 40 tokens", sum("microbatches") / run.lines.len() as f64));
    // The memory of such a small model is reported in MiB.
    let told: f64 = said.split("passes       ").nth(1).unwrap().split(" MiB").next().unwrap().parse().unwrap();
    let held = 1024.0 * run.column("memory/peak_gib").last().copied().unwrap();
    assert!((0.6..1.7).contains(&(told / held)), "told {told} MiB, held {held}");
}
