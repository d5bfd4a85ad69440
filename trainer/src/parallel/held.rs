//! What each rank holds between steps, as it is.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::optimizer::Optimizer;
use crate::run::Run;
use crate::trainee::Trainee;
use crate::{Team, TrainError};

/// In the run's folder.
const FILE: &str = "ranks.json";

/// Bytes that a rank holds all the time; what comes together for the time of its use is not among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The rank.
    pub rank: usize,
    /// Where: the device, as libtorch calls it.
    pub device: String,
    /// Parameters, adapters included.
    pub parameters: usize,
    /// Gradients.
    pub gradients: usize,
    /// Moments and master weights.
    pub optimizer: usize,
}

fn bytes(t: &Tensor) -> usize {
    t.numel() * t.kind().elt_size_in_bytes()
}

impl Held {
    /// What this rank holds.
    pub fn now(trainee: &Trainee, optimizer: &Optimizer) -> Self {
        let flat = &trainee.model.decoder.params.flat;
        let beside = if trainee.trains_weights() { 0 } else { bytes(trainee.weights()) };
        Self {
            rank: trainee.team.world.rank(),
            device: format!("{:?}", flat.device()),
            parameters: bytes(flat) + beside,
            gradients: bytes(trainee.gradients()),
            optimizer: optimizer.bytes(),
        }
    }

    /// Writes what all ranks hold into the run's folder. All ranks must call this; alone, nothing is written.
    ///
    /// # Errors
    /// If a rank is gone or the file cannot be written.
    pub fn write(team: &Team, run: &Run, own: Self) -> Result<(), TrainError> {
        if team.world.size() == 1 {
            return Ok(());
        }
        let ranks: Vec<Vec<usize>> = (0..team.world.size()).map(|rank| vec![rank]).collect();
        let all = team.together("what each rank holds", &ranks, vec![own])?;
        if run.writes() {
            write(&run.folder().join(FILE), &all)?;
        }
        Ok(())
    }
}

fn write(path: &Path, all: &[Held]) -> Result<(), TrainError> {
    let failed = |message: String| TrainError::File { path: path.into(), message };
    let text = serde_json::to_string_pretty(all).map_err(|e| failed(e.to_string()))?;
    std::fs::write(path, text + "\n").map_err(|e| failed(format!("cannot write: {e}; free space or permissions")))
}
