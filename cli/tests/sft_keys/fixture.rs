//! A small model and rows, and runs on them with a few overrides.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use fixtures::rows::row;
use fixtures::sft_runs::{SftRun, fit, try_fit};
use fixtures::tiny_model;
use tch::Tensor;
use tolerance::assert_within;

/// Number of training rows.
pub const ROWS: usize = 24;

/// The model and the rows.
pub struct Bench {
    place: tempfile::TempDir,
    /// Folder of the model.
    pub model: PathBuf,
    config: String,
}

impl Bench {
    /// Creates the model and the rows. The runs have 8 steps of 4 rows at a constant learning rate of 1e-3.
    pub fn new() -> Self {
        let (place, model) = tiny_model::folder();
        let rows = place.path().join("rows.jsonl");
        fs::write(&rows, (0..ROWS).map(|i| row(i) + "\n").collect::<String>()).unwrap();
        let config = format!(
            "[model]\npath = '{}'\ndtype = 'fp32'\ndevice = 'cpu'\n[data]\ntrain = '{}'\n[train]\nmax_steps = 8\n\
             batch_size = 4\n[optimizer]\nlr = 1e-3\nschedule = 'constant'\nwarmup_ratio = 0.0\n",
            model.display(),
            rows.display()
        );
        Self { place, model, config }
    }

    /// Returns a path in the fixture's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Runs with the overrides `set`, e.g. `train.max_steps=1`.
    pub fn fit(&self, name: &str, set: &[&str]) -> SftRun {
        fit(self.place.path(), name, &self.config, &sets(set))
    }

    /// Same as [`Self::fit`], but the run may fail. `more` holds other arguments. Returns the exit code and the output.
    pub fn start(&self, name: &str, set: &[&str], more: &[&str]) -> (i32, String) {
        try_fit(self.place.path(), name, &self.config, &[sets(set), more.to_vec()].concat())
    }

    /// Returns the output of `xplore config check` for a run.
    pub fn check(&self, set: &[&str]) -> String {
        let file = self.path("checked.toml");
        fs::write(&file, &self.config).unwrap();
        let cache = format!("data.cache='{}'", self.path("checked-cache").display());
        let mut command = assert_cmd::Command::cargo_bin("xplore").unwrap();
        command.args(["config", "check", "--kind", "sft"]).arg(&file).args(sets(set)).args(["--set", &cache]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

fn sets<'a>(set: &[&'a str]) -> Vec<&'a str> {
    set.iter().flat_map(|set| ["--set", *set]).collect()
}

/// Loads the tensors of a file.
pub fn tensors(file: &Path) -> HashMap<String, Tensor> {
    Tensor::read_safetensors(file).unwrap().into_iter().collect()
}

/// Loads the tensors of the model in a folder.
pub fn weights(folder: &Path) -> HashMap<String, Tensor> {
    tensors(&folder.join("model.safetensors"))
}

/// Asserts that two columns agree to 1e-6.
#[track_caller]
pub fn same(a: &[f64], b: &[f64]) {
    assert_eq!(a.len(), b.len(), "{a:?}\nis not\n{b:?}");
    for (x, y) in a.iter().zip(b) {
        assert_within!(x - y, 1e-6 * y.abs(), "{a:?}\nis not\n{b:?}");
    }
}
