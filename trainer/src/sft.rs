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
use corpus::{BatchPlan, Corpus};

use crate::lr_schedule::ScheduleStep;
use crate::optimizer::Optimizer;
use crate::train_loop::{Algorithm, Numbers, TrainLoop};
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
    measure: Option<&mut Measure<'_>>,
    output: &mut Output<'_>,
) -> Result<(), TrainError> {
    let plan = corpus::plan(&corpus.train, settings.train);
    let train_loop = TrainLoop {
        steps: plan.steps(),
        optimizer: settings.optimizer,
        validation: settings.validation,
        checkpoint: settings.checkpoint,
        from: from.as_deref(),
    };
    train_loop.run(trainable, &mut Sft { corpus, settings, plan, clock: metrics::Clock::new() }, measure, output)
}

struct Sft<'a> {
    corpus: &'a Corpus,
    settings: SftSettings<'a>,
    plan: BatchPlan<'a>,
    clock: metrics::Clock,
}

impl Algorithm for Sft<'_> {
    fn step(
        &mut self,
        trainable: &mut TrainableModel,
        optimizer: &mut Optimizer,
        step: u64,
    ) -> Result<Numbers, TrainError> {
        let begin = Instant::now();
        let steps = self.plan.steps();
        let batch = self.plan.batch(step).expect("steps below plan.steps() have a batch");
        let rows = batch.rows.iter().map(|&id| self.corpus.train.read(id)).collect::<Result<Vec<_>, _>>()?;
        let how = micro_batches::How::new(self.settings.train, self.settings.seed, step);
        let (loss, shape) = micro_batches::accumulate(trainable, &rows, how)?;
        let update = trainable.update(optimizer, ScheduleStep { done: step, total: steps })?;
        trainable.context.assert_same_step(step + 1, &[loss, update.grad_norm])?;
        let done = metrics::Done { step: step + 1, steps, loss, update, shape };
        let model = &trainable.model.decoder;
        let epoch = self.plan.epochs_after(step + 1);
        Ok(self.clock.numbers(&done, epoch, model, trainable.trains_weights(), (begin, self.settings.peak_flops)))
    }

    fn ends_epoch(&self, done: u64) -> bool {
        self.plan.ends_epoch(done)
    }

    /// Returns the loss on the validation rows, if there are any.
    fn validate(&mut self, trainable: &TrainableModel, _: u64) -> Result<Numbers, TrainError> {
        let Some(rows) = &self.corpus.validation else { return Ok(Numbers::new()) };
        let loss = micro_batches::mean_loss(trainable, rows, self.settings.train.micro_batch_tokens)?;
        Ok(vec![("validation/loss".into(), loss)])
    }
}
