//! Retention of a run's checkpoints: which are written, and which are kept.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use configs::checkpoint::{Best, CheckpointConfig};
use distributed::World;

use crate::TrainError;
use crate::run::STOP;

/// Symbolic link to the best checkpoint.
const BEST: &str = "best";

/// The checkpoint folder of a run.
#[derive(Debug)]
pub struct Checkpoints<'a> {
    world: World,
    folder: Option<PathBuf>,
    config: &'a CheckpointConfig,
    best: Option<f64>,
}

/// A finished step.
#[derive(Clone, Copy, Debug)]
pub struct Keeping<'a> {
    /// The step number, from 1.
    pub step: u64,
    /// Whether this is the last step.
    pub last: bool,
    /// Whether this is the last step of an epoch.
    pub ends_epoch: bool,
    /// Whether the run pauses after this step, so that a checkpoint is due.
    pub pause: bool,
    /// The metrics of the step.
    pub numbers: &'a [(String, f64)],
}

impl<'a> Checkpoints<'a> {
    /// Returns the checkpoints in `folder`; no checkpoints are written if it is `None`. `best` is the best metric so far. All
    /// ranks of `world` must make the same calls.
    pub fn new(world: World, folder: Option<PathBuf>, config: &'a CheckpointConfig, best: Option<f64>) -> Self {
        Self { world, folder, config, best }
    }

    /// Writes a checkpoint with `save` if one is due, removes checkpoints that are not kept, and ends the run if the user asked
    /// to stop. `save` receives the folder and the best metric so far. Returns the checkpoint, if one was written.
    ///
    /// # Errors
    /// If the folder cannot be written; [`TrainError::Interrupted`] after the user asked to stop.
    pub fn after(
        &mut self,
        done: Keeping<'_>,
        save: impl FnOnce(&Path, Option<f64>) -> Result<(), TrainError>,
    ) -> Result<Option<PathBuf>, TrainError> {
        // A signal reaches the ranks at different times; the reduction makes them stop after the same step.
        let mut asked = [f64::from(u8::from(STOP.load(Ordering::Relaxed)))];
        self.world.world_group().all_reduce_max("check for a stop request", &mut asked)?;
        let stop = asked[0] > 0.0 && !done.last;
        let step = done.step;
        let Some(folder) = self.folder.clone() else {
            return if stop { Err(TrainError::Interrupted { step, checkpoint: None }) } else { Ok(None) };
        };
        let improved = self.improves(done.numbers);
        let every = self.config.every as u64;
        let at_interval = every > 0 && step.is_multiple_of(every) || self.config.every_epoch && done.ends_epoch;
        let due = stop || done.pause || done.last && self.config.at_end || improved || at_interval;
        let path = folder.join(name(step));
        if due {
            std::fs::create_dir_all(&folder).map_err(|e| cannot(&folder, "create this folder", &e))?;
            save(&path, self.best)?;
            if improved && self.world.is_rank_zero() {
                point(&folder, &name(step))?;
            }
            if self.world.is_rank_zero() {
                self.remove_old(&folder)?;
            }
        }
        if stop { Err(TrainError::Interrupted { step, checkpoint: Some(path) }) } else { Ok(due.then_some(path)) }
    }

    /// Returns whether the metrics improve on the best so far, and updates the best.
    fn improves(&mut self, numbers: &[(String, f64)]) -> bool {
        let Some(wanted) = self.config.best else { return false };
        let Some(&(_, value)) = numbers.iter().find(|(key, _)| key == wanted.key()) else { return false };
        let better = match (self.best, wanted) {
            _ if value.is_nan() => false,
            (None, _) => true,
            (Some(best), Best::Loss) => value < best,
            (Some(best), Best::Accuracy) => value > best,
        };
        if better {
            self.best = Some(value);
        }
        better
    }

    fn remove_old(&self, folder: &Path) -> Result<(), TrainError> {
        let best = std::fs::read_link(folder.join(BEST)).ok();
        let steps = all(folder)?;
        let newest = steps.len().saturating_sub(self.config.keep_last.max(1));
        for (step, path) in &steps[..newest] {
            let every = self.config.keep_every as u64;
            let for_good = every > 0 && step.is_multiple_of(every);
            if !for_good && best.as_deref() != Some(Path::new(&name(*step))) {
                std::fs::remove_dir_all(path).map_err(|e| cannot(path, "remove", &e))?;
            }
        }
        Ok(())
    }
}

/// Returns the newest checkpoint in a folder. Checkpoints are renamed into place, so each is complete.
///
/// # Errors
/// If the folder cannot be listed.
pub fn newest(folder: &Path) -> Result<Option<PathBuf>, TrainError> {
    if !folder.is_dir() {
        return Ok(None);
    }
    Ok(all(folder)?.pop().map(|(_, path)| path))
}

fn name(step: u64) -> String {
    format!("step-{step:06}")
}

/// Returns all checkpoints with their steps, oldest first.
fn all(folder: &Path) -> Result<Vec<(u64, PathBuf)>, TrainError> {
    let entries = std::fs::read_dir(folder).map_err(|e| cannot(folder, "list", &e))?;
    let step_of = |path: &Path| path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok();
    let mut found: Vec<(u64, PathBuf)> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter_map(|path| Some((step_of(&path)?, path))).collect();
    found.sort();
    Ok(found)
}

/// Points the link `best` to a checkpoint, atomically.
fn point(folder: &Path, to: &str) -> Result<(), TrainError> {
    let (link, new) = (folder.join(BEST), folder.join(".best.new"));
    let _ = std::fs::remove_file(&new);
    std::os::unix::fs::symlink(to, &new)
        .and_then(|()| std::fs::rename(&new, &link))
        .map_err(|e| cannot(&link, "write", &e))
}

fn cannot(path: &Path, what: &str, error: &std::io::Error) -> TrainError {
    TrainError::File {
        path: path.into(),
        message: format!("cannot {what}: {error}; free space, fix permissions, or choose another folder with `out`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what remains in the folder after ten steps, three per epoch, with loss 2, 1, 0, 1, 2, ….
    fn left(config: &CheckpointConfig) -> (Vec<u64>, Option<PathBuf>) {
        left_after_pause(config, 0)
    }

    /// Returns the same for a run that pauses after step `pause`.
    fn left_after_pause(config: &CheckpointConfig, pause: u64) -> (Vec<u64>, Option<PathBuf>) {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("checkpoints");
        let mut checkpoints = Checkpoints::new(World::single(), Some(folder.clone()), config, None);
        for step in 1..=10u64 {
            let numbers = [("validation/loss".to_owned(), (step as f64 - 3.0).abs())];
            let (last, ends_epoch) = (step == 10, step.is_multiple_of(3));
            let done = Keeping { step, last, ends_epoch, pause: step == pause, numbers: &numbers };
            let save = |path: &Path, _| {
                std::fs::create_dir(path).unwrap();
                Ok(())
            };
            let written = checkpoints.after(done, save).unwrap();
            assert!(step != pause || written.is_some());
        }
        let best = std::fs::read_link(folder.join("best")).ok();
        (all(&folder).unwrap().into_iter().map(|(step, _)| step).collect(), best)
    }

    #[test]
    fn each_key_keeps_what_it_says() {
        let plain = CheckpointConfig { every: 2, keep_last: 2, ..CheckpointConfig::default() };
        assert_eq!(left(&CheckpointConfig::default()), (vec![10], None));
        assert_eq!(left(&plain), (vec![8, 10], None));
        assert_eq!(left(&CheckpointConfig { keep_last: 9, ..plain.clone() }).0, [2, 4, 6, 8, 10]);
        assert_eq!(left(&CheckpointConfig { keep_every: 4, ..plain.clone() }).0, [4, 8, 10]);
        assert_eq!(left(&CheckpointConfig { every: 4, at_end: false, ..plain.clone() }).0, [4, 8]);
        let epochs = CheckpointConfig { every_epoch: true, ..plain.clone() };
        assert_eq!(left(&CheckpointConfig { every: 0, ..epochs.clone() }).0, [9, 10]);
        assert_eq!(left(&CheckpointConfig { keep_last: 9, ..epochs }).0, [2, 3, 4, 6, 8, 9, 10]);
        // A pause writes a checkpoint at any step.
        assert_eq!(left_after_pause(&CheckpointConfig { keep_last: 9, ..plain.clone() }, 7).0, [2, 4, 6, 7, 8, 10]);
        // Steps 1, 2 and 3 each improve on the best; step 3 remains the best.
        let best = CheckpointConfig { best: Some(Best::Loss), ..plain };
        assert_eq!(left(&best), (vec![3, 8, 10], Some("step-000003".into())));
    }
}
