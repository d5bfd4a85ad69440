//! The loop of a training run: restore, validate, step, log, checkpoint. Fine-tuning and GRPO plug their steps into it.

use std::path::Path;

use configs::validation::ValidationConfig;
use configs::{CheckpointConfig, OptimizerConfig};
use lm::LmError;

use crate::checkpoints::{Checkpoints, Keeping};
use crate::optimizer::Optimizer;
use crate::parallel::memory_report::MemoryReport;
use crate::resume::{self, TrainProgress};
use crate::trainable_model::{Measure, TrainableModel};
use crate::{Output, TrainError};

/// Metrics by name, in the order of the log.
pub(crate) type Numbers = Vec<(String, f64)>;

/// What a training algorithm contributes to the loop.
pub(crate) trait Algorithm {
    /// Makes step `step`, counted from 0, and returns its metrics.
    fn step(
        &mut self,
        trainable: &mut TrainableModel,
        optimizer: &mut Optimizer,
        step: u64,
    ) -> Result<Numbers, TrainError>;

    /// Returns the validation metrics of the algorithm itself after `done` steps. Default: none.
    fn validate(&mut self, _trainable: &TrainableModel, _done: u64) -> Result<Numbers, TrainError> {
        Ok(Numbers::new())
    }

    /// Returns why the run has to end after the step that was validated last; the same on all ranks. Default: it does not.
    fn halt(&mut self) -> Option<Halt> {
        None
    }

    /// Writes further records of the step that was logged last; `done` steps are finished. Default: none.
    fn record(&mut self, _trainable: &TrainableModel, _done: u64, _output: &Output<'_>) -> Result<(), TrainError> {
        Ok(())
    }

    /// Returns whether the last of `done` steps is the last of an epoch. Default: no step is.
    fn ends_epoch(&self, _done: u64) -> bool {
        false
    }

    /// Writes the algorithm's own state into a checkpoint. Default: it has none.
    fn write_state(&self, _checkpoint: &Path) -> Result<(), LmError> {
        Ok(())
    }

    /// Restores what [`Self::write_state`] wrote.
    fn restore_state(&mut self, _checkpoint: &Path) -> Result<(), TrainError> {
        Ok(())
    }
}

/// Why a run ends before its last step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Halt {
    /// The reason, for the user.
    pub reason: String,
    /// Whether a checkpoint is written, so that the run can be resumed.
    pub checkpoint: bool,
}

/// The settings of the loop.
pub(crate) struct TrainLoop<'a> {
    /// The number of steps of the whole run.
    pub steps: u64,
    /// The optimizer.
    pub optimizer: &'a OptimizerConfig,
    /// When to validate.
    pub validation: &'a ValidationConfig,
    /// Which checkpoints are written and kept.
    pub checkpoint: &'a CheckpointConfig,
    /// The checkpoint to resume from.
    pub from: Option<&'a Path>,
}

impl TrainLoop<'_> {
    /// Runs the steps that are left. `measure` adds to the validation.
    ///
    /// # Errors
    /// Those of the algorithm; if a file cannot be read or written; [`TrainError::Interrupted`] after the user asked to stop;
    /// [`TrainError::Alarm`] if the algorithm halts the run.
    pub fn run(
        &self,
        trainable: &mut TrainableModel,
        algorithm: &mut impl Algorithm,
        mut measure: Option<&mut Measure<'_>>,
        output: &mut Output<'_>,
    ) -> Result<(), TrainError> {
        let mut optimizer = trainable.optimizer(self.optimizer)?;
        MemoryReport::write(&trainable.context, output.run, MemoryReport::now(trainable, &optimizer))?;
        let progress = match self.from {
            Some(checkpoint) => {
                let progress = resume::restore(checkpoint, trainable, &mut optimizer)?;
                algorithm.restore_state(checkpoint)?;
                tracing::debug!("resumed from {} after step {}", checkpoint.display(), progress.step);
                progress
            }
            None => TrainProgress::default(),
        };
        let mut checkpoints = Checkpoints::new(
            trainable.context.world.clone(),
            output.checkpoints.clone(),
            self.checkpoint,
            progress.best,
        );
        if progress.step == 0 && self.validation.at_start {
            let numbers = validate(trainable, algorithm, measure.as_deref_mut(), 0)?;
            output.step(0, self.steps, numbers)?;
        }
        for step in progress.step..self.steps {
            let done = step + 1;
            let mut numbers = algorithm.step(trainable, &mut optimizer, step)?;
            if done == self.steps {
                trainable.apply_ema(&optimizer)?;
            }
            if self.validates_after(done) {
                numbers.extend(validate(trainable, algorithm, measure.as_deref_mut(), done)?);
            }
            output.step(done, self.steps, numbers.clone())?;
            algorithm.record(trainable, done, output)?;
            let (last, ends_epoch) = (done == self.steps, algorithm.ends_epoch(done));
            let halt = algorithm.halt();
            let pause = halt.as_ref().is_some_and(|halt| halt.checkpoint);
            let keeping = Keeping { step: done, last, ends_epoch, pause, numbers: &numbers };
            let written = checkpoints.after(keeping, |folder, best| {
                let state = self.checkpoint.state.then_some(&optimizer);
                trainable.save(folder, |inside| {
                    resume::write(inside, trainable, state, TrainProgress { step: done, best })?;
                    if trainable.context.world.is_rank_zero() { algorithm.write_state(inside) } else { Ok(()) }
                })?;
                tracing::debug!("wrote {}", folder.display());
                Ok(())
            });
            if let Some(Halt { reason, .. }) = halt {
                // The checkpoint no longer has the looks that raised the alarm, so a request to stop must not hide it.
                let checkpoint = match written {
                    Ok(checkpoint) | Err(TrainError::Interrupted { checkpoint, .. }) => checkpoint,
                    Err(e) => return Err(e),
                };
                return Err(TrainError::Alarm { reason, checkpoint: checkpoint.filter(|_| pause) });
            }
            written?;
        }
        Ok(())
    }

    fn validates_after(&self, done: u64) -> bool {
        let every = self.validation.every as u64;
        every > 0 && (done.is_multiple_of(every) || done == self.steps)
    }
}

fn validate(
    trainable: &TrainableModel,
    algorithm: &mut impl Algorithm,
    measure: Option<&mut Measure<'_>>,
    done: u64,
) -> Result<Numbers, TrainError> {
    let mut numbers = algorithm.validate(trainable, done)?;
    if let Some(measure) = measure {
        numbers.extend(trainable.measured_by(measure)?);
    }
    Ok(numbers)
}
