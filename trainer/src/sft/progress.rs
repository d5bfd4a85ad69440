//! The numbers of a step.

use std::time::Instant;

use lm::Decoder;

use super::pass::Shape;
use crate::flops::{self, Work};
use crate::memory;
use crate::optimizer::Update;

/// One update, done.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Its number, from 1.
    pub step: u64,
    /// Updates of the run.
    pub steps: u64,
    /// Mean loss, nats per trained token.
    pub loss: f64,
    /// What the optimizer did.
    pub update: Update,
    /// The batch's size.
    pub shape: Shape,
}

/// Counts from the run's start.
#[derive(Debug)]
pub struct Clock {
    begun: Instant,
    first: Option<u64>,
    skipped: u64,
}

impl Clock {
    /// Starts to count.
    pub fn new() -> Self {
        Self { begun: Instant::now(), first: None, skipped: 0 }
    }

    /// The numbers of metrics.jsonl. `since`: when the step began, and the device's peak in FLOP/s.
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
        let work = Work { tokens: shape.tokens, trained: shape.trained, squares: shape.squares, trains_weights };
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
            ("microbatches", shape.passes as f64),
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
