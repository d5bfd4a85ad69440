//! What is finished of a run, so that the same command resumes a stopped ablation.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::plan::PlannedRun;
use crate::error::Error;
use crate::parts;

/// Name of the file that marks a finished run. It is written last, and atomically.
const MARKER: &str = "done.json";

/// The content of the marker.
#[derive(Debug, Serialize, Deserialize)]
pub struct Finished {
    /// Hash of the resolved configurations.
    pub config: String,
    /// Seconds of the evaluation.
    pub eval_seconds: f64,
}

/// What is left of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Training and evaluation.
    All,
    /// The steps after the newest checkpoint, and the evaluation.
    Rest,
    /// The evaluation.
    Evaluation,
}

fn cannot(path: &Path, what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::environment(format!("{}: cannot {what}: {error}", path.display()))
}

/// Returns the marker of a run, if the run is finished.
///
/// # Errors
/// Returns an error if the run was finished with another configuration, or if the marker cannot be read.
pub fn finished(run: &PlannedRun) -> Result<Option<Finished>, Error> {
    let path = run.folder.join(MARKER);
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).map_err(|e| cannot(&path, "read", &e))?;
    let found: Finished = serde_json::from_str(&text)
        .map_err(|e| Error::data(format!("{}: {e}; remove the file to evaluate the run again", path.display())))?;
    if found.config == run.hash()? { Ok(Some(found)) } else { Err(other_config(run)) }
}

/// Checks that the folder of a run holds no run, finished or not, with another configuration.
///
/// # Errors
/// Returns an error if it does, or if a file cannot be read.
pub fn check(run: &PlannedRun) -> Result<(), Error> {
    finished(run)?;
    unwritten(run).map(drop)
}

/// Returns the configuration files that are still to be written, with their texts.
fn unwritten(run: &PlannedRun) -> Result<Vec<(PathBuf, String)>, Error> {
    let mut files = Vec::new();
    for (kind, text) in run.resolved()? {
        let path = run.config_file(kind);
        match fs::read_to_string(&path) {
            Ok(before) if before == text => {}
            Ok(_) if run.folder.exists() => return Err(other_config(run)),
            _ => files.push((path, text)),
        }
    }
    Ok(files)
}

fn other_config(run: &PlannedRun) -> Error {
    Error::usage(format!(
        "{}: this folder holds a run with another configuration; remove it, or choose another `name` of the ablation",
        run.folder.display()
    ))
}

/// Marks a run as finished.
///
/// # Errors
/// Returns an error if the marker cannot be written.
pub fn finish(run: &PlannedRun, eval_seconds: f64) -> Result<(), Error> {
    let marker = Finished { config: run.hash()?, eval_seconds };
    let text = serde_json::to_string(&marker).expect("a string and a number always serialize");
    parts::write(&run.folder.join(MARKER), &(text + "\n"))
}

/// Locks a run for the process that inherits the file. Returns `None` if the process of another invocation holds the lock.
///
/// # Errors
/// Returns an error if the file cannot be created or locked.
pub fn lock(run: &PlannedRun) -> Result<Option<File>, Error> {
    let path = run.lock_file();
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|e| cannot(folder, "create this folder", &e))?;
    }
    let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let file = open.map_err(|e| cannot(&path, "open", &e))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(cannot(&path, "lock", &e)),
    }
}

/// Writes the configurations of a run, and returns what is left of the run. The caller holds its lock.
///
/// # Errors
/// Returns an error if the folder holds a run with another configuration, or if a file cannot be read or written.
pub fn prepare(run: &PlannedRun) -> Result<Left, Error> {
    for (path, text) in unwritten(run)? {
        parts::write(&path, &text)?;
    }
    fs::create_dir_all(&run.folder).map_err(|e| cannot(&run.folder, "create this folder", &e))?;
    let Some(rl) = &run.rl else { return Ok(Left::Evaluation) };
    let checkpoints = run.folder.join("checkpoints");
    match newest_step(&checkpoints)? {
        None => Ok(Left::All),
        Some(step) if step >= rl.train.steps as u64 => Ok(Left::Evaluation),
        Some(_) if rl.checkpoint.state => Ok(Left::Rest),
        // These weights lack the optimizer state, so the run begins anew, and a new run refuses a folder with checkpoints.
        Some(_) => {
            fs::remove_dir_all(&checkpoints).map_err(|e| cannot(&checkpoints, "remove", &e))?;
            Ok(Left::All)
        }
    }
}

fn newest_step(checkpoints: &Path) -> Result<Option<u64>, Error> {
    let newest = trainer::checkpoints::newest(checkpoints)?;
    Ok(newest.and_then(|path| path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()))
}

#[cfg(test)]
mod tests {
    use configs::{EvalConfig, RlConfig};

    use super::*;

    fn run(place: &Path) -> PlannedRun {
        let mut rl = RlConfig { out: place.join("runs/a"), name: "seed-0".into(), ..RlConfig::default() };
        rl.train.steps = 20;
        let folder = rl.folder();
        let (root, eval) = (place.into(), EvalConfig::default());
        PlannedRun { variant: "a".into(), seed: 0, root, folder, rl: Some(rl), eval }
    }

    fn checkpoint(run: &PlannedRun, step: &str) {
        fs::create_dir_all(run.folder.join("checkpoints").join(step)).unwrap();
    }

    #[test]
    fn what_is_left_follows_from_the_newest_checkpoint() {
        let place = tempfile::tempdir().unwrap();
        let mut run = run(place.path());
        assert_eq!(prepare(&run).unwrap(), Left::All);
        checkpoint(&run, "step-000010");
        assert_eq!(prepare(&run).unwrap(), Left::Rest);
        checkpoint(&run, "step-000020");
        assert_eq!(prepare(&run).unwrap(), Left::Evaluation);
        run.rl = None;
        assert_eq!(prepare(&run).unwrap(), Left::Evaluation);
    }

    #[test]
    fn checkpoints_without_state_are_not_resumed() {
        let place = tempfile::tempdir().unwrap();
        let mut run = run(place.path());
        run.rl.as_mut().unwrap().checkpoint.state = false;
        checkpoint(&run, "step-000010");
        assert_eq!(prepare(&run).unwrap(), Left::All);
        assert!(!run.folder.join("checkpoints").exists());
    }

    #[test]
    fn a_run_is_finished_with_its_own_configuration_only() {
        let place = tempfile::tempdir().unwrap();
        let mut run = run(place.path());
        assert!(finished(&run).unwrap().is_none());
        prepare(&run).unwrap();
        finish(&run, 1.5).unwrap();
        assert_eq!(finished(&run).unwrap().unwrap().eval_seconds, 1.5);
        run.eval.max_users = 3;
        for error in [finished(&run).unwrap_err(), check(&run).unwrap_err(), prepare(&run).unwrap_err()] {
            assert!(error.to_string().contains("another configuration; remove it"), "{error}");
        }
    }

    #[test]
    fn an_unfinished_run_with_another_configuration_is_found_by_the_check() {
        let place = tempfile::tempdir().unwrap();
        let mut run = run(place.path());
        check(&run).unwrap();
        prepare(&run).unwrap();
        check(&run).unwrap();
        run.eval.max_users = 3;
        let error = check(&run).unwrap_err().to_string();
        assert!(error.contains("another configuration; remove it"), "{error}");
        fs::remove_dir_all(&run.folder).unwrap();
        check(&run).unwrap();
    }

    #[test]
    fn a_run_is_locked_once() {
        let place = tempfile::tempdir().unwrap();
        let run = run(place.path());
        let held = lock(&run).unwrap();
        assert!(held.is_some() && lock(&run).unwrap().is_none());
        drop(held);
        assert!(lock(&run).unwrap().is_some());
    }
}
