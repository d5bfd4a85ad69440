//! Supervised fine-tuning: next-token loss on the trained tokens of packed rows.
//!
//! - [`pass`]: a batch's loss and gradients, in packed passes.
//! - [`progress`]: the numbers of a step.

pub mod pass;
pub mod progress;

use std::path::PathBuf;
use std::time::Instant;

use configs::sft::SftTrain;
use configs::validation::ValidationConfig;
use configs::{CheckpointConfig, OptimizerConfig};
use corpus::{Corpus, Plan};

use crate::checkpoints::{Checkpoints, Keeping};
use crate::optimizer::{Optimizer, Progress};
use crate::parallel::held::Held;
use crate::resume::{self, Reached};
use crate::trainee::{Measure, Trainee};
use crate::{Output, TrainError};

/// What a run of fine-tuning needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// Seed of dropout.
    pub seed: u64,
    /// Length and batches.
    pub train: &'a SftTrain,
    /// Optimizer.
    pub optimizer: &'a OptimizerConfig,
    /// When to measure.
    pub validation: &'a ValidationConfig,
    /// Checkpoints.
    pub checkpoint: &'a CheckpointConfig,
    /// What the device can do at best, FLOP/s; `None` gives no MFU.
    pub peak_flops: Option<f64>,
}

/// Trains on the rows of `corpus`, from the checkpoint `from` on if one is given. `measure` is asked wherever
/// `settings.validation` says so.
///
/// # Errors
/// If a file cannot be read or written, memory does not suffice, or the gradient is not finite too often in a row.
pub fn train(
    trainee: &mut Trainee,
    corpus: &Corpus,
    settings: Settings<'_>,
    from: Option<PathBuf>,
    mut measure: Option<&mut Measure<'_>>,
    output: &mut Output<'_>,
) -> Result<(), TrainError> {
    let mut plan = corpus::plan(&corpus.train, settings.train);
    let mut optimizer = trainee.optimizer(settings.optimizer)?;
    Held::write(&trainee.team, output.run, Held::now(trainee, &optimizer))?;
    let reached = match &from {
        Some(folder) => resume::restore(folder, trainee, &mut optimizer)?,
        None => Reached::default(),
    };
    let mut run = Fitting { corpus, settings, steps: plan.steps(), clock: progress::Clock::new() };
    let mut checkpoints =
        Checkpoints::new(trainee.team.world.clone(), output.checkpoints.clone(), settings.checkpoint, reached.best);
    if reached.step == 0 && settings.validation.at_start {
        let numbers = run.measured(trainee, measure.as_deref_mut())?;
        output.step(0, run.steps, numbers)?;
    }
    for step in reached.step..run.steps {
        let mut numbers = run.step(trainee, &mut optimizer, &mut plan, step)?;
        if step + 1 == run.steps {
            trainee.apply_ema(&optimizer)?;
        }
        if run.measures_after(step + 1) {
            numbers.extend(run.measured(trainee, measure.as_deref_mut())?);
        }
        output.step(step + 1, run.steps, numbers.clone())?;
        let keeping = Keeping { step: step + 1, last: step + 1 == run.steps, numbers: &numbers };
        checkpoints.after(keeping, |folder, best| {
            let reached = Reached { step: step + 1, best };
            let state = settings.checkpoint.state.then_some(&optimizer);
            trainee.save(folder, |inside| resume::write(inside, trainee, state, reached))
        })?;
    }
    Ok(())
}

struct Fitting<'a> {
    corpus: &'a Corpus,
    settings: Settings<'a>,
    steps: u64,
    clock: progress::Clock,
}

type Numbers = Vec<(String, f64)>;

impl Fitting<'_> {
    /// One update; its numbers.
    fn step(
        &mut self,
        trainee: &mut Trainee,
        optimizer: &mut Optimizer,
        plan: &mut Plan<'_>,
        step: u64,
    ) -> Result<Numbers, TrainError> {
        let begin = Instant::now();
        let batch = plan.batch(step).expect("steps below plan.steps() have a batch");
        let rows = batch.rows.iter().map(|&id| self.corpus.train.read(id)).collect::<Result<Vec<_>, _>>()?;
        let how = pass::How::new(self.settings.train, self.settings.seed, step);
        let (loss, shape) = pass::accumulate(trainee, &rows, how)?;
        let update = trainee.update(optimizer, Progress { done: step, total: self.steps })?;
        trainee.team.same_step(step + 1, &[loss, update.grad_norm])?;
        let done = progress::Done { step: step + 1, steps: self.steps, loss, update, shape };
        let model = &trainee.model.decoder;
        let epoch = plan.epochs_after(step + 1);
        Ok(self.clock.numbers(&done, epoch, model, trainee.trains_weights(), (begin, self.settings.peak_flops)))
    }

    fn measures_after(&self, done: u64) -> bool {
        let every = self.settings.validation.every as u64;
        every > 0 && (done.is_multiple_of(every) || done == self.steps)
    }

    /// Loss on the validation rows, and what else is asked for.
    fn measured(&self, trainee: &Trainee, measure: Option<&mut Measure<'_>>) -> Result<Numbers, TrainError> {
        let mut numbers = Numbers::new();
        if let Some(rows) = &self.corpus.validation {
            let loss = pass::mean_loss(trainee, rows, self.settings.train.tokens_per_microbatch)?;
            numbers.push(("validation/loss".into(), loss));
        }
        if let Some(measure) = measure {
            numbers.extend(trainee.measured_by(measure)?);
        }
        Ok(numbers)
    }
}
