//! Models that are named by the run that trained them: which checkpoint a command uses.

use lm::pretrained;
use xplore::Error;
use xplore::model_paths::{ModelPath, Resolution, resolutions};

use crate::progress;

/// Describes the models that name runs for the plans of `xplore config check` and `xplore rl --dry-run`, one per line: the checkpoint,
/// or why there is none. A checkpoint that does not exist yet is not an error, because a plan may come before it.
pub fn describe(paths: &[ModelPath<'_>]) -> String {
    let line = |model: Resolution| {
        let found = model.found.map_or_else(|e| format!("not available: {e}"), |folder| folder.display().to_string());
        format!("  {:12} {} = {}: {found}\n", "checkpoint", model.key, model.path)
    };
    resolutions(paths).into_iter().map(line).collect()
}

/// Prints the checkpoint that the argument `model` selects if it names a run.
pub fn say(model: &str) -> Result<(), Error> {
    if let Some(checkpoint) = pretrained::run_checkpoint(model)? {
        progress::say(&format!("{model}: {}", checkpoint.display()));
    }
    Ok(())
}
