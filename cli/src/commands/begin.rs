//! Where a training run begins: anew, or at its newest checkpoint.

use std::path::{Path, PathBuf};

use dist::World;
use trainer::{Run, Team, checkpoints, resume};

use crate::failure::Failure;

/// The checkpoint in `folder` to go on from; none for a new run, which needs a folder without any.
pub fn where_to_begin(folder: &Path, resume: bool) -> Result<Option<PathBuf>, Failure> {
    if resume {
        return newest(folder).map(Some);
    }
    refuse_older(folder)?;
    Ok(None)
}

/// The run's folder, begun anew, or with what was written up to the checkpoint `from`. Rank 0 writes there.
pub fn opened(
    world: &World,
    folder: &Path,
    resolved: &str,
    from: Option<&Path>,
    tensorboard: bool,
) -> Result<Run, Failure> {
    let begins = from.map_or("anew".into(), |from| from.display().to_string());
    world.everyone().agree("where the run begins", begins.as_bytes()).map_err(trainer::TrainError::from)?;
    if !world.leads() {
        return Ok(Run::written_elsewhere(folder));
    }
    let run = match from {
        Some(checkpoint) => Run::go_on(folder, resolved, resume::step_of(checkpoint)?)?,
        None => Run::create(folder, resolved)?,
    };
    Ok(if tensorboard { run.with_tensorboard()? } else { run })
}

/// Runs `work` as one of several ranks: where it fails, the others are told why.
pub fn telling(team: &Team, work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    work().inspect_err(|failure| team.world.last_words(&failure.to_string()))
}

/// A new run would mix its checkpoints with those of an older one in its place.
fn refuse_older(folder: &Path) -> Result<(), Failure> {
    match checkpoints::newest(folder)? {
        None => Ok(()),
        Some(there) => Err(Failure::usage(format!(
            "{} is of an earlier run; go on from it with --resume, choose another `name`, or remove that folder of checkpoints",
            there.display()
        ))),
    }
}

/// The newest checkpoint of a run, to go on from.
fn newest(folder: &Path) -> Result<PathBuf, Failure> {
    checkpoints::newest(folder)?.ok_or_else(|| {
        Failure::usage(format!("--resume: there is no checkpoint in {}; leave it out to begin anew", folder.display()))
    })
}
