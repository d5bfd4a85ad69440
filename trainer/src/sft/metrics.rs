//! The metrics of a step.

use std::time::Instant;

use lm::Decoder;

use super::micro_batches::Shape;
use crate::flops::{self, ComputeWork};
use crate::memory;
use crate::optimizer::Update;

/// A finished update.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// The update number, from 1.
    pub step: u64,
    /// The number of updates of the run.
    pub steps: u64,
    /// Mean loss, nats per trained token.
    pub loss: f64,
    /// The result of the optimizer update.
    pub update: Update,
    /// The size of the batch.
    pub shape: Shape,
}

/// Time and skipped updates since the start of the run.
#[derive(Debug)]
pub struct Clock {
    begun: Instant,
    first: Option<u64>,
    skipped: u64,
}

impl Clock {
    /// Starts the clock.
    pub fn new() -> Self {
        Self { begun: Instant::now(), first: None, skipped: 0 }
    }

    /// Returns the metrics for metrics.jsonl. `since` is the start of the step; `peak` is the peak of the device, FLOP/s.
    pub fn numbers(
        &mut self,
        done: &Done,
        epoch: f64,
        model: &Decoder,
        trains_weights: bool,
        (since, peak): (Instant, Option<f64>),
    ) -> Vec<(String, f64)> {
        let Done { step, steps, loss, update, shape } = *done;
        let spec = model.spec();
        let seconds = since.elapsed().as_secs_f64();
        self.skipped += u64::from(update.skipped);
        let before = *self.first.get_or_insert(step - 1);
        let per_step = self.begun.elapsed().as_secs_f64() / (step - before) as f64;
        let work = ComputeWork { tokens: shape.tokens, trained: shape.trained, squares: shape.squares, trains_weights };
        let flops = flops::of(spec, work);
        let numbers = [
            ("loss", loss),
            ("grad_norm", update.grad_norm),
            ("lr", update.lr),
            ("epoch", epoch),
            ("skipped", f64::from(u8::from(update.skipped))),
            ("skipped_so_far", self.skipped as f64),
            ("sequences", shape.sequences as f64),
            ("tokens", shape.tokens as f64),
            ("trained_tokens", shape.trained as f64),
            ("microbatches", shape.micro_batches as f64),
            ("time/step", seconds),
            ("time/left", per_step * (steps - step) as f64),
            ("time/tokens_per_second", shape.tokens as f64 / seconds),
            ("time/trained_tokens_per_second", shape.trained as f64 / seconds),
            ("tflops_per_second", flops / seconds / 1e12),
            ("mfu", peak.map_or(f64::NAN, |peak| flops / seconds / peak)),
            ("memory/peak_gib", memory::peak_gib().unwrap_or(f64::NAN)),
            ("memory/device_peak_gib", memory::device_peak_gib(model.device()).unwrap_or(f64::NAN)),
        ];
        numbers.map(|(key, value)| (key.to_owned(), value)).into()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
