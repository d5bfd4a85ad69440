//! Runs of `xplore sft` and what they leave.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value as Json;

/// A run that is over.
pub struct Run {
    /// Its folder.
    pub folder: PathBuf,
    /// The lines of metrics.jsonl.
    pub lines: Vec<Json>,
}

impl Run {
    /// One number of each line that has it.
    pub fn column(&self, key: &str) -> Vec<f64> {
        self.lines.iter().filter_map(|line| line[key].as_f64()).collect()
    }

    /// The newest checkpoint's folder.
    pub fn last(&self) -> PathBuf {
        let steps = fs::read_dir(self.folder.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path());
        steps.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("step-")).max().unwrap()
    }
}

/// `xplore sft` on a configuration in `place`, whose run is called `name`: exit code, and what it said.
pub fn start(place: &Path, name: &str, config: &str, more: &[&str]) -> (i32, String) {
    let file = place.join(format!("{name}.toml"));
    let out = place.join("runs");
    // A given peak spares each run the measuring of it.
    let metrics = "metrics = { tensorboard = false, peak_tflops = 1.0 }";
    let head = format!("name = '{name}'\nout = '{}'\nthreads = 1\n{metrics}\n", out.display());
    fs::write(&file, head + config).unwrap();
    let output = Command::cargo_bin("xplore").unwrap().arg("sft").arg("--config").arg(&file).args(more).output();
    let output = output.unwrap();
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), said)
}

/// The run that [`start`] left.
pub fn left(place: &Path, name: &str) -> Run {
    let folder = place.join("runs").join(name);
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    Run { folder, lines: text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() }
}

/// A run that must succeed.
pub fn fit(place: &Path, name: &str, config: &str, more: &[&str]) -> Run {
    let (code, said) = start(place, name, config, more);
    assert_eq!(code, 0, "{name}: {said}");
    left(place, name)
}
