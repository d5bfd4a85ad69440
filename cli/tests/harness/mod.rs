//! Runs of `xplore sft` and their output files.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value as Json;

/// A finished run.
pub struct Run {
    /// Folder of the run.
    pub folder: PathBuf,
    /// Lines of metrics.jsonl.
    pub lines: Vec<Json>,
}

impl Run {
    /// Returns the values of a metric, from the lines that have it.
    pub fn column(&self, key: &str) -> Vec<f64> {
        self.lines.iter().filter_map(|line| line[key].as_f64()).collect()
    }

    /// Returns the folder of the newest checkpoint.
    pub fn last(&self) -> PathBuf {
        let steps = fs::read_dir(self.folder.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path());
        steps.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("step-")).max().unwrap()
    }
}

/// Runs `xplore sft` with a configuration in `place` under the run name `name`. Returns the exit code and the output.
pub fn start(place: &Path, name: &str, config: &str, more: &[&str]) -> (i32, String) {
    let file = place.join(format!("{name}.toml"));
    let out = place.join("runs");
    // A given peak saves each run the measurement of the peak.
    let metrics = "metrics = { tensorboard = false, peak_tflops = 1.0 }";
    let head = format!("name = '{name}'\nout = '{}'\nthreads = 1\n{metrics}\n", out.display());
    fs::write(&file, head + config).unwrap();
    let output = Command::cargo_bin("xplore").unwrap().arg("sft").arg("--config").arg(&file).args(more).output();
    let output = output.unwrap();
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), said)
}

/// Returns the run that [`start`] wrote.
pub fn left(place: &Path, name: &str) -> Run {
    let folder = place.join("runs").join(name);
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    Run { folder, lines: text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() }
}

/// Runs `xplore sft`, asserts that it succeeds, and returns the run.
pub fn fit(place: &Path, name: &str, config: &str, more: &[&str]) -> Run {
    let (code, said) = start(place, name, config, more);
    assert_eq!(code, 0, "{name}: {said}");
    left(place, name)
}
