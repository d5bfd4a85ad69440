//! A model in training: which of its parameters are trained, and where their gradients go.
//!
//! - [`params`]: the contract of trainable parameters.
//! - [`full_params`]: all weights, replicated or sharded.
//! - [`lora_params`]: LoRA and DoRA adapters.

pub mod full_params;
pub mod lora_params;
pub mod params;

use std::path::Path;

use configs::optimizer::OptimizerConfig;
use lm::{Decoder, LmError, LocalModel, Params, Trained, checkpoint};
use tch::Tensor;

pub use self::full_params::FullParams;
pub use self::lora_params::{Lora, LoraParams};
use self::params::{OptimizerLayout, TrainableParams};
use crate::error::rank_lost;
use crate::lr_schedule::ScheduleStep;
use crate::optimizer::{Optimizer, Update};
use crate::{ParallelContext, TrainError};

/// A model, its trained parameters, and their gradients.
#[derive(Debug)]
pub struct TrainableModel {
    /// The model. With adapters, its weights are frozen; with sharding `full`, this rank holds a shard of them.
    pub model: LocalModel,
    /// The ranks that train it.
    pub context: ParallelContext,
    params: Box<dyn TrainableParams>,
}

/// Measures the model as it would generate now; returns the same values on all ranks, which may divide the work.
pub type Measure<'a> = dyn FnMut(&LocalModel, &ParallelContext) -> Result<Vec<(String, f64)>, TrainError> + 'a;

impl TrainableModel {
    /// Trains all weights of `model`, or adapters, in a single process.
    ///
    /// # Errors
    /// If memory cannot be allocated, or the initial adapter does not match the model or configuration.
    pub fn new(model: LocalModel, lora: Option<Lora<'_>>, config: &OptimizerConfig) -> Result<Self, TrainError> {
        Self::with_context(model, lora, config, ParallelContext::single())
    }

    /// Trains with the ranks of `context`; `model` may be whole or sharded.
    ///
    /// # Errors
    /// As [`Self::new`], and if the ranks' models differ.
    pub fn with_context(
        mut model: LocalModel,
        lora: Option<Lora<'_>>,
        config: &OptimizerConfig,
        context: ParallelContext,
    ) -> Result<Self, TrainError> {
        if context.shards_params() && !model.decoder.params.is_sharded() {
            model = model.with_decoder(|whole| context.shard(whole))?;
        }
        let params = &model.decoder.params;
        if !params.is_sharded() {
            let sum = torch_ext::sum_of_squares(&params.flat)?.to_string();
            let group = context.world.world_group();
            group.assert_same_on_all_ranks("the sum of the initial weights' squares", sum.as_bytes())?;
        }
        let params: Box<dyn TrainableParams> = match lora {
            None => Box::new(FullParams::new(params, config, &context)?),
            Some(lora) => Box::new(LoraParams::new(&model.decoder, lora)?),
        };
        Ok(Self { model, context, params })
    }

    /// Returns what a forward pass trains. `seed` seeds dropout and differs between updates.
    pub fn trained(&self, seed: u64) -> Trained<'_> {
        self.params.trained(Some(seed))
    }

    /// Returns what [`Self::trained`] returns, without dropout, for evaluation.
    pub fn measured(&self) -> Trained<'_> {
        self.params.trained(None)
    }

    /// Returns whether the model's own weights are trained, rather than adapters.
    pub fn trains_weights(&self) -> bool {
        self.params.trains_weights()
    }

    /// Returns the trained elements: all of them, or this rank's shard.
    pub fn weights(&self) -> &Tensor {
        self.params.weights(&self.model.decoder)
    }

    /// Returns the gradients of [`Self::weights`], in the same layout, or this rank's shard.
    pub fn gradients(&self) -> &Tensor {
        self.params.gradients()
    }

    /// Returns new optimizer state for the trained elements.
    ///
    /// # Errors
    /// If memory cannot be allocated, or the optimizer does not support the trained parameters.
    pub fn optimizer(&self, config: &OptimizerConfig) -> Result<Optimizer, TrainError> {
        let OptimizerLayout { groups, matrices, length } = self.params.optimizer_layout(&self.model.decoder, config)?;
        Optimizer::new(self.weights(), groups, matrices, length, config.clone())
    }

    /// Returns this rank's ranges of the optimizer state, as (first element in the whole model's buffer, first element here,
    /// length); `None` if this rank has all of it.
    pub fn own_elements(&self) -> Option<Vec<[u64; 3]>> {
        self.params.own_elements()
    }

    /// Makes one update from the gradients that all ranks accumulated, and clears them.
    ///
    /// # Errors
    /// As [`Optimizer::update`], and if a rank is lost.
    pub fn update(&mut self, optimizer: &mut Optimizer, step: ScheduleStep) -> Result<Update, TrainError> {
        self.params.reduce_gradients(&self.context)?;
        self.params.update(&mut self.model.decoder, &self.context, optimizer, step)
    }

    /// Replaces the weights by their moving average if `optimizer.ema_decay` enables one. All ranks must call this.
    ///
    /// # Errors
    /// If a rank is lost.
    pub fn apply_ema(&mut self, optimizer: &Optimizer) -> Result<(), TrainError> {
        if optimizer.apply_ema(self.weights()) {
            self.params.gather_updated(&self.model.decoder, &self.context)?;
        }
        Ok(())
    }

    /// Calls `f` with the model as it would generate now, unsharded, with adapters merged into a copy of the weights. All ranks
    /// must call this.
    ///
    /// # Errors
    /// If memory for the copy cannot be allocated, a rank is lost, or `f` fails.
    pub fn as_one<T, E: From<TrainError>>(&self, f: impl FnOnce(&LocalModel) -> Result<T, E>) -> Result<T, E> {
        let sharded = self.model.decoder.params.is_sharded();
        if !sharded && self.trains_weights() {
            return f(&self.model);
        }
        let copy = if sharded { self.context.unshard(&self.model)? } else { copy_of(&self.model)? };
        self.params.merge_into(&copy.decoder.params);
        f(&copy)
    }

    /// Returns the metrics of `measure` for the model as it would generate now. All ranks must call this.
    ///
    /// # Errors
    /// As [`Self::as_one`].
    pub fn measured_by(&self, measure: &mut Measure<'_>) -> Result<Vec<(String, f64)>, TrainError> {
        self.as_one(|model| measure(model, &self.context))
    }

    /// Returns a frozen copy of the current model, with adapters merged, sharded as the model is.
    ///
    /// # Errors
    /// If memory cannot be allocated.
    pub fn frozen(&self) -> Result<Decoder, TrainError> {
        let params = &self.model.decoder.params;
        if !self.trains_weights() {
            return self.as_one(|one| self.context.shard(copy_of_weights(one)?));
        }
        if params.is_sharded() {
            let shards = self.context.shards_of(params.spec());
            return self.context.sharded(params.spec(), shards, params.flat.copy());
        }
        copy_of_weights(&self.model)
    }

    /// Returns the unsharded model with adapters merged. All ranks must call this.
    ///
    /// # Errors
    /// If memory cannot be allocated or a rank is lost.
    pub fn into_model(self) -> Result<LocalModel, TrainError> {
        let sharded = self.model.decoder.params.is_sharded();
        let model = if sharded { self.context.unshard(&self.model)? } else { self.model };
        self.params.merge_into(&model.decoder.params);
        Ok(model)
    }

    /// Writes a model folder, or an adapter folder in PEFT's format with the tokenizer, atomically, with the prompt set that the
    /// model carries. `more` may write further files into it. All ranks must call this: rank 0 writes the model, each rank calls
    /// `more`, and rank 0 renames the folder when all ranks have finished.
    ///
    /// # Errors
    /// If it cannot be written or a rank is lost.
    pub fn save(&self, folder: &Path, more: impl FnOnce(&Path) -> Result<(), LmError>) -> Result<(), TrainError> {
        let LocalModel { decoder, tokenizer, prompts, .. } = &self.model;
        let group = self.context.world.world_group();
        let barrier = |what: &str| group.barrier(what).map_err(|e| rank_lost(&e));
        if self.context.world.is_rank_zero() {
            checkpoint::write_folder(folder, |partial| {
                barrier("checkpoint: the folder exists")?;
                self.params.write(partial, decoder, tokenizer)?;
                prompts.as_ref().map_or(Ok(()), |prompts| prompts.save(partial))?;
                more(partial)?;
                barrier("checkpoint: all ranks have written")
            })?;
        } else {
            barrier("checkpoint: the folder exists")?;
            self.params.help_write(decoder)?;
            more(&checkpoint::partial(folder))?;
            barrier("checkpoint: all ranks have written")?;
        }
        Ok(barrier("checkpoint: complete")?)
    }

    /// Restores the trained parameters from a folder that [`Self::save`] wrote.
    ///
    /// # Errors
    /// If the folder holds another model or adapter.
    pub fn restore(&mut self, folder: &Path) -> Result<(), TrainError> {
        self.params.restore(folder, &self.model.decoder, &self.context)
    }
}

fn copy_of_weights(model: &LocalModel) -> Result<Decoder, TrainError> {
    let source = &model.decoder.params;
    let copy = Params::zeros(source.spec(), source.flat.kind(), source.flat.device())?;
    tch::no_grad(|| copy.flat.shallow_clone().copy_(&source.flat));
    Ok(Decoder::new(copy))
}

fn copy_of(model: &LocalModel) -> Result<LocalModel, TrainError> {
    let mut copy = LocalModel::new(chat::Completer::name(model), copy_of_weights(model)?, model.tokenizer.clone())?;
    copy.limits = model.limits;
    copy.prompts.clone_from(&model.prompts);
    Ok(copy)
}
