//! The folder of a run: configuration, metrics and checkpoints.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde_json::Value as Json;

use crate::TrainError;
use crate::metrics::Metrics;
use crate::tensorboard::Board;

/// The folder of a run.
#[derive(Debug)]
pub struct Run {
    folder: PathBuf,
    /// `None` if another rank writes.
    metrics: Option<File>,
    before: String,
    board: Option<Board>,
}

/// Set when the user asks to stop: the current step finishes, a checkpoint is written, and the run ends.
pub static STOP: AtomicBool = AtomicBool::new(false);

fn cannot(path: &Path, what: &str, error: &std::io::Error) -> TrainError {
    TrainError::File {
        path: path.into(),
        message: format!("cannot {what}: {error}; free space, fix permissions, or choose another folder with `out`"),
    }
}

/// Returns the lines of metrics.jsonl that are `wanted`.
fn lines_of(text: &str, wanted: impl Fn(&Metrics) -> bool) -> String {
    let kept = text.lines().filter(|line| serde_json::from_str::<Metrics>(line).is_ok_and(|metrics| wanted(&metrics)));
    kept.flat_map(|line| [line, "\n"]).collect()
}

impl Run {
    /// Creates the folder, writes the resolved configuration into it, and truncates metrics.jsonl. [`Self::keep`] restores
    /// metrics of an earlier run in the folder.
    ///
    /// # Errors
    /// [`TrainError::File`] if the folder cannot be written.
    pub fn create(folder: &Path, resolved: &str) -> Result<Self, TrainError> {
        std::fs::create_dir_all(folder).map_err(|e| cannot(folder, "create this folder", &e))?;
        let config = folder.join("config.toml");
        std::fs::write(&config, resolved).map_err(|e| cannot(&config, "write", &e))?;
        let path = folder.join("metrics.jsonl");
        let before = if path.is_file() { std::fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
        // Append mode, so that phases that train in parallel do not overwrite each other's lines.
        let metrics = File::create(&path).and_then(|_| OpenOptions::new().append(true).open(&path));
        let metrics = metrics.map_err(|e| cannot(&path, "write", &e))?;
        Ok(Self { folder: folder.into(), metrics: Some(metrics), before, board: None })
    }

    /// Reopens the folder of a run. Keeps the lines of metrics.jsonl up to `step` and removes later ones.
    ///
    /// # Errors
    /// [`TrainError::File`] if the folder cannot be written.
    pub fn go_on(folder: &Path, resolved: &str, step: u64) -> Result<Self, TrainError> {
        let path = folder.join("metrics.jsonl");
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        let kept = lines_of(&before, |metrics| metrics.get("step").and_then(Json::as_u64).is_some_and(|s| s <= step));
        // Atomically, so that a crash here loses no lines.
        files::replace(&path, |out| out.write_all(kept.as_bytes())).map_err(|e| cannot(&path, "write", &e))?;
        let config = folder.join("config.toml");
        std::fs::write(&config, resolved).map_err(|e| cannot(&config, "write", &e))?;
        let metrics = OpenOptions::new().append(true).open(&path).map_err(|e| cannot(&path, "write", &e))?;
        Ok(Self { folder: folder.into(), metrics: Some(metrics), before: String::new(), board: None })
    }

    /// Returns the folder as seen by a rank that writes nothing to it.
    pub fn written_elsewhere(folder: &Path) -> Self {
        Self { folder: folder.into(), metrics: None, before: String::new(), board: None }
    }

    /// Returns a second handle on the run, for a phase that trains in parallel: both append to metrics.jsonl, line by line. The
    /// clone writes no TensorBoard events: an event file has one writer.
    ///
    /// # Errors
    /// [`TrainError::File`] if metrics.jsonl cannot be opened.
    pub fn try_clone(&self) -> Result<Self, TrainError> {
        let path = self.folder.join("metrics.jsonl");
        let open = || OpenOptions::new().append(true).open(&path).map_err(|e| cannot(&path, "write", &e));
        let metrics = self.metrics.as_ref().map(|_| open()).transpose()?;
        Ok(Self { folder: self.folder.clone(), metrics, before: self.before.clone(), board: None })
    }

    /// Returns whether this process writes the run's files.
    pub fn writes(&self) -> bool {
        self.metrics.is_some()
    }

    /// Also writes the metrics of each step for TensorBoard.
    ///
    /// # Errors
    /// [`TrainError::File`] if the event file cannot be written.
    pub fn with_tensorboard(mut self) -> Result<Self, TrainError> {
        self.board = Some(Board::create(&self.folder)?);
        Ok(self)
    }

    /// Restores the metrics that an earlier run logged in a phase whose result is reused.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn keep(&mut self, phase: &str) -> Result<(), TrainError> {
        let kept = lines_of(&self.before, |metrics| metrics.get("phase").and_then(Json::as_str) == Some(phase));
        let path = self.folder.join("metrics.jsonl");
        let Some(metrics) = &mut self.metrics else { return Ok(()) };
        metrics.write_all(kept.as_bytes()).map_err(|e| cannot(&path, "write", &e))
    }

    /// Returns the folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn log(&mut self, metrics: &Metrics) -> Result<(), TrainError> {
        let line = Json::Object(metrics.clone()).to_string() + "\n";
        let path = self.folder.join("metrics.jsonl");
        let Some(file) = &mut self.metrics else { return Ok(()) };
        file.write_all(line.as_bytes()).map_err(|e| cannot(&path, "write", &e))?;
        self.board.as_mut().map_or(Ok(()), |board| board.write(metrics))
    }
}

/// Output of one phase of a run.
pub struct Output<'a> {
    /// The run.
    pub run: &'a mut Run,
    /// Name of the phase in metrics.jsonl (`sft`, `rl`, `judge`, …).
    pub phase: &'a str,
    /// Folder of this phase's checkpoints inside the run; `None` writes no checkpoints.
    pub checkpoints: Option<PathBuf>,
    /// Callback after each step, with the step, the total number of steps, and the metrics of the step.
    pub progress: &'a mut dyn FnMut(u64, u64, &Metrics),
}

impl std::fmt::Debug for Output<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Output of phase {} in {}", self.phase, self.run.folder.display())
    }
}

impl Output<'_> {
    /// Appends one line to metrics.jsonl and calls the progress callback.
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
            // JSON has no NaN; a metric that was not measured is null.
            metrics.insert(key.into(), serde_json::Number::from_f64(value).map_or(Json::Null, Json::Number));
        }
        self.run.log(&metrics)?;
        if self.run.writes() {
            (self.progress)(step, steps, &metrics);
        }
        Ok(())
    }
}
