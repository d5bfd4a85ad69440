//! What a checkpoint holds beside the model, so that a run goes on from it as if it had never stopped.
//!
//! All draws are functions of seeds and the step, so the step, the optimizer's numbers and the best measurement are
//! enough.

use std::path::Path;

use lm::LmError;
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::optimizer::Optimizer;
use crate::optimizer_file;
use crate::trainee::Trainee;

const FOLDER: &str = "trainer";
const STATE: &str = "state.json";

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reached {
    /// Steps done.
    pub step: u64,
    /// The best of the number that `checkpoint.best` names.
    pub best: Option<f64>,
}

#[derive(Serialize, Deserialize)]
struct State {
    format: u32,
    #[serde(flatten)]
    reached: Reached,
    /// Updates made: steps without those left out.
    updates: u64,
    /// Whether the optimizer's numbers are there.
    optimizer: bool,
}

/// Writes the state into a checkpoint's folder; without an optimizer the run cannot go on from it, and the file says so.
/// Ranks that hold shares of the optimizer's numbers each write theirs.
///
/// # Errors
/// [`LmError::Write`] if it cannot be written.
pub fn write(
    checkpoint: &Path,
    trainee: &Trainee,
    optimizer: Option<&Optimizer>,
    reached: Reached,
) -> Result<(), LmError> {
    let folder = checkpoint.join(FOLDER);
    let at = |path: &Path, e: String| LmError::Write { path: path.into(), message: e };
    std::fs::create_dir_all(&folder).map_err(|e| at(&folder, e.to_string()))?;
    let team = &trainee.team;
    if team.world.leads() {
        let updates = optimizer.map_or(0, |o| o.updates);
        let state = State { format: 1, reached, updates, optimizer: optimizer.is_some() };
        let path = folder.join(STATE);
        let text = serde_json::to_string_pretty(&state).map_err(|e| at(&path, e.to_string()))?;
        std::fs::write(&path, text + "\n").map_err(|e| at(&path, e.to_string()))?;
    }
    let Some(optimizer) = optimizer else { return Ok(()) };
    match trainee.own_numbers() {
        None if team.world.leads() => optimizer_file::write(&folder.join(optimizer_file::WHOLE), optimizer, None),
        // Of replicas of a share, the first writes.
        Some(own) if team.replicas.rank() == 0 => {
            let name = optimizer_file::share(team.shards.rank(), team.shards.size());
            optimizer_file::write(&folder.join(name), optimizer, Some(&own))
        }
        _ => Ok(()),
    }
}

/// The step at which a checkpoint was written.
///
/// # Errors
/// If it says nothing of it.
pub fn step_of(checkpoint: &Path) -> Result<u64, TrainError> {
    Ok(state_of(checkpoint)?.reached.step)
}

fn state_of(checkpoint: &Path) -> Result<State, TrainError> {
    let path = checkpoint.join(FOLDER).join(STATE);
    let at = |message: String| TrainError::Data(format!("{}: {message}", path.display()));
    let text = std::fs::read_to_string(&path)
        .map_err(|e| at(format!("{e}; only checkpoints that a run wrote can be gone on from")))?;
    serde_json::from_str(&text).map_err(|e| at(e.to_string()))
}

/// Takes weights and optimizer back to where the checkpoint was written.
///
/// # Errors
/// If the checkpoint is not complete, or belongs to another model or configuration.
pub fn restore(checkpoint: &Path, trainee: &mut Trainee, optimizer: &mut Optimizer) -> Result<Reached, TrainError> {
    let at = |path: &Path, message: String| TrainError::Data(format!("{}: {message}", path.display()));
    let state = state_of(checkpoint)?;
    if !state.optimizer {
        return Err(at(
            checkpoint,
            "was written with checkpoint.state = false, so the run cannot go on from it".into(),
        ));
    }
    trainee.restore(checkpoint)?;
    optimizer_file::read(&checkpoint.join(FOLDER), trainee.own_numbers(), optimizer)?;
    optimizer.updates = state.updates;
    Ok(state.reached)
}
