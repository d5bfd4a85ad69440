//! The start of a training run: new, or resumed from its newest checkpoint.

use std::path::{Path, PathBuf};

use distributed::World;
use trainer::{ParallelContext, Run, checkpoints, resume};

use crate::error::Error;

/// Returns the checkpoint in `folder` to resume from, or `None` for a new run, which requires a folder without checkpoints.
///
/// # Errors
/// Returns an error if there is no checkpoint to resume from, or if a new run finds checkpoints.
pub fn checkpoint_to_resume(folder: &Path, resume: bool) -> Result<Option<PathBuf>, Error> {
    if resume {
        return newest(folder).map(Some);
    }
    refuse_older(folder)?;
    Ok(None)
}

/// Opens the run's folder: a new folder, or an existing one with its records up to the checkpoint `from`. Only rank 0 writes to it.
///
/// # Errors
/// Returns an error if the ranks do not agree on `from`, or if the folder cannot be written.
pub fn open_run(
    world: &World,
    folder: &Path,
    resolved: &str,
    from: Option<&Path>,
    tensorboard: bool,
) -> Result<Run, Error> {
    let begins = from.map_or("anew".into(), |from| from.display().to_string());
    world
        .world_group()
        .assert_same_on_all_ranks("the checkpoint to resume from", begins.as_bytes())
        .map_err(trainer::TrainError::from)?;
    if !world.is_rank_zero() {
        return Ok(Run::written_elsewhere(folder));
    }
    let run = match from {
        Some(checkpoint) => Run::go_on(folder, resolved, resume::step_of(checkpoint)?)?,
        None => Run::create(folder, resolved)?,
    };
    Ok(if tensorboard { run.with_tensorboard()? } else { run })
}

/// Runs `work` as one of several ranks. If it fails, the other ranks report the reason.
///
/// # Errors
/// Returns the error of `work`.
pub fn reporting_failure<T>(context: &ParallelContext, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    work().inspect_err(|failure| context.world.report_failure(&failure.to_string()))
}

/// Returns an error if `folder` contains checkpoints: a new run would mix its checkpoints with those of an earlier run.
fn refuse_older(folder: &Path) -> Result<(), Error> {
    match checkpoints::newest(folder)? {
        None => Ok(()),
        Some(there) => Err(Error::usage(format!(
            "{} belongs to an earlier run; resume it with --resume, choose another `name`, or remove its checkpoints",
            there.display()
        ))),
    }
}

/// Returns the newest checkpoint in `folder`, or an error if there is none.
fn newest(folder: &Path) -> Result<PathBuf, Error> {
    checkpoints::newest(folder)?.ok_or_else(|| {
        Error::usage(format!("--resume: no checkpoint in {}; omit --resume to start a new run", folder.display()))
    })
}
