//! A small model and rows, and training jobs on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use fixtures::rows::row;
use fixtures::tiny_model;
use serde_json::Value as Json;
use tolerance::assert_within;

/// The model and the rows.
pub struct Job {
    place: tempfile::TempDir,
    pub model: PathBuf,
}

/// The result of a job.
pub struct Ended {
    /// Exit code of the job; 1 if it has none.
    pub code: i32,
    /// Output of the job.
    pub said: String,
    /// Duration of the job.
    pub took: Duration,
}

/// Environment variables of a process.
pub type Environment<'a> = &'a [(&'a str, &'a str)];

impl Job {
    /// Creates the model and the rows. The runs have 20 steps of 6 rows, in several micro-batches.
    pub fn new() -> Self {
        let (place, model) = tiny_model::folder();
        fs::write(place.path().join("rows.jsonl"), (0..60).map(|i| row(i) + "\n").collect::<String>()).unwrap();
        Self { place, model }
    }

    /// Returns a path in the job's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Returns the folder of a run.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.path("runs").join(name)
    }

    /// Returns the arguments of a run with the overrides `set`.
    pub fn arguments(&self, name: &str, set: &[&str], more: &[&str]) -> Vec<String> {
        let file = self.path(&format!("{name}.toml"));
        let text = format!(
            "name = '{name}'\nout = '{}'\nthreads = 1\nmetrics = {{ tensorboard = false, peak_tflops = 1.0 }}\n[model]\n\
             path = '{}'\ndtype = 'fp32'\ndevice = 'cpu'\n[data]\ntrain = '{}'\nvalidation_share = 0.2\n[train]\n\
             epochs = 9\nmax_steps = 20\nbatch_size = 6\nmicro_batch_tokens = 40\n[validation]\nevery = 10\n\
             [optimizer]\nlr = 1e-3\nweight_decay = 0.1\n[parallel]\ntimeout_seconds = 30\n",
            self.path("runs").display(),
            self.model.display(),
            self.path("rows.jsonl").display()
        );
        fs::write(&file, text).unwrap();
        let set = set.iter().flat_map(|set| ["--set", *set]);
        ["sft", "--config", file.to_str().unwrap()]
            .into_iter()
            .chain(set)
            .chain(more.iter().copied())
            .map(str::to_owned)
            .collect()
    }

    /// Runs a single process.
    pub fn alone(&self, name: &str, set: &[&str], more: &[&str]) -> Ended {
        ended(Command::new(cargo_bin("xplore")).args(self.arguments(name, set, more)), &[])
    }

    /// Same as [`Self::alone`], with `ranks` ranks.
    pub fn launch(&self, ranks: usize, name: &str, set: &[&str], more: &[&str], environment: Environment<'_>) -> Ended {
        let mut command = Command::new(cargo_bin("xplore"));
        command.args(["launch", "--nproc", &ranks.to_string(), "--"]).args(self.arguments(name, set, more));
        ended(&mut command, environment)
    }

    /// Returns the metrics of a run, one value per line.
    pub fn metrics(&self, name: &str) -> Vec<Json> {
        let text = fs::read_to_string(self.folder(name).join("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Runs a command and waits until it exits.
pub fn ended(command: &mut Command, environment: Environment<'_>) -> Ended {
    let begin = Instant::now();
    let output = command.envs(environment.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ended { code: output.status.code().unwrap_or(1), said, took: begin.elapsed() }
}

impl Ended {
    /// Asserts that the job succeeded.
    pub fn well(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.said);
        self
    }
}

/// Asserts that the metrics of each step agree to a relative tolerance of `within`.
#[track_caller]
pub fn same(found: &[Json], expected: &[Json], within: f64) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found["step"], expected["step"]);
        for key in ["loss", "grad_norm", "validation/loss", "tokens", "sequences"] {
            let (Some(a), Some(b)) = (found[key].as_f64(), expected[key].as_f64()) else {
                assert_eq!(found[key].is_null(), expected[key].is_null(), "{key}");
                continue;
            };
            assert_within!(a - b, within * b.abs(), "step {}: {key} is {a}, expected {b}", found["step"]);
        }
    }
}

/// Returns the names of the checkpoints in a run's folder.
pub fn checkpoints(run: &Path) -> Vec<String> {
    let entries = fs::read_dir(run.join("checkpoints")).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.starts_with("step-"));
    names.sort();
    names
}
