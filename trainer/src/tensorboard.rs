//! TensorBoard event files of the metrics in metrics.jsonl.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message;
use serde_json::Value as Json;

use crate::TrainError;
use crate::metrics::Metrics;

/// `Event` of TensorBoard's `event.proto`: the first record holds the file version, the other records hold scalars.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Scalars>,
}

/// `Summary` of `summary.proto`.
#[derive(Clone, PartialEq, Message)]
struct Scalars {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

/// `Summary.Value` of `summary.proto`.
#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// Returns the masked CRC-32C of TensorFlow's `record_writer.h`: rotated by 15 bits, plus a constant.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// Encodes one record: length, checksum of the length, event, checksum of the event.
fn record(event: &Event) -> Vec<u8> {
    let body = event.encode_to_vec();
    let length = (body.len() as u64).to_le_bytes();
    [&length[..], &checksum(&length), &body, &checksum(&body)].concat()
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// An event file.
pub struct Board {
    path: PathBuf,
    file: File,
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Board {}", self.path.display())
    }
}

impl Board {
    /// Creates a new file in a run folder. Files of earlier starts remain, and TensorBoard reads them in sequence.
    ///
    /// # Errors
    /// [`TrainError::File`] if it cannot be written.
    pub fn create(folder: &Path) -> Result<Self, TrainError> {
        let name = format!("events.out.tfevents.{}.xplore.{}", now().as_secs(), std::process::id());
        let path = folder.join(name);
        let mut board =
            File::create(&path).map(|file| Self { path: path.clone(), file }).map_err(|e| cannot(&path, &e))?;
        board.append(Event { file_version: Some("brain.Event:2".into()), ..Event::default() })?;
        Ok(board)
    }

    /// Writes one scalar per metric, tagged with the phase and the metric's name.
    ///
    /// # Errors
    /// [`TrainError::File`] if it cannot be written.
    pub fn write(&mut self, metrics: &Metrics) -> Result<(), TrainError> {
        let step = metrics.get("step").and_then(Json::as_i64).unwrap_or(0);
        let phase = metrics.get("phase").and_then(Json::as_str).unwrap_or_default();
        let numbers = metrics.iter().filter(|(key, _)| *key != "step");
        let value = numbers
            .filter_map(|(key, value)| {
                Some(Scalar { tag: format!("{phase}/{key}"), simple_value: Some(value.as_f64()? as f32) })
            })
            .collect();
        self.append(Event { step, summary: Some(Scalars { value }), ..Event::default() })
    }

    fn append(&mut self, mut event: Event) -> Result<(), TrainError> {
        event.wall_time = now().as_secs_f64();
        self.file.write_all(&record(&event)).map_err(|e| cannot(&self.path, &e))
    }
}

fn cannot(path: &Path, e: &std::io::Error) -> TrainError {
    TrainError::File {
        path: path.to_path_buf(),
        message: format!("cannot write: {e}; free space, or set metrics.tensorboard = false"),
    }
}
