//! `xplore config check` plans the published recipe for 64 GPUs, without GPUs, data or model.

use std::path::Path;

use assert_cmd::Command;

/// Runs `xplore config check` on a preset and returns the exit code and the output.
fn check(kind: &str, preset: &str, more: &[&str]) -> (i32, String) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(preset);
    let cache = tempfile::tempdir().unwrap();
    let mut command = Command::cargo_bin("xplore").unwrap();
    command.args(["config", "check", "--kind", kind]).arg(&file).args(more);
    let output = command.env("HF_HUB_OFFLINE", "1").env("HF_HUB_CACHE", cache.path()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), said)
}

#[track_caller]
fn plan(kind: &str, preset: &str, more: &[&str], expected: &[&str]) -> String {
    let (code, said) = check(kind, preset, more);
    assert_eq!(code, 0, "{said}");
    for words in expected {
        assert!(said.contains(words), "`{words}` is missing in\n{said}");
    }
    said
}

const SFT: &str = "sft-alignxplore-plus.toml";
const RL: &str = "rl-alignxplore-plus.toml";

#[test]
fn sft_on_64_gpus_makes_the_published_updates() {
    // 64 devices have 529 updates per epoch from 528 · 1024 + 1 to 529 · 1024 rows.
    for rows in ["540673", "541696"] {
        plan(
            "sft",
            SFT,
            &["--ranks", "64", "--rows", rows],
            &[
                &format!("{rows} (--rows; nothing is read)"),
                "published: 16 · 64 = 1024 sequences per update",
                "529 updates per epoch",
                "2116 of 1024 sequences, 529 per epoch, 4 epochs",
                "16.0 sequences per update (mean) on each of 64",
                "published: 16 of 1 sequence on each of 64 devices",
                "checkpoints  4 (after steps 529, 1058, 1587, 2116); the last 2 are kept",
            ],
        );
    }
    let short = "(the last update of an epoch has 1 sequences)";
    plan("sft", SFT, &["--ranks", "64", "--rows", "540673"], &[short]);
    assert!(!plan("sft", SFT, &["--rows", "541696"], &[]).contains("the last update of an epoch"));
    // The number of ranks that run changes nothing but the share of each.
    let eight =
        plan("sft", SFT, &["--ranks", "8", "--rows", "541696"], &["128.0 sequences per update (mean) on each of 8"]);
    assert!(eight.contains("2116 of 1024 sequences, 529 per epoch"), "{eight}");
    // Another number of rows is another number of devices.
    plan("sft", SFT, &["--rows", "8465"], &["1060 of 32 sequences, 265 per epoch, 4 epochs"]);
    let limited = ["--rows", "8464", "--set", "train.max_steps=600", "--set", "train.batch_size=16"];
    plan("sft", SFT, &limited, &["600 of 16 sequences, 529 per epoch", "2 (after steps 529, 600)"]);
}

#[test]
fn rl_on_64_gpus_makes_the_published_updates() {
    // 30 full steps; 500 users are left over.
    let said = plan(
        "rl",
        RL,
        &["--ranks", "64", "--rows", "31220"],
        &[
            "31220 (--rows; nothing is read)",
            "stage 1      1 groups per user of 4 samples",
            "stage 2      1 groups per user of 4 samples",
            "30 of 1024 users",
            "(500 users of each epoch are in no step: train.drop_last)",
            "2048 groups, 8192 responses of at most 4096 tokens",
            "4 per step (1 epochs of 4 mini-batches, about 2048 responses each), 120 in total",
            "32 responses on each of 64 published ranks, each stage balanced by length",
            "256 micro-batches of 8 responses per mini-batch, 4 on each published rank",
            "16.0 users, 128.0 responses per step (mean) on each of 64",
            "checkpoints  1 (after steps 30)",
        ],
    );
    let eight = plan("rl", RL, &["--ranks", "8", "--rows", "31220"], &["128.0 users, 1024.0 responses per step"]);
    let without_ranks = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.contains("per rank")).map(str::to_owned).collect()
    };
    assert_eq!(without_ranks(&said), without_ranks(&eight), "the ranks that run change no batch");
    // floor(102,400 / 1024) = 100 steps, and one more user changes nothing.
    for rows in ["102400", "102401"] {
        plan("rl", RL, &["--rows", rows], &["100 of 1024 users", "400 in total", "4 (after steps 30, 60, 90, 100)"]);
    }
    let filled = ["--rows", "31220", "--set", "train.drop_last=false"];
    plan("rl", RL, &filled, &["31 of 1024 users", "124 in total", "2 (after steps 30, 31)"]);
}

#[test]
fn rows_need_a_plan_that_depends_on_their_number_alone() {
    let tokens = ["--rows", "100", "--set", "train.batch_size=0", "--set", "train.batch_tokens=1000"];
    let (code, said) = check("sft", SFT, &tokens);
    assert_eq!(code, 2, "{said}");
    assert!(
        said.contains("with train.batch_tokens the number of updates depends on the lengths of the rows"),
        "{said}"
    );
    let (code, said) = check("quickstart", "quickstart.toml", &["--rows", "100"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("use it with --kind sft or --kind rl"), "{said}");
    assert_eq!(check("sft", SFT, &["--rows", "0"]).0, 2);
}
