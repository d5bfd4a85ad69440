//! A model in training: which of its numbers are trained, and where their gradients go.

use std::path::Path;

use configs::Sharding;
use configs::lora::LoraConfig;
use configs::optimizer::{OptimizerConfig, OptimizerKind};
use lm::{AdapterSpec, Adapters, Decoder, Dropout, LmError, LocalModel, Params, Trained, adapter_files, checkpoint};
use tch::Tensor;

use crate::optimizer::{self, Optimizer, Progress, Stretch, Update};
use crate::parallel::gradients::SharedGradients;
use crate::parallel::shards::Shards;
use crate::parallel::team::lost;
use crate::{Team, TrainError, threads};

/// A model, what of it is trained, and the gradients.
#[derive(Debug)]
pub struct Trainee {
    /// The model; with adapters, its weights stay as they are. Where ranks hold it together it is not whole here.
    pub model: LocalModel,
    /// The ranks that train it.
    pub team: Team,
    what: What,
}

#[derive(Debug)]
enum What {
    Weights { grads: Box<Params>, spread: Option<Spread> },
    Adapters(Box<Beside>),
}

/// Gradients of which each rank keeps a share.
#[derive(Debug)]
struct Spread {
    gradients: SharedGradients,
    shards: Shards,
}

/// Adapters beside weights that stay.
#[derive(Debug)]
struct Beside {
    adapters: Adapters,
    grads: Adapters,
    base: String,
    dropout: f64,
}

/// Numbers of the model as it would generate now, beside those that training itself has; the same on all ranks, which share the
/// work as they like.
pub type Measure<'a> = dyn FnMut(&LocalModel, &Team) -> Result<Vec<(String, f64)>, TrainError> + 'a;

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
        Self::in_team(model, lora, config, Team::alone())
    }

    /// The same with the ranks of `team`; `model` may be whole still, or spread already.
    ///
    /// # Errors
    /// As [`Self::new`], and if the ranks' models differ.
    pub fn in_team(
        mut model: LocalModel,
        lora: Option<Lora<'_>>,
        config: &OptimizerConfig,
        team: Team,
    ) -> Result<Self, TrainError> {
        if team.spreads_weights() && !model.decoder.params.is_shared() {
            model = model.with_decoder(|whole| team.take_share(whole))?;
        }
        let params = &model.decoder.params;
        if !params.is_shared() {
            let sum = torch_ext::sum_of_squares(&params.flat)?;
            team.world.everyone().agree("the sum of the initial weights' squares", sum.to_string().as_bytes())?;
        }
        let what = match lora {
            None => {
                let (kind, device) = (optimizer::state_kind(config, params.flat.kind()), params.flat.device());
                if team.sharding == Sharding::Replicate || team.shards.size() == 1 {
                    What::Weights { grads: Box::new(Params::zeros(params.spec(), kind, device)?), spread: None }
                } else {
                    let shards = team.shards_of(params.spec());
                    let gradients = SharedGradients::new(shards.clone(), team.shards.clone(), (kind, device))?;
                    let grads = Params::shared(params.spec(), gradients.sums(), Box::new(gradients.clone()));
                    What::Weights { grads: Box::new(grads), spread: Some(Spread { gradients, shards }) }
                }
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
        Ok(Self { model, team, what })
    }

    /// What a forward pass trains. `seed` differs from pass to pass; dropout draws from it.
    pub fn trained(&self, seed: u64) -> Trained<'_> {
        match &self.what {
            What::Weights { grads, .. } => Trained::Weights { grads },
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
            What::Weights { grads, .. } => Trained::Weights { grads },
            What::Adapters(beside) => {
                Trained::Adapters { adapters: &beside.adapters, grads: &beside.grads, dropout: None }
            }
        }
    }

    /// Whether the model's own weights are trained, and not adapters beside them.
    pub fn trains_weights(&self) -> bool {
        matches!(self.what, What::Weights { .. })
    }

    /// The numbers that are trained, in one buffer: all of them, or this rank's share.
    pub fn weights(&self) -> &Tensor {
        match &self.what {
            What::Weights { .. } => &self.model.decoder.params.flat,
            What::Adapters(beside) => &beside.adapters.flat,
        }
    }

    /// Their gradients: laid out alike, or this rank's share.
    pub fn gradients(&self) -> &Tensor {
        match &self.what {
            What::Weights { grads, .. } => &grads.flat,
            What::Adapters(beside) => &beside.grads.flat,
        }
    }

    /// Fresh optimizer state for what is trained.
    ///
    /// # Errors
    /// If memory does not suffice.
    pub fn optimizer(&self, config: &OptimizerConfig) -> Result<Optimizer, TrainError> {
        let mut matrices = Vec::new();
        let (stretches, length) = match &self.what {
            What::Adapters(_) | What::Weights { spread: Some(_), .. } if config.kind == OptimizerKind::Muon => {
                return Err(TrainError::Data(
                    "optimizer.kind = \"muon\" needs whole matrices: train without [lora] and with parallel.sharding = \
                     \"replicate\", or choose \"adamw\""
                        .into(),
                ));
            }
            What::Weights { spread, .. } => {
                let params = &self.model.decoder.params;
                let whole = optimizer::stretches(params, config.kind, &config.no_decay);
                match spread {
                    None => {
                        matrices = optimizer::matrices(params, config.kind);
                        (whole, params.flat.numel())
                    }
                    Some(Spread { shards, .. }) => (shards.cut(&whole, params.is_shared()), shards.length()),
                }
            }
            // Adapters have neither norms nor biases.
            What::Adapters(beside) => {
                let length = beside.adapters.flat.numel();
                (vec![Stretch { weights: 0, state: 0, length: length as i64, decays: true }], length)
            }
        };
        Optimizer::new(self.weights(), stretches, matrices, length as i64, config.clone())
    }

    /// Where the numbers of the optimizer's state stand in the whole model's buffer: first number there, first number here,
    /// how many. `None` where this rank has all of them.
    pub fn own_numbers(&self) -> Option<Vec<[u64; 3]>> {
        let What::Weights { spread: Some(Spread { shards, .. }), .. } = &self.what else { return None };
        let own = shards.own().filter(|(whole, _)| !whole.is_empty());
        Some(own.map(|(whole, at)| [whole.start as u64, at as u64, whole.len() as u64]).collect())
    }

    /// One update from the gradients that all ranks have accumulated, which are cleared.
    ///
    /// # Errors
    /// As [`Optimizer::update`], and if a rank is gone.
    pub fn update(&mut self, optimizer: &mut Optimizer, progress: Progress) -> Result<Update, TrainError> {
        threads::take_freed();
        self.sum_gradients()?;
        let Self { model, team, what } = self;
        let weights = &mut model.decoder.params.flat;
        match what {
            What::Weights { grads, spread: None } => optimizer.update(weights, &mut grads.flat, progress, Ok),
            What::Adapters(beside) => optimizer.update(&mut beside.adapters.flat, &mut beside.grads.flat, progress, Ok),
            What::Weights { grads, spread: Some(Spread { shards, .. }) } => {
                let done = optimizer.update(weights, &mut grads.flat, progress, |own| {
                    let mut total = [own];
                    team.shards.sums("the gradient's norm", &mut total)?;
                    Ok(total[0])
                })?;
                if !model.decoder.params.is_shared() && !done.skipped {
                    team.share_out(&model.decoder.params.flat, shards)?;
                }
                Ok(done)
            }
        }
    }

    /// Replaces the weights by their moving average where `optimizer.ema_decay` asks for one. All ranks must call this.
    ///
    /// # Errors
    /// If a rank is gone.
    pub fn apply_ema(&mut self, optimizer: &Optimizer) -> Result<(), TrainError> {
        let applied = optimizer.apply_ema(self.weights());
        let whole_here = !self.model.decoder.params.is_shared();
        match &self.what {
            What::Weights { spread: Some(Spread { shards, .. }), .. } if applied && whole_here => {
                Ok(self.team.share_out(&self.model.decoder.params.flat, shards)?)
            }
            _ => Ok(()),
        }
    }

    /// Makes the gradients those of all ranks.
    fn sum_gradients(&self) -> Result<(), TrainError> {
        match &self.what {
            What::Weights { grads, spread: None } => {
                let everyone = self.team.world.everyone();
                let begun = grads.parts().iter().map(|stretch| {
                    let part = grads.flat.narrow(0, stretch.offset, stretch.numel);
                    everyone.sum(&format!("sum the gradients of {:?}", stretch.part), &part)
                });
                for pending in begun.collect::<Result<Vec<_>, _>>()? {
                    pending.wait()?;
                }
            }
            What::Weights { spread: Some(Spread { gradients, .. }), .. } => {
                gradients.finish()?;
                self.team.replicas.sum("sum the gradients of replicas", &gradients.sums())?.wait()?;
            }
            What::Adapters(beside) => {
                let everyone = self.team.world.everyone();
                everyone.sum("sum the gradients of the adapters", &beside.grads.flat)?.wait()?;
            }
        }
        Ok(())
    }

    /// Calls `f` with the model as it would generate now, whole: adapters merged into a copy of the weights, the shares of
    /// all ranks put together. All ranks must call this.
    ///
    /// # Errors
    /// If memory does not suffice for the copy, a rank is gone, and those of `f`.
    pub fn as_one<T, E: From<TrainError>>(&self, f: impl FnOnce(&LocalModel) -> Result<T, E>) -> Result<T, E> {
        let whole = match self.model.decoder.params.is_shared() {
            true => Some(self.team.whole(&self.model)?),
            false => None,
        };
        match (&self.what, &whole) {
            (What::Weights { .. }, _) => f(whole.as_ref().unwrap_or(&self.model)),
            (What::Adapters(beside), Some(copy)) => {
                beside.adapters.merge_into(&copy.decoder.params);
                f(copy)
            }
            (What::Adapters(beside), None) => f(&merged(&self.model, &beside.adapters)?),
        }
    }

    /// What `measure` says of the model as it would generate now. All ranks must call this.
    ///
    /// # Errors
    /// As [`Self::as_one`].
    pub fn measured_by(&self, measure: &mut Measure<'_>) -> Result<Vec<(String, f64)>, TrainError> {
        self.as_one(|model| measure(model, &self.team))
    }

    /// A copy of the model as it is now, adapters merged, spread over the ranks as the model is.
    ///
    /// # Errors
    /// If memory does not suffice.
    pub fn frozen(&self) -> Result<Decoder, TrainError> {
        let params = &self.model.decoder.params;
        Ok(match &self.what {
            What::Weights { .. } if params.is_shared() => {
                self.team.shared(params.spec(), self.team.shards_of(params.spec()), params.flat.copy())?
            }
            What::Weights { .. } => copied(&self.model)?,
            What::Adapters(_) => self.as_one(|one| self.team.take_share(copied(one)?))?,
        })
    }

    /// The whole model with whatever was trained in it. All ranks must call this.
    ///
    /// # Errors
    /// If memory does not suffice or a rank is gone.
    pub fn into_model(self) -> Result<LocalModel, TrainError> {
        let model = if self.model.decoder.params.is_shared() { self.team.whole(&self.model)? } else { self.model };
        if let What::Adapters(beside) = &self.what {
            beside.adapters.merge_into(&model.decoder.params);
        }
        Ok(model)
    }

    /// Writes a model folder, or an adapter folder in PEFT's format with the tokenizer; complete or not at all. `beside`
    /// may write more files into it before it appears. All ranks must call this: rank 0 writes the model, each calls `beside`,
    /// and rank 0 lets the folder appear when all are done.
    ///
    /// # Errors
    /// If it cannot be written or a rank is gone.
    pub fn save(&self, folder: &Path, beside: impl FnOnce(&Path) -> Result<(), LmError>) -> Result<(), TrainError> {
        let LocalModel { decoder, tokenizer, .. } = &self.model;
        let everyone = self.team.world.everyone();
        let all_at = |what: &str| everyone.barrier(what).map_err(|e| lost(&e));
        if !self.team.world.leads() {
            all_at("checkpoint: the folder is made")?;
            if matches!(self.what, What::Weights { .. }) {
                checkpoint::help_write(decoder)?;
            }
            beside(&checkpoint::partial(folder))?;
            all_at("checkpoint: all ranks have written")?;
            return Ok(all_at("checkpoint: it is there")?);
        }
        checkpoint::write_folder(folder, |partial| {
            all_at("checkpoint: the folder is made")?;
            match &self.what {
                What::Weights { .. } => checkpoint::write_model(partial, decoder, tokenizer)?,
                What::Adapters(own) => {
                    let layers = decoder.spec().num_hidden_layers;
                    adapter_files::save(partial, &own.adapters, layers, &own.base, own.dropout)?;
                    tokenizer.save(partial)?;
                }
            }
            beside(partial)?;
            all_at("checkpoint: all ranks have written")
        })?;
        Ok(all_at("checkpoint: it is there")?)
    }

    /// Takes over the numbers of a folder that [`Self::save`] wrote.
    ///
    /// # Errors
    /// If it does not hold what is trained here.
    pub fn restore(&mut self, folder: &Path) -> Result<(), TrainError> {
        let LocalModel { decoder, .. } = &self.model;
        let (place, saved) = match &self.what {
            What::Weights { .. } if decoder.params.is_shared() => {
                self.team.load_share(folder, &decoder.params.flat)?;
                return Ok(());
            }
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
