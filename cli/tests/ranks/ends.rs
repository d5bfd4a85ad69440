//! The end of a job: under torchrun, by a signal, by the death of a rank.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use assert_cmd::cargo::cargo_bin;

use crate::job::{Job, checkpoints, ended, same};

/// Kills a rank in the phase that a collective's name stands for. Asserts that the other ranks exit by themselves and report the
/// dead rank, and that the run resumes from its newest checkpoint.
fn killed(job: &Job, name: &str, sharding: &str, fault: &str) {
    let set = [format!("parallel.sharding={sharding}"), "checkpoint.every=5".into(), "checkpoint.keep_last=9".into()];
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    let over = job.launch(3, name, &set, &[], &[("XPLORE_FAULT", fault)]);
    assert_ne!(over.code, 0, "{}", over.said);
    assert!(over.took < Duration::from_secs(30), "took {:?}: {}", over.took, over.said);
    assert!(over.said.contains("rank 1 was killed by signal 9"), "{}", over.said);
    for rank in [0, 2] {
        let gives_up = format!("[{rank}] error: ");
        let line =
            over.said.lines().find(|line| line.starts_with(&gives_up)).unwrap_or_else(|| panic!("{}", over.said));
        assert!(line.contains("rank 1 is dead") && line.contains("failed in `"), "{line}");
    }
    assert!(!over.said.contains("panicked"), "{}", over.said);
    job.launch(3, name, &set, &["--resume"], &[]).well();
    same(&job.metrics(name), &job.metrics("alone"), 1e-5);
}

#[test]
fn the_death_of_a_rank_ends_the_job_and_the_newest_checkpoint_goes_on() {
    let job = Job::new();
    job.alone("alone", &[], &[]).well();
    // In the backward pass of the eighth step; in the second checkpoint, which is started but not finished; in a forward pass.
    killed(&job, "backward", "optimizer", "1:kill:60:sum the gradients of Layer");
    killed(&job, "reduction", "replicate", "1:kill:30:sum the gradients");
    killed(&job, "forward", "full", "1:kill:60:gather the weights of Layer(0)");
    killed(&job, "checkpoint", "full", "1:kill:2:checkpoint: all ranks have written");
    assert_eq!(checkpoints(&job.folder("checkpoint")), ["step-000005", "step-000010", "step-000015", "step-000020"]);
}

#[test]
fn a_rank_that_is_stuck_is_named_after_the_time_out() {
    let job = Job::new();
    let over = job.launch(2, "stuck", &["parallel.timeout_seconds=4"], &[], &[("XPLORE_FAULT", "1:stop:9:sum the")]);
    assert_ne!(over.code, 0);
    assert!(over.took < Duration::from_secs(40), "{:?}", over.took);
    assert!(over.said.contains("rank 1 is dead or stalled"), "{}", over.said);
}

#[test]
fn an_error_of_one_rank_is_told_by_the_others() {
    let job = Job::new();
    // Every rank rejects a world size that hsdp_shard_size does not divide. A rank that cannot write ends the other ranks.
    let over = job.launch(2, "odd", &["parallel.sharding=full", "parallel.hsdp_shard_size=3"], &[], &[]);
    assert_eq!(over.code, 4, "{}", over.said);
    assert!(over.said.contains("does not divide the 2 ranks"), "{}", over.said);
    std::fs::create_dir_all(job.path("runs")).unwrap();
    std::fs::write(job.path("runs/blocked"), "a file").unwrap();
    let over = job.launch(2, "blocked", &[], &[], &[]);
    assert_eq!(over.code, 4, "{}", over.said);
    assert!(over.said.contains("[1] error: ") && over.said.contains("rank 0 failed: "), "{}", over.said);
}

#[test]
fn torchrun_starts_the_ranks_too() {
    let job = Job::new();
    job.alone("alone", &[], &[]).well();
    let torchrun = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin/torchrun");
    assert!(torchrun.is_file(), "run scripts/setup --reference first");
    let mut command = Command::new(torchrun);
    command.args(["--no-python", "--nproc-per-node", "2", "--master-port", "0", "--rdzv-backend", "c10d"]);
    command.args(["--rdzv-endpoint", "localhost:0"]).arg(cargo_bin("xplore"));
    ended(command.args(job.arguments("torchrun", &["parallel.sharding=full"], &[])), &[]).well();
    same(&job.metrics("torchrun"), &job.metrics("alone"), 1e-5);
}

#[test]
fn an_interrupt_reaches_all_ranks_and_leaves_a_checkpoint() {
    let job = Job::new();
    job.alone("alone", &[], &[]).well();
    let mut command = Command::new(cargo_bin("xplore"));
    command.args(["launch", "--nproc", "2", "--"]).args(job.arguments(
        "stopped",
        &["parallel.sharding=optimizer"],
        &[],
    ));
    let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let metrics = job.folder("stopped").join("metrics.jsonl");
    while std::fs::read_to_string(&metrics).is_ok_and(|text| text.lines().count() < 3) || !metrics.is_file() {
        std::thread::sleep(Duration::from_millis(5));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert_eq!(checkpoints(&job.folder("stopped")).len(), 1, "{said}");
    job.launch(2, "stopped", &["parallel.sharding=optimizer"], &["--resume"], &[]).well();
    same(&job.metrics("stopped"), &job.metrics("alone"), 1e-5);
}
