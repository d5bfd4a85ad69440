//! The ranks that train together.

use std::path::Path;
use std::time::Duration;

use configs::{ParallelConfig, Sharding};
use dist::{DistError, Group, Place, World, balanced};
use lm::{Decoder, LmError, LocalModel, ModelSpec, Params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tch::{Device, Tensor};

use super::shards::Shards;
use super::weights::SharedWeights;
use crate::TrainError;

/// All ranks of a job, and what each of them holds.
#[derive(Clone, Debug)]
pub struct Team {
    /// All ranks.
    pub world: World,
    /// What each holds.
    pub sharding: Sharding,
    /// The ranks that hold a model together.
    pub shards: Group,
    /// The ranks that hold the same share as this one.
    pub replicas: Group,
}

/// A collective that failed, inside the model.
pub(crate) fn lost(error: &DistError) -> LmError {
    LmError::Lost(error.to_string())
}

impl Team {
    /// A process without peers.
    pub fn alone() -> Self {
        let world = World::alone();
        let own = world.everyone().clone();
        Self { world, sharding: Sharding::Replicate, shards: own.clone(), replicas: own }
    }

    /// Meets the other ranks, as the environment tells of them.
    ///
    /// # Errors
    /// [`TrainError::Environment`] if the environment or the configuration does not fit the ranks;
    /// [`TrainError::Ranks`] if they do not find each other.
    pub fn join(place: &Place, device: Device, config: &ParallelConfig) -> Result<Self, TrainError> {
        let ranks = place.world_size;
        if ranks == 1 {
            return Ok(Self::alone());
        }
        let within = if config.shard_within == 0 { ranks } else { config.shard_within };
        if !ranks.is_multiple_of(within) {
            return Err(TrainError::Environment(format!(
                "parallel.shard_within = {within} does not divide the {ranks} ranks; choose a divisor, such as the ranks of a \
                 node"
            )));
        }
        let world = World::join(place, device, Duration::from_secs_f64(config.timeout_seconds))?;
        let (shards, replicas) = match config.sharding {
            Sharding::Full if within < ranks => world.split(within)?,
            _ => (world.everyone().clone(), World::alone().everyone().clone()),
        };
        Ok(Self { world, sharding: config.sharding, shards, replicas })
    }

    /// Whether every rank must make as many passes as every other, because each pass sends.
    pub fn in_step(&self) -> bool {
        self.world.size() > 1 && self.sharding != Sharding::Replicate
    }

    /// How a model is spread over the ranks that hold it together.
    pub fn shards_of(&self, spec: &ModelSpec) -> Shards {
        Shards::new(spec, self.shards.rank(), self.shards.size())
    }

    /// Whether each rank holds only its share of the weights.
    pub fn spreads_weights(&self) -> bool {
        self.sharding == Sharding::Full && self.shards.size() > 1
    }

    /// Items spread over the ranks, by cost; what each rank has is in ascending order.
    pub fn spread(&self, costs: &[f64]) -> Vec<Vec<usize>> {
        balanced(costs, self.world.size())
    }

    /// Puts together what ranks have worked out for the items that [`Self::spread`] gave them: the results in the order of
    /// the items, on every rank.
    ///
    /// # Errors
    /// If a rank is gone.
    pub fn together<T: Serialize + DeserializeOwned>(
        &self,
        what: &str,
        spread: &[Vec<usize>],
        own: Vec<T>,
    ) -> Result<Vec<T>, TrainError> {
        if self.world.size() == 1 {
            return Ok(own);
        }
        let unreadable = |e: serde_json::Error| TrainError::Data(format!("{what}: {e}"));
        let bytes = serde_json::to_vec(&own).map_err(unreadable)?;
        let mut placed: Vec<(usize, T)> = Vec::new();
        for (items, bytes) in spread.iter().zip(self.world.everyone().gather(what, &bytes)?) {
            let results: Vec<T> = serde_json::from_slice(&bytes).map_err(unreadable)?;
            placed.extend(items.iter().copied().zip(results));
        }
        placed.sort_by_key(|(item, _)| *item);
        Ok(placed.into_iter().map(|(_, result)| result).collect())
    }

    /// Makes sure that all ranks have come to the same numbers in a step.
    ///
    /// # Errors
    /// [`TrainError::Ranks`] naming those that have not.
    pub fn same_step(&self, step: u64, numbers: &[f64]) -> Result<(), TrainError> {
        if self.world.size() > 1 {
            let words: Vec<String> = numbers.iter().map(f64::to_string).collect();
            self.world.everyone().agree(&format!("step {step}"), words.join(" ").as_bytes())?;
        }
        Ok(())
    }

    /// A model that is whole here, spread if that is the team's way.
    ///
    /// # Errors
    /// If memory does not suffice.
    pub fn take_share(&self, whole: Decoder) -> Result<Decoder, TrainError> {
        if !self.spreads_weights() {
            return Ok(whole);
        }
        let spec = whole.spec().clone();
        let shards = self.shards_of(&spec);
        let flat = &whole.params.flat;
        let share = Tensor::f_zeros([shards.length() as i64], (flat.kind(), flat.device()))?;
        for (own, at) in shards.own() {
            let numbers = flat.narrow(0, own.start as i64, own.len() as i64);
            tch::no_grad(|| share.narrow(0, at as i64, own.len() as i64).copy_(&numbers));
        }
        drop(whole);
        self.shared(&spec, shards, share)
    }

    /// A spread model of which `share` is here.
    pub(crate) fn shared(&self, spec: &ModelSpec, shards: Shards, share: Tensor) -> Result<Decoder, TrainError> {
        let spread = SharedWeights::new(shards, &share, self.shards.clone())?;
        Ok(Decoder::new(Params::shared(spec, share, Box::new(spread))))
    }

    /// Reads this rank's share of a model folder into `share`.
    ///
    /// # Errors
    /// As [`lm::checkpoint::load`].
    pub fn load_share(&self, folder: &Path, share: &Tensor) -> Result<(), TrainError> {
        let spec = ModelSpec::load(folder)?;
        let shards = self.shards_of(&spec);
        if share.numel() != shards.length() {
            return Err(TrainError::Data(format!(
                "{}: a rank's share of that model has {} numbers, of this run's {}; it is another model",
                folder.display(),
                shards.length(),
                share.numel()
            )));
        }
        let entries = lm::params::layout(&spec);
        lm::checkpoint::load_some(folder, &spec, &entries, |entry| {
            let piece = shards.piece(entry.part);
            let own = piece.share.of(shards.rank);
            let first = entry.offset as usize - piece.begin;
            let (begin, end) = (own.start.max(first), own.end.min(first + entry.numel() as usize));
            (begin < end).then(|| {
                let place = share.narrow(0, (piece.at + begin - own.start) as i64, (end - begin) as i64);
                (begin - first..end - first, place)
            })
        })?;
        Ok(())
    }

    /// A spread model, whole, for generation. All ranks must call this.
    ///
    /// # Errors
    /// If memory does not suffice or a rank is gone.
    pub fn whole(&self, model: &LocalModel) -> Result<LocalModel, TrainError> {
        let params = &model.decoder.params;
        let whole = Params::zeros(params.spec(), params.flat.kind(), params.flat.device())?;
        let stretches = params.parts();
        for (i, stretch) in stretches.iter().enumerate() {
            params.gather(stretch.part, stretches.get(i + 1).map(|next| next.part))?;
            let place = whole.flat.narrow(0, stretch.offset, stretch.numel);
            tch::no_grad(|| place.shallow_clone().copy_(&params.place(stretch.part)));
            params.release(stretch.part)?;
        }
        let mut one = LocalModel::new(chat::Completer::name(model), Decoder::new(whole), model.tokenizer.clone())?;
        one.limits = model.limits;
        Ok(one)
    }

    /// Makes every rank's parameters those that their holders have now: after an update of shares of `flat`, which every
    /// rank holds whole.
    ///
    /// # Errors
    /// If a rank is gone.
    pub(crate) fn share_out(&self, flat: &Tensor, shards: &Shards) -> Result<(), TrainError> {
        let mut before = None;
        for piece in &shards.pieces {
            let own = piece.share.of(shards.rank);
            let input = Tensor::f_zeros([piece.share.length() as i64], (flat.kind(), flat.device()))?;
            let numbers = flat.narrow(0, (piece.begin + own.start) as i64, own.len() as i64);
            tch::no_grad(|| input.narrow(0, 0, own.len() as i64).copy_(&numbers));
            let output = Tensor::f_empty([piece.share.padded() as i64], (flat.kind(), flat.device()))?;
            let what = format!("share out the weights of {:?}", piece.part);
            let pending = self.shards.all_shares(&what, &output, &input)?;
            if let Some(arrived) = before.replace((piece, output, pending)) {
                arrive(flat, arrived)?;
            }
        }
        before.map_or(Ok(()), |last| arrive(flat, last))
    }
}

fn arrive(
    flat: &Tensor,
    (piece, output, pending): (&super::shards::Piece, Tensor, dist::Pending),
) -> Result<(), TrainError> {
    pending.wait()?;
    let numel = piece.share.numel as i64;
    tch::no_grad(|| flat.narrow(0, piece.begin as i64, numel).copy_(&output.narrow(0, 0, numel)));
    Ok(())
}
