//! The state of the reward in a checkpoint: running statistics of the terms, so that a resumed run has the same rewards.

use std::io::ErrorKind;
use std::path::Path;

use rewards::Composition;

use crate::TrainError;

/// Path within a checkpoint folder, beside the optimizer state.
const FILE: &str = "trainer/reward.json";

/// Writes the state of `composition` into a checkpoint.
///
/// # Errors
/// If it cannot be written.
pub(super) fn write(composition: &Composition, checkpoint: &Path) -> std::io::Result<()> {
    std::fs::write(checkpoint.join(FILE), serde_json::to_string(&composition.save())?)
}

/// Restores the state that [`write()`] wrote.
///
/// # Errors
/// [`TrainError::File`] if it is missing or not readable.
pub(super) fn restore(composition: &Composition, checkpoint: &Path) -> Result<(), TrainError> {
    let path = checkpoint.join(FILE);
    let bad = |message: String| TrainError::File { path: path.clone(), message };
    let text = std::fs::read_to_string(&path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => TrainError::File {
            path: checkpoint.into(),
            message: format!(
                "not a resumable checkpoint ({FILE} is missing); resume from a folder written with checkpoint.state = true"
            ),
        },
        _ => bad(format!("{e}; resume from an earlier checkpoint")),
    })?;
    composition
        .restore(serde_json::from_str(&text).map_err(|e| bad(format!("{e}; resume from an earlier checkpoint")))?);
    Ok(())
}
