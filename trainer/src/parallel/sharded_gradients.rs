//! Sharded gradients. The gradients of a param unit are reduce-scattered as soon as a backward pass has computed them,
//! overlapping with the backward pass of the next unit.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use distributed::{PendingCollective, RankGroup};
use lm::params::ParamUnit;
use lm::{LmError, ShardedStorage};
use tch::{Device, Kind, Tensor};

use super::shards::Shards;
use crate::error::rank_lost;

/// Maximum number of reduce-scatters in flight; each holds the gradients of a param unit.
const ON_THE_WAY: usize = 1;

/// Gradient storage that implements [`ShardedStorage`]; clones share it.
#[derive(Clone, Debug)]
pub struct ShardedGradients(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shards: Shards,
    group: RankGroup,
    moving: Mutex<Moving>,
}

#[derive(Debug)]
struct Moving {
    /// This rank's shard of the sums, over all micro-batches.
    sums: Tensor,
    buffers: BTreeMap<ParamUnit, Buffer>,
    on_the_way: VecDeque<(ParamUnit, Tensor, PendingCollective)>,
}

#[derive(Debug)]
struct Buffer {
    whole: Tensor,
    here: bool,
}

impl ShardedGradients {
    /// Allocates gradients of `kind` for a model that `shards` divides over `group`.
    ///
    /// # Errors
    /// If memory cannot be allocated.
    pub fn new(shards: Shards, group: RankGroup, (kind, device): (Kind, Device)) -> Result<Self, LmError> {
        let buffer = |padded: usize| -> Result<Buffer, LmError> {
            let whole = Tensor::f_empty([padded as i64], (kind, device))?;
            torch_ext::release_memory(&whole)?;
            Ok(Buffer { whole, here: false })
        };
        let buffers = shards.units.iter().map(|unit_shard| Ok((unit_shard.unit, buffer(unit_shard.shard.padded())?)));
        let buffers = buffers.collect::<Result<_, LmError>>()?;
        let sums = Tensor::f_zeros([shards.length() as i64], (kind, device))?;
        let moving = Mutex::new(Moving { sums, buffers, on_the_way: VecDeque::new() });
        Ok(Self(Arc::new(Inner { shards, group, moving })))
    }

    /// Returns this rank's shard of the sums; complete after [`Self::finish`].
    pub fn sums(&self) -> Tensor {
        self.0.moving().sums.shallow_clone()
    }

    /// Waits for the reduce-scatters in flight.
    ///
    /// # Errors
    /// If another rank is lost.
    pub fn finish(&self) -> Result<(), LmError> {
        let mut moving = self.0.moving();
        while !moving.on_the_way.is_empty() {
            self.0.settle(&mut moving)?;
        }
        Ok(())
    }
}

impl Inner {
    fn moving(&self) -> MutexGuard<'_, Moving> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the oldest reduce-scatter in flight, and accumulates its result.
    fn settle(&self, moving: &mut Moving) -> Result<(), LmError> {
        let Some((unit, shard, pending)) = moving.on_the_way.pop_front() else { return Ok(()) };
        pending.wait().map_err(|e| rank_lost(&e))?;
        let unit_shard = self.shards.unit_shard(unit);
        let sum = moving.sums.narrow(0, unit_shard.at as i64, unit_shard.shard.length() as i64);
        let _ = tch::no_grad(|| sum.shallow_clone().g_add_(&shard));
        Ok(torch_ext::release_memory(&moving.buffers[&unit].whole)?)
    }
}

impl ShardedStorage for ShardedGradients {
    fn view(&self, unit: ParamUnit) -> Tensor {
        self.0.moving().buffers[&unit].whole.narrow(0, 0, self.0.shards.unit_shard(unit).shard.numel as i64)
    }

    fn unshard(&self, unit: ParamUnit, _: Option<ParamUnit>) -> Result<(), LmError> {
        let mut moving = self.0.moving();
        if moving.buffers[&unit].here {
            return Ok(());
        }
        while moving.on_the_way.iter().any(|(busy, ..)| *busy == unit) {
            self.0.settle(&mut moving)?;
        }
        let buffer = moving.buffers.get_mut(&unit).expect("every unit has a buffer");
        torch_ext::restore_memory(&buffer.whole)?;
        let _ = tch::no_grad(|| buffer.whole.data().zero_());
        buffer.here = true;
        Ok(())
    }

    fn reshard(&self, unit: ParamUnit) -> Result<(), LmError> {
        let mut moving = self.0.moving();
        let buffer = moving.buffers.get_mut(&unit).expect("every unit has a buffer");
        buffer.here = false;
        let whole = buffer.whole.data();
        let length = self.0.shards.unit_shard(unit).shard.length() as i64;
        let shard = Tensor::f_empty([length], (whole.kind(), whole.device()))?;
        let pending = self.0.group.reduce_scatter(&format!("sum the gradients of {unit:?}"), &shard, &whole);
        moving.on_the_way.push_back((unit, shard, pending.map_err(|e| rank_lost(&e))?));
        while moving.on_the_way.len() > ON_THE_WAY {
            self.0.settle(&mut moving)?;
        }
        Ok(())
    }
}
