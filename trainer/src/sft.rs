//! Supervised fine-tuning: next-token loss on the trained tokens of packed rows.
//!
//! - [`micro_batches`]: the loss and gradients of a batch, in packed micro-batches.
//! - [`metrics`]: the metrics of a step.

pub mod metrics;
pub mod micro_batches;

use std::path::PathBuf;
use std::time::Instant;

use configs::sft::SftTrain;
use configs::validation::ValidationConfig;
use configs::{CheckpointConfig, OptimizerConfig};
use corpus::{Corpus, Plan};

use crate::checkpoints::{Checkpoints, Keeping};
use crate::lr_schedule::ScheduleStep;
use crate::optimizer::Optimizer;
use crate::parallel::memory_report::MemoryReport;
use crate::resume::{self, TrainProgress};
use crate::trainable_model::{Measure, TrainableModel};
use crate::{Output, TrainError};

/// The settings of a fine-tuning run.
#[derive(Clone, Copy, Debug)]
pub struct SftSettings<'a> {
    /// Seed of dropout.
    pub seed: u64,
    /// Sequence length and batch sizes.
    pub train: &'a SftTrain,
    /// The optimizer.
    pub optimizer: &'a OptimizerConfig,
    /// When to evaluate.
    pub validation: &'a ValidationConfig,
    /// Checkpoints.
    pub checkpoint: &'a CheckpointConfig,
    /// Peak of the device, FLOP/s; `None` logs no MFU.
    pub peak_flops: Option<f64>,
}

/// Trains on the rows of `corpus`, resuming from the checkpoint `from` if one is given. `measure` is called as
/// `settings.validation` configures.
///
/// # Errors
/// If a file cannot be read or written, memory cannot be allocated, or too many consecutive gradients are not finite.
pub fn train(
    trainable: &mut TrainableModel,
    corpus: &Corpus,
    settings: SftSettings<'_>,
    from: Option<PathBuf>,
    mut measure: Option<&mut Measure<'_>>,
    output: &mut Output<'_>,
) -> Result<(), TrainError> {
    let mut plan = corpus::plan(&corpus.train, settings.train);
    let mut optimizer = trainable.optimizer(settings.optimizer)?;
    MemoryReport::write(&trainable.context, output.run, MemoryReport::now(trainable, &optimizer))?;
    let progress = match &from {
        Some(folder) => resume::restore(folder, trainable, &mut optimizer)?,
        None => TrainProgress::default(),
    };
    let mut run = SftTrainer { corpus, settings, steps: plan.steps(), clock: metrics::Clock::new() };
    let mut checkpoints = Checkpoints::new(
        trainable.context.world.clone(),
        output.checkpoints.clone(),
        settings.checkpoint,
        progress.best,
    );
    if progress.step == 0 && settings.validation.at_start {
        let numbers = run.measured(trainable, measure.as_deref_mut())?;
        output.step(0, run.steps, numbers)?;
    }
    for step in progress.step..run.steps {
        let mut numbers = run.step(trainable, &mut optimizer, &mut plan, step)?;
        if step + 1 == run.steps {
            trainable.apply_ema(&optimizer)?;
        }
        if run.measures_after(step + 1) {
            numbers.extend(run.measured(trainable, measure.as_deref_mut())?);
        }
        output.step(step + 1, run.steps, numbers.clone())?;
        let keeping = Keeping { step: step + 1, last: step + 1 == run.steps, numbers: &numbers };
        checkpoints.after(keeping, |folder, best| {
            let progress = TrainProgress { step: step + 1, best };
            let state = settings.checkpoint.state.then_some(&optimizer);
            trainable.save(folder, |inside| resume::write(inside, trainable, state, progress))
        })?;
    }
    Ok(())
}

struct SftTrainer<'a> {
    corpus: &'a Corpus,
    settings: SftSettings<'a>,
    steps: u64,
    clock: metrics::Clock,
}

type Numbers = Vec<(String, f64)>;

impl SftTrainer<'_> {
    /// Makes one update and returns its metrics.
    fn step(
        &mut self,
        trainable: &mut TrainableModel,
        optimizer: &mut Optimizer,
        plan: &mut Plan<'_>,
        step: u64,
    ) -> Result<Numbers, TrainError> {
        let begin = Instant::now();
        let batch = plan.batch(step).expect("steps below plan.steps() have a batch");
        let rows = batch.rows.iter().map(|&id| self.corpus.train.read(id)).collect::<Result<Vec<_>, _>>()?;
        let how = micro_batches::How::new(self.settings.train, self.settings.seed, step);
        let (loss, shape) = micro_batches::accumulate(trainable, &rows, how)?;
        let update = trainable.update(optimizer, ScheduleStep { done: step, total: self.steps })?;
        trainable.context.assert_same_step(step + 1, &[loss, update.grad_norm])?;
        let done = metrics::Done { step: step + 1, steps: self.steps, loss, update, shape };
        let model = &trainable.model.decoder;
        let epoch = plan.epochs_after(step + 1);
        Ok(self.clock.numbers(&done, epoch, model, trainable.trains_weights(), (begin, self.settings.peak_flops)))
    }

    fn measures_after(&self, done: u64) -> bool {
        let every = self.settings.validation.every as u64;
        every > 0 && (done.is_multiple_of(every) || done == self.steps)
    }

    /// Returns the loss on the validation rows, and the metrics of `measure` if given.
    fn measured(&self, trainable: &TrainableModel, measure: Option<&mut Measure<'_>>) -> Result<Numbers, TrainError> {
        let mut numbers = Numbers::new();
        if let Some(rows) = &self.corpus.validation {
            let loss = micro_batches::mean_loss(trainable, rows, self.settings.train.micro_batch_tokens)?;
            numbers.push(("validation/loss".into(), loss));
        }
        if let Some(measure) = measure {
            numbers.extend(trainable.measured_by(measure)?);
        }
        Ok(numbers)
    }
}
