//! Training of LoRA or DoRA adapters, as in PEFT.

use std::path::Path;

use chat::tokenizer::Tokenizer;
use configs::lora::LoraConfig;
use configs::optimizer::{OptimizerConfig, OptimizerKind};
use lm::{AdapterSpec, Decoder, Dropout, LmError, LoraAdapters, Params, Trained, lora_files};
use tch::Tensor;

use super::full_params::needs_whole_matrices;
use super::params::{OptimizerLayout, TrainableParams, copy_saved};
use crate::lr_schedule::ScheduleStep;
use crate::optimizer::{Optimizer, ParamGroup, Update};
use crate::{ParallelContext, TrainError};

/// The adapters to train, and the name of their base model.
#[derive(Clone, Copy, Debug)]
pub struct Lora<'a> {
    /// Configuration of the adapters.
    pub config: &'a LoraConfig,
    /// The base model as the adapter files name it: a folder or a hub id.
    pub base: &'a str,
    /// Seed of new adapters.
    pub seed: u64,
}

/// Trained adapters of frozen weights.
#[derive(Debug)]
pub struct LoraParams {
    adapters: LoraAdapters,
    grads: LoraAdapters,
    base: String,
    dropout: f64,
}

impl LoraParams {
    /// Initializes new adapters for `model`, or loads those of `lora.config.start`.
    ///
    /// # Errors
    /// If memory cannot be allocated, or the initial adapter does not match the model or configuration.
    pub fn new(model: &Decoder, lora: Lora<'_>) -> Result<Self, TrainError> {
        let adapters = adapters(model, lora)?;
        let params = &model.params;
        let grads = LoraAdapters::zeros(params.spec(), adapters.spec().clone(), params.flat.device())?;
        Ok(Self { adapters, grads, base: lora.base.into(), dropout: lora.config.dropout })
    }
}

fn adapters(model: &Decoder, lora: Lora<'_>) -> Result<LoraAdapters, TrainError> {
    let c = lora.config;
    let mut targets = c.targets.clone();
    targets.sort();
    let spec = AdapterSpec { rank: c.rank as i64, alpha: c.alpha, rank_stabilized: false, dora: c.dora, targets };
    if c.start.as_os_str().is_empty() {
        return Ok(LoraAdapters::new(&model.params, spec, lora.seed.cast_signed())?);
    }
    let checkpoint = lm::pretrained::run_checkpoint(&c.start.to_string_lossy())?;
    let started = lora_files::load(checkpoint.as_deref().unwrap_or(&c.start), model.spec(), model.device())?;
    if *started.spec() != spec {
        return Err(TrainError::Data(format!(
            "lora.start = {}: the adapter is {:?}, but the configuration is {spec:?}; set [lora] to match the adapter",
            c.start.display(),
            started.spec()
        )));
    }
    Ok(started)
}

impl TrainableParams for LoraParams {
    fn trained(&self, seed: Option<u64>) -> Trained<'_> {
        let dropout = seed.filter(|_| self.dropout > 0.0).map(|seed| Dropout { probability: self.dropout, seed });
        Trained::Lora { adapters: &self.adapters, grads: &self.grads, dropout }
    }

    fn trains_weights(&self) -> bool {
        false
    }

    fn weights<'a>(&'a self, _: &'a Decoder) -> &'a Tensor {
        &self.adapters.flat
    }

    fn gradients(&self) -> &Tensor {
        &self.grads.flat
    }

    fn optimizer_layout(&self, _: &Decoder, config: &OptimizerConfig) -> Result<OptimizerLayout, TrainError> {
        if config.kind == OptimizerKind::Muon {
            return Err(needs_whole_matrices());
        }
        let length = self.adapters.flat.numel() as i64;
        // Adapters have neither norms nor biases.
        let groups = vec![ParamGroup { weights: 0, state: 0, length, decays: true }];
        Ok(OptimizerLayout { groups, matrices: Vec::new(), length })
    }

    fn own_elements(&self) -> Option<Vec<[u64; 3]>> {
        None
    }

    fn reduce_gradients(&self, context: &ParallelContext) -> Result<(), TrainError> {
        Ok(context.world.world_group().all_reduce("sum the gradients of the adapters", &self.grads.flat)?.wait()?)
    }

    fn update(
        &mut self,
        _: &mut Decoder,
        _: &ParallelContext,
        optimizer: &mut Optimizer,
        step: ScheduleStep,
    ) -> Result<Update, TrainError> {
        optimizer.update(&mut self.adapters.flat, &mut self.grads.flat, step, Ok)
    }

    fn gather_updated(&self, _: &Decoder, _: &ParallelContext) -> Result<(), TrainError> {
        Ok(())
    }

    fn merge_into(&self, copy: &Params) {
        self.adapters.merge_into(copy);
    }

    fn write(&self, folder: &Path, model: &Decoder, tokenizer: &Tokenizer) -> Result<(), LmError> {
        lora_files::save(folder, &self.adapters, model.spec().num_hidden_layers, &self.base, self.dropout)?;
        Ok(tokenizer.save(folder)?)
    }

    fn help_write(&self, _: &Decoder) -> Result<(), LmError> {
        Ok(())
    }

    fn restore(&mut self, folder: &Path, model: &Decoder, _: &ParallelContext) -> Result<(), TrainError> {
        let saved = lora_files::load(folder, model.spec(), model.device())?;
        if saved.spec() != self.adapters.spec() {
            return Err(TrainError::Data(format!(
                "{}: the adapter is {:?}, but this run's is {:?}; resume with the original configuration of the run",
                folder.display(),
                saved.spec(),
                self.adapters.spec()
            )));
        }
        copy_saved(folder, &self.adapters.flat, &saved.flat)
    }
}
