//! The ranks that train together.

use std::path::Path;
use std::time::Duration;

use configs::{ParallelConfig, Sharding};
use distributed::{RankEnv, RankGroup, World, balanced};
use lm::{Decoder, LocalModel, ModelConfig, Params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tch::{Device, Tensor};

use super::sharded_params::ShardedParams;
use super::shards::Shards;
use crate::TrainError;

/// The ranks of a job, and the sharding of the model over them.
#[derive(Clone, Debug)]
pub struct ParallelContext {
    /// All ranks.
    pub world: World,
    /// What is sharded: DDP, ZeRO-2 or FSDP.
    pub sharding: Sharding,
    /// The process group over which a model is sharded.
    pub shards: RankGroup,
    /// The process group of the ranks that hold the same shard as this one.
    pub replicas: RankGroup,
}

impl ParallelContext {
    /// Returns the context of a single process.
    pub fn single() -> Self {
        let world = World::single();
        let own = world.world_group().clone();
        Self { world, sharding: Sharding::Replicate, shards: own.clone(), replicas: own }
    }

    /// Joins the process group that the environment describes.
    ///
    /// # Errors
    /// [`TrainError::Environment`] if the environment or the configuration does not fit the ranks; [`TrainError::Ranks`] if the
    /// ranks cannot connect.
    pub fn join(place: &RankEnv, device: Device, config: &ParallelConfig) -> Result<Self, TrainError> {
        let ranks = place.world_size;
        if ranks == 1 {
            return Ok(Self::single());
        }
        let within = if config.hsdp_shard_size == 0 { ranks } else { config.hsdp_shard_size };
        if !ranks.is_multiple_of(within) {
            return Err(TrainError::Environment(format!(
                "parallel.hsdp_shard_size = {within} does not divide the {ranks} ranks; choose a divisor, such as the ranks of a \
                 node"
            )));
        }
        let world = World::join(place, device, Duration::from_secs_f64(config.timeout_seconds))?;
        let (shards, replicas) = match config.sharding {
            Sharding::Full if within < ranks => world.split(within)?,
            _ => (world.world_group().clone(), World::single().world_group().clone()),
        };
        Ok(Self { world, sharding: config.sharding, shards, replicas })
    }

    /// Returns whether all ranks must run the same number of micro-batches, because each micro-batch runs collectives.
    pub fn in_step(&self) -> bool {
        self.world.size() > 1 && self.sharding != Sharding::Replicate
    }

    /// Returns how a model is sharded over the ranks of its shard group.
    pub fn shards_of(&self, spec: &ModelConfig) -> Shards {
        Shards::new(spec, self.shards.rank(), self.shards.size())
    }

    /// Returns whether each rank holds only a shard of the weights.
    pub fn shards_params(&self) -> bool {
        self.sharding == Sharding::Full && self.shards.size() > 1
    }

    /// Divides items over the ranks by cost; the items of each rank are in ascending order.
    pub fn spread(&self, costs: &[f64]) -> Vec<Vec<usize>> {
        balanced(costs, self.world.size())
    }

    /// Gathers the results of the items that [`Self::spread`] divided over the ranks. Returns the results in the order of the
    /// items, on every rank.
    ///
    /// # Errors
    /// If a rank is lost.
    pub fn all_gather_object<T: Serialize + DeserializeOwned>(
        &self,
        what: &str,
        spread: &[Vec<usize>],
        own: Vec<T>,
    ) -> Result<Vec<T>, TrainError> {
        if self.world.size() == 1 {
            return Ok(own);
        }
        let unreadable = |e: postcard::Error| TrainError::Data(format!("{what}: {e}"));
        let bytes = postcard::to_stdvec(&own).map_err(unreadable)?;
        let mut placed: Vec<(usize, T)> = Vec::new();
        for (items, bytes) in spread.iter().zip(self.world.world_group().all_gather_bytes(what, &bytes)?) {
            let results: Vec<T> = postcard::from_bytes(&bytes).map_err(unreadable)?;
            placed.extend(items.iter().copied().zip(results));
        }
        placed.sort_by_key(|(item, _)| *item);
        Ok(placed.into_iter().map(|(_, result)| result).collect())
    }

    /// Runs `f` on rank 0 and returns its result on every rank. If it fails, the other ranks end when rank 0 reports its failure
    /// ([`World::report_failure`]).
    ///
    /// # Errors
    /// The error of `f` on rank 0; on the other ranks, that rank 0 failed.
    pub fn on_rank_zero<T: Serialize + DeserializeOwned>(
        &self,
        what: &str,
        f: impl FnOnce() -> Result<T, TrainError>,
    ) -> Result<T, TrainError> {
        if self.world.size() == 1 {
            return f();
        }
        let unreadable = |e: postcard::Error| TrainError::Data(format!("{what}: {e}"));
        let own = match self.world.is_rank_zero() {
            true => postcard::to_stdvec(&f()?).map_err(unreadable)?,
            false => Vec::new(),
        };
        let bytes = self.world.world_group().broadcast(what, &own)?;
        postcard::from_bytes(&bytes).map_err(unreadable)
    }

    /// Asserts that all ranks computed the same numbers in a step.
    ///
    /// # Errors
    /// [`TrainError::Ranks`], which names the ranks that diverged.
    pub fn assert_same_step(&self, step: u64, numbers: &[f64]) -> Result<(), TrainError> {
        if self.world.size() > 1 {
            let words: Vec<String> = numbers.iter().map(f64::to_string).collect();
            self.world.world_group().assert_same_on_all_ranks(&format!("step {step}"), words.join(" ").as_bytes())?;
        }
        Ok(())
    }

    /// Returns a whole model, sharded if the context shards parameters.
    ///
    /// # Errors
    /// If memory cannot be allocated.
    pub fn shard(&self, whole: Decoder) -> Result<Decoder, TrainError> {
        if !self.shards_params() {
            return Ok(whole);
        }
        let spec = whole.spec().clone();
        let shards = self.shards_of(&spec);
        let flat = &whole.params.flat;
        let shard = Tensor::f_zeros([shards.length() as i64], (flat.kind(), flat.device()))?;
        for (own, at) in shards.own() {
            let numbers = flat.narrow(0, own.start as i64, own.len() as i64);
            tch::no_grad(|| shard.narrow(0, at as i64, own.len() as i64).copy_(&numbers));
        }
        drop(whole);
        self.sharded(&spec, shards, shard)
    }

    /// Returns the sharded model of which this rank holds `shard`.
    pub(crate) fn sharded(&self, spec: &ModelConfig, shards: Shards, shard: Tensor) -> Result<Decoder, TrainError> {
        let spread = ShardedParams::new(shards, &shard, self.shards.clone())?;
        Ok(Decoder::new(Params::sharded(spec, shard, Box::new(spread))))
    }

    /// Loads this rank's shard of a model folder into `shard`.
    ///
    /// # Errors
    /// As [`lm::checkpoint::load`].
    pub fn load_shard(&self, folder: &Path, shard: &Tensor) -> Result<(), TrainError> {
        let spec = ModelConfig::load(folder)?;
        let shards = self.shards_of(&spec);
        if shard.numel() != shards.length() {
            return Err(TrainError::Data(format!(
                "{}: a rank's shard of this model has {} elements, but this run needs {}; the models differ",
                folder.display(),
                shards.length(),
                shard.numel()
            )));
        }
        let entries = lm::params::layout(&spec);
        lm::checkpoint::load_some(folder, &spec, &entries, |entry| {
            let unit_shard = shards.unit_shard(entry.unit);
            let own = unit_shard.shard.of(shards.rank);
            let first = entry.offset as usize - unit_shard.begin;
            let (begin, end) = (own.start.max(first), own.end.min(first + entry.numel() as usize));
            (begin < end).then(|| {
                let place = shard.narrow(0, (unit_shard.at + begin - own.start) as i64, (end - begin) as i64);
                (begin - first..end - first, place)
            })
        })?;
        Ok(())
    }

    /// Returns an unsharded copy of a sharded model, for generation. All ranks must call this.
    ///
    /// # Errors
    /// If memory cannot be allocated or a rank is lost.
    pub fn unshard(&self, model: &LocalModel) -> Result<LocalModel, TrainError> {
        let params = &model.decoder.params;
        let whole = Params::zeros(params.spec(), params.flat.kind(), params.flat.device())?;
        let ranges = params.units();
        for (i, range) in ranges.iter().enumerate() {
            params.unshard(range.unit, ranges.get(i + 1).map(|next| next.unit))?;
            let place = whole.flat.narrow(0, range.offset, range.numel);
            tch::no_grad(|| place.shallow_clone().copy_(&params.unit_view(range.unit)));
            params.reshard(range.unit)?;
        }
        let mut one = LocalModel::new(chat::Completer::name(model), Decoder::new(whole), model.tokenizer.clone())?;
        one.limits = model.limits;
        one.prompts.clone_from(&model.prompts);
        Ok(one)
    }

    /// All-gathers the parameters after each rank updated its shard of `flat`, which every rank holds whole.
    ///
    /// # Errors
    /// If a rank is lost.
    pub(crate) fn all_gather_params(&self, flat: &Tensor, shards: &Shards) -> Result<(), TrainError> {
        let mut before = None;
        for unit_shard in &shards.units {
            let own = unit_shard.shard.of(shards.rank);
            let input = Tensor::f_zeros([unit_shard.shard.length() as i64], (flat.kind(), flat.device()))?;
            let numbers = flat.narrow(0, (unit_shard.begin + own.start) as i64, own.len() as i64);
            tch::no_grad(|| input.narrow(0, 0, own.len() as i64).copy_(&numbers));
            let output = Tensor::f_empty([unit_shard.shard.padded() as i64], (flat.kind(), flat.device()))?;
            let what = format!("shard out the weights of {:?}", unit_shard.unit);
            let pending = self.shards.all_gather(&what, &output, &input)?;
            if let Some(arrived) = before.replace((unit_shard, output, pending)) {
                arrive(flat, arrived)?;
            }
        }
        before.map_or(Ok(()), |last| arrive(flat, last))
    }
}

fn arrive(
    flat: &Tensor,
    (unit_shard, output, pending): (&super::shards::UnitShard, Tensor, distributed::PendingCollective),
) -> Result<(), TrainError> {
    pending.wait()?;
    let numel = unit_shard.shard.numel as i64;
    tch::no_grad(|| flat.narrow(0, unit_shard.begin as i64, numel).copy_(&output.narrow(0, 0, numel)));
    Ok(())
}
