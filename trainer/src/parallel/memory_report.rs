//! Memory that each rank actually holds between steps.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::optimizer::Optimizer;
use crate::run::Run;
use crate::trainable_model::TrainableModel;
use crate::{ParallelContext, TrainError};

/// Path within the run folder.
const FILE: &str = "ranks.json";

/// Bytes that a rank holds permanently; temporarily unsharded param units are excluded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryReport {
    /// The rank.
    pub rank: usize,
    /// The device, as libtorch names it.
    pub device: String,
    /// Bytes of parameters, including adapters.
    pub parameters: usize,
    /// Bytes of gradients.
    pub gradients: usize,
    /// Bytes of optimizer state: the moments, plus master weights and the moving average if enabled.
    pub optimizer: usize,
}

fn bytes(t: &Tensor) -> usize {
    t.numel() * t.kind().elt_size_in_bytes()
}

impl MemoryReport {
    /// Returns the memory of this rank.
    pub fn now(trainable: &TrainableModel, optimizer: &Optimizer) -> Self {
        let flat = &trainable.model.decoder.params.flat;
        let beside = if trainable.trains_weights() { 0 } else { bytes(trainable.weights()) };
        Self {
            rank: trainable.context.world.rank(),
            device: format!("{:?}", flat.device()),
            parameters: bytes(flat) + beside,
            gradients: bytes(trainable.gradients()),
            optimizer: optimizer.bytes(),
        }
    }

    /// Writes the memory of all ranks into the run folder. All ranks must call this; a single process writes nothing.
    ///
    /// # Errors
    /// If a rank is lost or the file cannot be written.
    pub fn write(context: &ParallelContext, run: &Run, own: Self) -> Result<(), TrainError> {
        if context.world.size() == 1 {
            return Ok(());
        }
        let ranks: Vec<Vec<usize>> = (0..context.world.size()).map(|rank| vec![rank]).collect();
        let all = context.all_gather_object("gather the memory report", &ranks, vec![own])?;
        if run.writes() {
            write(&run.folder().join(FILE), &all)?;
        }
        Ok(())
    }
}

fn write(path: &Path, all: &[MemoryReport]) -> Result<(), TrainError> {
    let failed = |message: String| TrainError::File { path: path.into(), message };
    let text = serde_json::to_string_pretty(all).map_err(|e| failed(e.to_string()))?;
    std::fs::write(path, text + "\n").map_err(|e| failed(format!("cannot write: {e}; free space or fix permissions")))
}
