//! A model in training: which of its numbers are trained, and where their gradients go.

use std::path::Path;

use configs::lora::LoraConfig;
use configs::optimizer::OptimizerConfig;
use lm::{AdapterSpec, Adapters, Decoder, Dropout, LmError, LocalModel, Params, Trained, adapter_files, checkpoint};
use tch::Tensor;

use crate::TrainError;
use crate::optimizer::{self, Optimizer, Progress, Stretch, Update};

/// A model, what of it is trained, and the gradients.
#[derive(Debug)]
pub struct Trainee {
    /// The model; with adapters, its weights stay as they are.
    pub model: LocalModel,
    what: What,
}

#[derive(Debug)]
enum What {
    Weights { grads: Box<Params> },
    Adapters(Box<Beside>),
}

/// Adapters beside weights that stay.
#[derive(Debug)]
struct Beside {
    adapters: Adapters,
    grads: Adapters,
    base: String,
    dropout: f64,
}

/// Adapters in place of the weights, and the name of the model they stand on.
#[derive(Clone, Copy, Debug)]
pub struct Lora<'a> {
    /// Their configuration.
    pub config: &'a LoraConfig,
    /// The base model, as the adapter's files name it: a folder or a hub id.
    pub base: &'a str,
    /// Seed of new adapters.
    pub seed: u64,
}

impl Trainee {
    /// Trains all weights of `model`, or new adapters, or those of `lora.config.start`.
    ///
    /// # Errors
    /// If memory does not suffice, or the adapter to start from does not fit model or configuration.
    pub fn new(model: LocalModel, lora: Option<Lora<'_>>, config: &OptimizerConfig) -> Result<Self, TrainError> {
        let params = &model.decoder.params;
        let what = match lora {
            None => {
                let kind = optimizer::state_kind(config, params.flat.kind());
                What::Weights { grads: Box::new(Params::zeros(params.spec(), kind, params.flat.device())?) }
            }
            Some(lora) => {
                let adapters = adapters(&model.decoder, lora)?;
                let grads = Adapters::zeros(params.spec(), adapters.spec().clone(), params.flat.device())?;
                What::Adapters(Box::new(Beside {
                    adapters,
                    grads,
                    base: lora.base.into(),
                    dropout: lora.config.dropout,
                }))
            }
        };
        Ok(Self { model, what })
    }

    /// What a forward pass trains. `seed` differs from pass to pass; dropout draws from it.
    pub fn trained(&self, seed: u64) -> Trained<'_> {
        match &self.what {
            What::Weights { grads } => Trained::Weights { grads },
            What::Adapters(beside) => {
                let Beside { adapters, grads, dropout, .. } = &**beside;
                let dropout = (*dropout > 0.0).then_some(Dropout { probability: *dropout, seed });
                Trained::Adapters { adapters, grads, dropout }
            }
        }
    }

    /// The same without dropout, for measuring.
    pub fn measured(&self) -> Trained<'_> {
        match &self.what {
            What::Weights { grads } => Trained::Weights { grads },
            What::Adapters(beside) => {
                Trained::Adapters { adapters: &beside.adapters, grads: &beside.grads, dropout: None }
            }
        }
    }

    /// Whether the model's own weights are trained, and not adapters beside them.
    pub fn trains_weights(&self) -> bool {
        matches!(self.what, What::Weights { .. })
    }

    /// The numbers that are trained, in one buffer.
    pub fn weights(&self) -> &Tensor {
        match &self.what {
            What::Weights { .. } => &self.model.decoder.params.flat,
            What::Adapters(beside) => &beside.adapters.flat,
        }
    }

    /// Their gradients, laid out alike.
    pub fn gradients(&self) -> &Tensor {
        match &self.what {
            What::Weights { grads } => &grads.flat,
            What::Adapters(beside) => &beside.grads.flat,
        }
    }

    /// Fresh optimizer state for what is trained.
    ///
    /// # Errors
    /// If memory does not suffice.
    pub fn optimizer(&self, config: &OptimizerConfig) -> Result<Optimizer, TrainError> {
        let stretches = match &self.what {
            What::Weights { .. } => optimizer::stretches(&self.model.decoder.params, &config.no_decay),
            // Adapters have neither norms nor biases.
            What::Adapters(beside) => {
                vec![Stretch { offset: 0, length: beside.adapters.flat.numel() as i64, decays: true }]
            }
        };
        Optimizer::new(self.weights(), stretches, config.clone())
    }

    /// One update from the accumulated gradients, which are cleared.
    ///
    /// # Errors
    /// As [`Optimizer::update`].
    pub fn update(&mut self, optimizer: &mut Optimizer, progress: Progress) -> Result<Update, TrainError> {
        match &mut self.what {
            What::Weights { grads } => optimizer.update(&mut self.model.decoder.params.flat, &mut grads.flat, progress),
            What::Adapters(beside) => optimizer.update(&mut beside.adapters.flat, &mut beside.grads.flat, progress),
        }
    }

    /// Calls `f` with the model as it would generate now: adapters merged into a copy of the weights.
    ///
    /// # Errors
    /// If memory does not suffice for the copy, and those of `f`.
    pub fn as_one<T, E: From<TrainError>>(&self, f: impl FnOnce(&LocalModel) -> Result<T, E>) -> Result<T, E> {
        let What::Adapters(beside) = &self.what else { return f(&self.model) };
        f(&merged(&self.model, &beside.adapters)?)
    }

    /// A copy of the model as it is now, adapters merged.
    ///
    /// # Errors
    /// If memory does not suffice.
    pub fn frozen(&self) -> Result<Decoder, TrainError> {
        Ok(match &self.what {
            What::Weights { .. } => copied(&self.model)?,
            What::Adapters(beside) => merged(&self.model, &beside.adapters)?.decoder,
        })
    }

    /// The model with whatever was trained in it.
    ///
    /// # Errors
    /// If memory does not suffice.
    pub fn into_model(self) -> Result<LocalModel, TrainError> {
        if let What::Adapters(beside) = &self.what {
            beside.adapters.merge_into(&self.model.decoder.params);
        }
        Ok(self.model)
    }

    /// Writes a model folder, or an adapter folder in PEFT's format with the tokenizer; complete or not at all. `beside`
    /// may write more files into it before it appears.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, folder: &Path, beside: impl FnOnce(&Path) -> Result<(), LmError>) -> Result<(), TrainError> {
        let LocalModel { decoder, tokenizer, .. } = &self.model;
        match &self.what {
            What::Weights { .. } => checkpoint::save(folder, decoder, tokenizer, beside)?,
            What::Adapters(own) => checkpoint::write_folder(folder, |partial| {
                let layers = decoder.spec().num_hidden_layers;
                adapter_files::save(partial, &own.adapters, layers, &own.base, own.dropout)?;
                tokenizer.save(partial)?;
                beside(partial)
            })?,
        }
        Ok(())
    }

    /// Takes over the numbers of a folder that [`Self::save`] wrote.
    ///
    /// # Errors
    /// If it does not hold what is trained here.
    pub fn restore(&mut self, folder: &Path) -> Result<(), TrainError> {
        let LocalModel { decoder, .. } = &self.model;
        let (place, saved) = match &self.what {
            What::Weights { .. } => {
                let kind = decoder.params.flat.kind();
                (&decoder.params.flat, checkpoint::load(folder, kind, decoder.device())?.params.flat)
            }
            What::Adapters(beside) => {
                let saved = adapter_files::load(folder, decoder.spec(), decoder.device())?;
                if saved.spec() != beside.adapters.spec() {
                    return Err(TrainError::Data(format!(
                        "{}: the adapter there is {:?}, this run's {:?}; go on with the configuration it was begun with",
                        folder.display(),
                        saved.spec(),
                        beside.adapters.spec()
                    )));
                }
                (&beside.adapters.flat, saved.flat)
            }
        };
        if place.size() != saved.size() {
            return Err(TrainError::Data(format!(
                "{}: holds {} numbers, this run trains {}; it belongs to another model or adapter",
                folder.display(),
                saved.numel(),
                place.numel()
            )));
        }
        tch::no_grad(|| place.shallow_clone().copy_(&saved));
        Ok(())
    }
}

fn adapters(decoder: &Decoder, lora: Lora<'_>) -> Result<Adapters, TrainError> {
    let c = lora.config;
    let mut targets = c.targets.clone();
    targets.sort();
    let spec = AdapterSpec { rank: c.rank as i64, alpha: c.alpha, rank_stabilized: false, dora: c.dora, targets };
    if c.start.as_os_str().is_empty() {
        return Ok(Adapters::new(&decoder.params, spec, lora.seed.cast_signed())?);
    }
    let started = adapter_files::load(&c.start, decoder.spec(), decoder.device())?;
    if *started.spec() != spec {
        return Err(TrainError::Data(format!(
            "lora.start = {}: the adapter there is {:?}, the configuration says {spec:?}; make [lora] say the same",
            c.start.display(),
            started.spec()
        )));
    }
    Ok(started)
}

fn copied(model: &LocalModel) -> Result<Decoder, TrainError> {
    let source = &model.decoder.params;
    let copy = Params::zeros(source.spec(), source.flat.kind(), source.flat.device())?;
    tch::no_grad(|| copy.flat.shallow_clone().copy_(&source.flat));
    Ok(Decoder::new(copy))
}

/// A copy of the model with the adapters in its weights.
fn merged(model: &LocalModel, adapters: &Adapters) -> Result<LocalModel, TrainError> {
    let copy = copied(model)?;
    adapters.merge_into(&copy.params);
    let mut one = LocalModel::new(chat::Completer::name(model), copy, model.tokenizer.clone())?;
    one.limits = model.limits;
    Ok(one)
}
