//! Keys of `[checkpoint]`, and `--resume`.

use std::fs;
use std::path::Path;

use fixtures::sft_runs::{SftRun, read_run};

use crate::fixture::Bench;

/// Returns the steps of the existing checkpoints.
fn kept(run: &SftRun) -> Vec<u64> {
    let names = fs::read_dir(run.folder.join("checkpoints")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut steps: Vec<u64> = names.filter_map(|n| n.to_str()?.strip_prefix("step-")?.parse().ok()).collect();
    steps.sort_unstable();
    steps
}

#[test]
fn checkpoints_are_written_and_kept_as_asked() {
    let bench = Bench::new();
    let steps = |name: &str, set: &[&str]| kept(&bench.fit(name, set));
    assert_eq!(steps("last", &[]), [8]);
    assert_eq!(steps("every", &["checkpoint.every=2"]), [6, 8]);
    assert_eq!(steps("newest", &["checkpoint.every=3", "checkpoint.keep_last=3"]), [3, 6, 8]);
    let good = ["checkpoint.every=1", "checkpoint.keep_last=1", "checkpoint.keep_every=3"];
    assert_eq!(steps("good", &good), [3, 6, 8]);
    // 24 rows in batches of 4 are 6 steps per epoch; the default number of steps is 8.
    assert_eq!(steps("epoch", &["checkpoint.every_epoch=true"]), [6, 8]);
    let epochs = ["checkpoint.every_epoch=true", "train.max_steps=0", "train.epochs=3"];
    assert_eq!(steps("epochs", &[&epochs[..], &["checkpoint.keep_last=9"]].concat()), [6, 12, 18]);
    assert_eq!(steps("last-epochs", &epochs), [12, 18]);
}

#[test]
fn the_best_checkpoint_is_that_of_the_least_validation_loss() {
    let bench = Bench::new();
    // The learning rate is so high that the loss increases again.
    let set = ["optimizer.lr=0.02", "train.max_steps=12", "data.validation_share=0.25", "validation.every=1"];
    let run = bench.fit("best", &[&set[..], &["checkpoint.keep_last=1", "checkpoint.best=validation/loss"]].concat());
    let losses = run.column("validation/loss");
    let best = 1 + (0..12).min_by(|&a, &b| losses[a].total_cmp(&losses[b])).unwrap();
    assert!(best < 12, "the run's last step is its best, so that nothing is seen: {losses:?}");
    let link = fs::read_link(run.folder.join("checkpoints/best")).unwrap();
    assert_eq!(link, Path::new(&format!("step-{best:06}")));
    assert_eq!(kept(&run), [best as u64, 12]);
}

/// Asserts that a run of 8 steps and a run resumed from its fourth step write the same bytes and the same metrics.
fn goes_on_as_if_never_stopped(bench: &Bench, name: &str, file: &str, set: &[&str]) {
    let set = [&["checkpoint.every=4", "checkpoint.keep_last=9"], set].concat();
    let whole = bench.fit(name, &set);
    let end = whole.folder.join("checkpoints/step-000008");
    let bytes = fs::read(end.join(file)).unwrap();
    fs::remove_dir_all(&end).unwrap();
    let (code, said) = bench.start(name, &set, &["--resume"]);
    assert_eq!(code, 0, "{name}: {said}");
    assert!(fs::read(end.join(file)).unwrap() == bytes, "{name}: {file} after going on is another");
    let again = read_run(&bench.path(""), name);
    assert_eq!(again.lines.len(), 8, "{name}: lines of metrics.jsonl");
    for key in ["step", "loss", "grad_norm", "lr", "epoch"] {
        assert_eq!(again.column(key), whole.column(key), "{name}: {key}");
    }
}

#[test]
fn a_run_goes_on_as_if_it_had_never_stopped() {
    let bench = Bench::new();
    let weights = "model.safetensors";
    goes_on_as_if_never_stopped(&bench, "full", weights, &["optimizer.schedule=cosine"]);
    goes_on_as_if_never_stopped(&bench, "half", weights, &["model.dtype=bf16", "optimizer.lr=1e-4"]);
    goes_on_as_if_never_stopped(&bench, "raw", weights, &["model.dtype=bf16", "optimizer.state=model"]);
    goes_on_as_if_never_stopped(&bench, "average", weights, &["optimizer.ema_decay=0.8"]);
    let lora = ["lora.rank=4", "lora.dropout=0.2", "lora.dora=true"];
    goes_on_as_if_never_stopped(&bench, "dora", "adapter_model.safetensors", &lora);
}

#[test]
fn a_run_goes_on_only_from_a_checkpoint_with_state() {
    let bench = Bench::new();
    let (code, said) = bench.start("none", &[], &["--resume"]);
    assert!(code == 2 && said.contains("no checkpoint"), "{code}: {said}");
    let bare = bench.fit("bare", &["checkpoint.state=false"]);
    let full = bench.fit("full", &[]);
    let state = "trainer/optimizer.safetensors";
    assert_eq!((bare.last().join(state).exists(), full.last().join(state).exists()), (false, true));
    let (code, said) = bench.start("full", &["optimizer.ema_decay=0.8"], &["--resume"]);
    assert!(code != 0 && said.contains("optimizer.ema_decay"), "{code}: {said}");
    let (code, said) = bench.start("bare", &["checkpoint.state=false"], &["--resume"]);
    assert!(code != 0 && said.contains("checkpoint.state"), "{code}: {said}");
}
