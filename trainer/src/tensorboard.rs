//! The numbers of metrics.jsonl as TensorBoard reads them.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use tfrecord::{EventWriter, EventWriterConfig};

use crate::TrainError;
use crate::run::Metrics;

/// An event file.
pub struct Board {
    path: PathBuf,
    writer: EventWriter<BufWriter<File>>,
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Board {}", self.path.display())
    }
}

impl Board {
    /// A new file in a run's folder; those of earlier starts stay, and TensorBoard reads them one after the other.
    ///
    /// # Errors
    /// [`TrainError::File`] if it cannot be written.
    pub fn create(folder: &Path) -> Result<Self, TrainError> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.as_secs());
        let path = folder.join(format!("events.out.tfevents.{now}.xplore.{}", std::process::id()));
        let cannot = |e: &dyn std::fmt::Display| TrainError::File {
            path: path.clone(),
            message: format!("cannot write: {e}; free space, or set metrics.tensorboard = false"),
        };
        let file = File::create(&path).map_err(|e| cannot(&e))?;
        let writer =
            EventWriter::from_writer(BufWriter::new(file), EventWriterConfig::default()).map_err(|e| cannot(&e))?;
        Ok(Self { writer, path })
    }

    /// One scalar for each number, under its own name.
    ///
    /// # Errors
    /// [`TrainError::File`] if it cannot be written.
    pub fn write(&mut self, metrics: &Metrics) -> Result<(), TrainError> {
        let step = metrics.get("step").and_then(Json::as_i64).unwrap_or(0);
        let phase = metrics.get("phase").and_then(Json::as_str).unwrap_or_default();
        let numbers = metrics.iter().filter(|(key, _)| *key != "step");
        let written = numbers
            .filter_map(|(key, value)| Some((key, value.as_f64()?)))
            .try_for_each(|(key, value)| self.writer.write_scalar(format!("{phase}/{key}"), step, value as f32));
        written.and_then(|()| self.writer.flush()).map_err(|e| TrainError::File {
            path: self.path.clone(),
            message: format!("cannot write: {e}; free space, or set metrics.tensorboard = false"),
        })
    }
}
