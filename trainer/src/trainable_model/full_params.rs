//! Training of all weights: on one rank, replicated (DDP), or with sharded gradients and optimizer state (ZeRO-2, FSDP).

use std::path::Path;

use chat::tokenizer::Tokenizer;
use configs::Sharding;
use configs::optimizer::{OptimizerConfig, OptimizerKind};
use lm::{Decoder, LmError, Params, Trained, checkpoint};
use tch::Tensor;

use super::params::{OptimizerLayout, TrainableParams, copy_saved};
use crate::lr_schedule::ScheduleStep;
use crate::optimizer::{self, Optimizer, Update};
use crate::parallel::sharded_gradients::ShardedGradients;
use crate::parallel::shards::Shards;
use crate::{ParallelContext, TrainError};

/// All weights of a model.
#[derive(Debug)]
pub struct FullParams {
    grads: Params,
    sharded: Option<Sharded>,
}

/// Sharded gradients and the sharding of the model.
#[derive(Debug)]
struct Sharded {
    gradients: ShardedGradients,
    shards: Shards,
}

impl FullParams {
    /// Allocates gradients for the weights of `params`.
    ///
    /// # Errors
    /// If memory cannot be allocated.
    pub fn new(params: &Params, config: &OptimizerConfig, context: &ParallelContext) -> Result<Self, TrainError> {
        let (kind, device) = (optimizer::state_kind(config, params.flat.kind()), params.flat.device());
        if context.sharding == Sharding::Replicate || context.shards.size() == 1 {
            return Ok(Self { grads: Params::zeros(params.spec(), kind, device)?, sharded: None });
        }
        let shards = context.shards_of(params.spec());
        let gradients = ShardedGradients::new(shards.clone(), context.shards.clone(), (kind, device))?;
        let grads = Params::sharded(params.spec(), gradients.sums(), Box::new(gradients.clone()));
        Ok(Self { grads, sharded: Some(Sharded { gradients, shards }) })
    }
}

impl TrainableParams for FullParams {
    fn trained(&self, _: Option<u64>) -> Trained<'_> {
        Trained::Weights { grads: &self.grads }
    }

    fn trains_weights(&self) -> bool {
        true
    }

    fn weights<'a>(&'a self, model: &'a Decoder) -> &'a Tensor {
        &model.params.flat
    }

    fn gradients(&self) -> &Tensor {
        &self.grads.flat
    }

    fn optimizer_layout(&self, model: &Decoder, config: &OptimizerConfig) -> Result<OptimizerLayout, TrainError> {
        let params = &model.params;
        let groups = optimizer::param_groups(params, config.kind, &config.no_decay);
        match &self.sharded {
            None => {
                let matrices = optimizer::matrices(params, config.kind);
                Ok(OptimizerLayout { groups, matrices, length: params.flat.numel() as i64 })
            }
            Some(_) if config.kind == OptimizerKind::Muon => Err(needs_whole_matrices()),
            Some(Sharded { shards, .. }) => Ok(OptimizerLayout {
                groups: shards.cut(&groups, params.is_sharded()),
                matrices: Vec::new(),
                length: shards.length() as i64,
            }),
        }
    }

    fn own_elements(&self) -> Option<Vec<[u64; 3]>> {
        let own = self.sharded.as_ref()?.shards.own().filter(|(whole, _)| !whole.is_empty());
        Some(own.map(|(whole, at)| [whole.start as u64, at as u64, whole.len() as u64]).collect())
    }

    fn reduce_gradients(&self, context: &ParallelContext) -> Result<(), TrainError> {
        if let Some(Sharded { gradients, .. }) = &self.sharded {
            gradients.finish()?;
            context.replicas.all_reduce("sum the gradients of replicas", &gradients.sums())?.wait()?;
            return Ok(());
        }
        let group = context.world.world_group();
        let in_flight = self.grads.units().iter().map(|range| {
            let unit = self.grads.flat.narrow(0, range.offset, range.numel);
            group.all_reduce(&format!("sum the gradients of {:?}", range.unit), &unit)
        });
        for work in in_flight.collect::<Result<Vec<_>, _>>()? {
            work.wait()?;
        }
        Ok(())
    }

    fn update(
        &mut self,
        model: &mut Decoder,
        context: &ParallelContext,
        optimizer: &mut Optimizer,
        step: ScheduleStep,
    ) -> Result<Update, TrainError> {
        let (weights, gradients) = (&mut model.params.flat, &mut self.grads.flat);
        if self.sharded.is_none() {
            return optimizer.update(weights, gradients, step, Ok);
        }
        let update = optimizer.update(weights, gradients, step, |own| {
            let mut total = [own];
            context.shards.all_reduce_scalars("the gradient's norm", &mut total)?;
            Ok(total[0])
        })?;
        if !update.skipped {
            self.gather_updated(model, context)?;
        }
        Ok(update)
    }

    fn gather_updated(&self, model: &Decoder, context: &ParallelContext) -> Result<(), TrainError> {
        match &self.sharded {
            Some(Sharded { shards, .. }) if !model.params.is_sharded() => {
                context.all_gather_params(&model.params.flat, shards)
            }
            _ => Ok(()),
        }
    }

    fn merge_into(&self, _: &Params) {}

    fn write(&self, folder: &Path, model: &Decoder, tokenizer: &Tokenizer) -> Result<(), LmError> {
        checkpoint::write_model(folder, model, tokenizer)
    }

    fn help_write(&self, model: &Decoder) -> Result<(), LmError> {
        checkpoint::help_write(model)
    }

    fn restore(&mut self, folder: &Path, model: &Decoder, context: &ParallelContext) -> Result<(), TrainError> {
        let flat = &model.params.flat;
        if model.params.is_sharded() {
            return context.load_shard(folder, flat);
        }
        copy_saved(folder, flat, &checkpoint::load(folder, flat.kind(), model.device())?.params.flat)
    }
}

/// Returns the error of Muon for parameters that are not whole matrices.
pub(super) fn needs_whole_matrices() -> TrainError {
    TrainError::Data(
        "optimizer.kind = \"muon\" needs whole matrices: train without [lora] and with parallel.sharding = \"replicate\", or choose \
         \"adamw\""
            .into(),
    )
}
