//! The folder of a run: its configuration, metrics and checkpoints.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use lm::{LmError, LocalModel, checkpoint};
use serde_json::{Map, Value as Json};

use crate::TrainError;

/// A run's folder.
#[derive(Debug)]
pub struct Run {
    folder: PathBuf,
    metrics: File,
    before: String,
}

/// A step's numbers, in the order in which they were put.
pub type Metrics = Map<String, Json>;

/// Set when the user asks to stop: the step is finished, a checkpoint written, and the run ends.
pub static STOP: AtomicBool = AtomicBool::new(false);

fn cannot(path: &Path, what: &str, error: &std::io::Error) -> TrainError {
    TrainError::File {
        path: path.into(),
        message: format!("cannot {what}: {error}; free space or permissions, or choose another folder with `out`"),
    }
}

impl Run {
    /// Makes the folder with the resolved configuration in it, and begins metrics.jsonl anew. What an earlier run left
    /// there can be kept with [`Self::keep`].
    ///
    /// # Errors
    /// [`TrainError::File`] if the folder cannot be written.
    pub fn create(folder: &Path, resolved: &str) -> Result<Self, TrainError> {
        std::fs::create_dir_all(folder).map_err(|e| cannot(folder, "make this folder", &e))?;
        let config = folder.join("config.toml");
        std::fs::write(&config, resolved).map_err(|e| cannot(&config, "write", &e))?;
        let path = folder.join("metrics.jsonl");
        let before = if path.is_file() { std::fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
        let metrics = OpenOptions::new().create(true).write(true).truncate(true).open(&path);
        Ok(Self { folder: folder.into(), metrics: metrics.map_err(|e| cannot(&path, "write", &e))?, before })
    }

    /// Writes again the metrics that an earlier run left of a phase whose result is used again.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn keep(&mut self, phase: &str) -> Result<(), TrainError> {
        let of_phase = |line: &&str| {
            serde_json::from_str::<Metrics>(line).is_ok_and(|m| m.get("phase").and_then(Json::as_str) == Some(phase))
        };
        let kept: String = self.before.lines().filter(of_phase).flat_map(|line| [line, "\n"]).collect();
        let path = self.folder.join("metrics.jsonl");
        self.metrics.write_all(kept.as_bytes()).map_err(|e| cannot(&path, "write", &e))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn log(&mut self, metrics: &Metrics) -> Result<(), TrainError> {
        let line = Json::Object(metrics.clone()).to_string() + "\n";
        let path = self.folder.join("metrics.jsonl");
        self.metrics.write_all(line.as_bytes()).map_err(|e| cannot(&path, "write", &e))
    }
}

/// Where one phase of a run reports and what it leaves.
pub struct Output<'a> {
    /// The run.
    pub run: &'a mut Run,
    /// Name of the phase in metrics.jsonl (`sft`, `rl`, `judge`, …).
    pub phase: &'a str,
    /// Folder of this phase's checkpoints inside the run; none are written if absent.
    pub checkpoints: Option<PathBuf>,
    /// Told after each step: step, steps in all, the step's metrics.
    pub progress: &'a mut dyn FnMut(u64, u64, &Metrics),
}

impl std::fmt::Debug for Output<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Output of phase {} in {}", self.phase, self.run.folder.display())
    }
}

impl Output<'_> {
    /// Writes one line of metrics.jsonl and tells the observer.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn step(
        &mut self,
        step: u64,
        steps: u64,
        numbers: impl IntoIterator<Item = (impl Into<String>, f64)>,
    ) -> Result<(), TrainError> {
        let mut metrics = Metrics::new();
        metrics.insert("phase".into(), self.phase.into());
        metrics.insert("step".into(), step.into());
        for (key, value) in numbers {
            // JSON has no NaN; "not measured" is null.
            metrics.insert(key.into(), serde_json::Number::from_f64(value).map_or(Json::Null, Json::Number));
        }
        self.run.log(&metrics)?;
        (self.progress)(step, steps, &metrics);
        Ok(())
    }

    /// Writes a checkpoint where one is due (`every` steps, and at the last), removes those beyond `keep_last` (0 keeps
    /// all), and ends the run if the user asked for it.
    ///
    /// # Errors
    /// If the folder cannot be written; [`TrainError::Interrupted`] after a stop was asked for.
    pub fn checkpoint(
        &self,
        model: &LocalModel,
        (step, steps): (u64, u64),
        config: &configs::checkpoint::CheckpointConfig,
    ) -> Result<(), TrainError> {
        let stop = STOP.load(Ordering::Relaxed);
        let Some(folder) = &self.checkpoints else {
            return if stop { Err(TrainError::Interrupted { step, checkpoint: None }) } else { Ok(()) };
        };
        let every = config.every as u64;
        if !(stop || step == steps || every > 0 && step.is_multiple_of(every)) {
            return Ok(());
        }
        let path = folder.join(format!("step-{step:06}"));
        save(&path, model)?;
        if config.keep_last > 0 {
            remove_all_but(folder, config.keep_last)?;
        }
        if stop && step < steps {
            return Err(TrainError::Interrupted { step, checkpoint: Some(path) });
        }
        Ok(())
    }
}

/// Writes a model folder, complete or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn save(folder: &Path, model: &LocalModel) -> Result<(), TrainError> {
    if let Some(parent) = folder.parent() {
        std::fs::create_dir_all(parent).map_err(|e| cannot(parent, "make this folder", &e))?;
    }
    let nothing_beside = |_: &Path| Ok::<(), LmError>(());
    Ok(checkpoint::save(folder, &model.decoder, &model.tokenizer, nothing_beside)?)
}

fn remove_all_but(folder: &Path, keep: usize) -> Result<(), TrainError> {
    let entries = std::fs::read_dir(folder).map_err(|e| cannot(folder, "list", &e))?;
    let mut steps: Vec<PathBuf> = entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("step-")))
        .collect();
    steps.sort();
    for old in steps.iter().rev().skip(keep) {
        std::fs::remove_dir_all(old).map_err(|e| cannot(old, "remove", &e))?;
    }
    Ok(())
}
