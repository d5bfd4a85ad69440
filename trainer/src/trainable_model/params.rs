//! The interface of trainable parameters: all weights, or adapters.

use std::path::Path;

use chat::tokenizer::Tokenizer;
use configs::optimizer::OptimizerConfig;
use lm::{Decoder, LmError, Params, Trained};
use tch::Tensor;

use crate::lr_schedule::ScheduleStep;
use crate::muon::Matrix;
use crate::optimizer::{Optimizer, ParamGroup, Update};
use crate::{ParallelContext, TrainError};

/// The positions of the trained elements in the flat buffers.
#[derive(Debug)]
pub struct OptimizerLayout {
    /// Elements updated by AdamW.
    pub groups: Vec<ParamGroup>,
    /// Matrices updated by Muon.
    pub matrices: Vec<Matrix>,
    /// The number of elements of gradients and state.
    pub length: i64,
}

/// The trained parameters of a model and their gradients: [`super::FullParams`] or [`super::LoraParams`]. `model` is always the
/// model that they belong to.
pub trait TrainableParams: std::fmt::Debug {
    /// Returns what a forward pass trains. `seed` seeds dropout; `None` disables it.
    fn trained(&self, seed: Option<u64>) -> Trained<'_>;

    /// Returns whether the model's own weights are trained, rather than adapters.
    fn trains_weights(&self) -> bool;

    /// Returns the trained elements: all of them, or this rank's shard.
    fn weights<'a>(&'a self, model: &'a Decoder) -> &'a Tensor;

    /// Returns the gradients, laid out as [`Self::weights`] or as this rank's shard.
    fn gradients(&self) -> &Tensor;

    /// Returns the positions of the trained elements in the optimizer's buffers.
    ///
    /// # Errors
    /// If the optimizer does not support them.
    fn optimizer_layout(&self, model: &Decoder, config: &OptimizerConfig) -> Result<OptimizerLayout, TrainError>;

    /// Returns this rank's ranges of the optimizer state, as (first element in the whole model's buffer, first element here,
    /// length); `None` if this rank has all of it.
    fn own_elements(&self) -> Option<Vec<[u64; 3]>>;

    /// Sums the gradients over all ranks.
    ///
    /// # Errors
    /// If a rank is lost.
    fn reduce_gradients(&self, context: &ParallelContext) -> Result<(), TrainError>;

    /// Updates the trained elements from the reduced gradients, and clears the gradients.
    ///
    /// # Errors
    /// As [`Optimizer::update`], and if a rank is lost.
    fn update(
        &mut self,
        model: &mut Decoder,
        context: &ParallelContext,
        optimizer: &mut Optimizer,
        step: ScheduleStep,
    ) -> Result<Update, TrainError>;

    /// Copies the elements that this rank updated to the ranks that hold replicas of them.
    ///
    /// # Errors
    /// If a rank is lost.
    fn gather_updated(&self, model: &Decoder, context: &ParallelContext) -> Result<(), TrainError>;

    /// Merges adapters into the weights of a copy of the model; does nothing for full weights.
    fn merge_into(&self, copy: &Params);

    /// Writes the model or adapter into a folder, on rank 0.
    ///
    /// # Errors
    /// If it cannot be written.
    fn write(&self, folder: &Path, model: &Decoder, tokenizer: &Tokenizer) -> Result<(), LmError>;

    /// Takes part in the collectives of [`Self::write`], on the other ranks.
    ///
    /// # Errors
    /// If a rank is lost.
    fn help_write(&self, model: &Decoder) -> Result<(), LmError>;

    /// Restores the elements from a folder that [`Self::write`] wrote.
    ///
    /// # Errors
    /// If the folder holds another model or adapter.
    fn restore(&mut self, folder: &Path, model: &Decoder, context: &ParallelContext) -> Result<(), TrainError>;
}

/// Copies `saved` to `target` if their sizes match.
pub(super) fn copy_saved(folder: &Path, target: &Tensor, saved: &Tensor) -> Result<(), TrainError> {
    if target.size() != saved.size() {
        return Err(TrainError::Data(format!(
            "{}: has {} elements, but this run trains {}; it belongs to another model or adapter",
            folder.display(),
            saved.numel(),
            target.numel()
        )));
    }
    tch::no_grad(|| target.shallow_clone().copy_(saved));
    Ok(())
}
