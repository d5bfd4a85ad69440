//! State of a checkpoint besides the model, from which a run resumes exactly.
//!
//! All random numbers are functions of seeds and the step, so the step, the optimizer state and the best metric suffice.

use std::path::Path;

use lm::LmError;
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::optimizer::Optimizer;
use crate::optimizer_file;
use crate::trainable_model::TrainableModel;

const FOLDER: &str = "trainer";
const STATE: &str = "state.json";

/// The progress of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainProgress {
    /// The number of finished steps.
    pub step: u64,
    /// The best value so far of the metric in `checkpoint.best`.
    pub best: Option<f64>,
}

#[derive(Serialize, Deserialize)]
struct TrainerState {
    format: u32,
    #[serde(flatten)]
    progress: TrainProgress,
    /// The number of updates made, without skipped ones.
    updates: u64,
    /// The number of skipped updates since the last one that was made.
    #[serde(default)]
    skips_in_a_row: usize,
    /// Whether the checkpoint contains the optimizer state.
    optimizer: bool,
}

/// Writes the state into a checkpoint folder. Without an optimizer the checkpoint is not resumable, and the state file records
/// this. Ranks that hold shards of the optimizer state each write their own.
///
/// # Errors
/// [`LmError::Write`] if it cannot be written.
pub fn write(
    checkpoint: &Path,
    trainable: &TrainableModel,
    optimizer: Option<&Optimizer>,
    progress: TrainProgress,
) -> Result<(), LmError> {
    let folder = checkpoint.join(FOLDER);
    let at = |path: &Path, e: String| LmError::Write { path: path.into(), message: e };
    std::fs::create_dir_all(&folder).map_err(|e| at(&folder, e.to_string()))?;
    let context = &trainable.context;
    if context.world.is_rank_zero() {
        let (updates, skips_in_a_row) = optimizer.map_or((0, 0), |o| (o.updates, o.skips_in_a_row));
        let state = TrainerState { format: 1, progress, updates, skips_in_a_row, optimizer: optimizer.is_some() };
        let path = folder.join(STATE);
        let text = serde_json::to_string_pretty(&state).map_err(|e| at(&path, e.to_string()))?;
        std::fs::write(&path, text + "\n").map_err(|e| at(&path, e.to_string()))?;
    }
    let Some(optimizer) = optimizer else { return Ok(()) };
    match trainable.own_elements() {
        None if context.world.is_rank_zero() => {
            optimizer_file::write(&folder.join(optimizer_file::WHOLE), optimizer, None)
        }
        // Of the replicas of a shard, the first one writes.
        Some(own) if context.replicas.rank() == 0 => {
            let name = optimizer_file::share(context.shards.rank(), context.shards.size());
            optimizer_file::write(&folder.join(name), optimizer, Some(&own))
        }
        _ => Ok(()),
    }
}

/// Returns the step at which a checkpoint was written.
///
/// # Errors
/// If the checkpoint does not record it.
pub fn step_of(checkpoint: &Path) -> Result<u64, TrainError> {
    Ok(state_of(checkpoint)?.progress.step)
}

fn state_of(checkpoint: &Path) -> Result<TrainerState, TrainError> {
    let path = checkpoint.join(FOLDER).join(STATE);
    let at = |message: String| TrainError::Data(format!("{}: {message}", path.display()));
    let text = std::fs::read_to_string(&path).map_err(|e| {
        at(format!(
            "{e}; not a resumable checkpoint; resume from a folder that a run wrote with checkpoint.state = true"
        ))
    })?;
    serde_json::from_str(&text).map_err(|e| at(e.to_string()))
}

/// Restores weights and optimizer state from a checkpoint.
///
/// # Errors
/// If the checkpoint is incomplete, or belongs to another model or configuration.
pub fn restore(
    checkpoint: &Path,
    trainable: &mut TrainableModel,
    optimizer: &mut Optimizer,
) -> Result<TrainProgress, TrainError> {
    let at = |path: &Path, message: String| TrainError::Data(format!("{}: {message}", path.display()));
    let state = state_of(checkpoint)?;
    if !state.optimizer {
        return Err(at(
            checkpoint,
            "was written with checkpoint.state = false, so the run cannot be resumed from it".into(),
        ));
    }
    trainable.restore(checkpoint)?;
    optimizer_file::read(&checkpoint.join(FOLDER), trainable.own_elements(), optimizer)?;
    optimizer.updates = state.updates;
    optimizer.skips_in_a_row = state.skips_in_a_row;
    Ok(state.progress)
}

#[cfg(test)]
mod tests {
    use chat::tokenizer::Tokenizer;
    use configs::model::{Device, Dtype, ModelShape};
    use configs::optimizer::OptimizerConfig;

    use super::*;
    use crate::start;

    #[test]
    fn the_count_of_consecutive_skips_survives() {
        let config = OptimizerConfig::default();
        let new = || {
            let tokenizer = Tokenizer::train(["space"].into_iter(), 300).unwrap();
            let shape = ModelShape { layers: 1, ..ModelShape::default() };
            let model = start::random("new", &shape, tokenizer, 1, (Device::Cpu, Dtype::Fp32)).unwrap();
            let trainable = TrainableModel::new(model, None, &config).unwrap();
            let optimizer = trainable.optimizer(&config).unwrap();
            (trainable, optimizer)
        };
        let folder = tempfile::tempdir().unwrap();
        let (trainable, mut optimizer) = new();
        (optimizer.updates, optimizer.skips_in_a_row) = (5, 2);
        let progress = TrainProgress { step: 7, best: None };
        trainable.save(folder.path(), |inside| write(inside, &trainable, Some(&optimizer), progress)).unwrap();
        let (mut trainable, mut optimizer) = new();
        assert_eq!(restore(folder.path(), &mut trainable, &mut optimizer).unwrap(), progress);
        assert_eq!((optimizer.updates, optimizer.skips_in_a_row), (5, 2));
    }
}
