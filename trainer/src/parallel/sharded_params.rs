//! Sharded weights: a param unit is unsharded while it is used.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use distributed::{PendingCollective, RankGroup};
use lm::params::ParamUnit;
use lm::{LmError, ShardedStorage};
use tch::Tensor;

use super::shards::Shards;
use crate::error::rank_lost;

/// Weight storage that implements [`ShardedStorage`].
#[derive(Debug)]
pub struct ShardedParams {
    shards: Shards,
    shard: Tensor,
    group: RankGroup,
    buffers: Mutex<BTreeMap<ParamUnit, Buffer>>,
}

#[derive(Debug)]
struct Buffer {
    /// As long as all shards of the unit together.
    whole: Tensor,
    state: UnshardState,
}

#[derive(Debug)]
enum UnshardState {
    Away,
    Coming(PendingCollective),
    Here,
}

impl ShardedParams {
    /// Allocates buffers for a model that `shards` divides over `group`; `shard` is this rank's shard.
    ///
    /// # Errors
    /// If memory cannot be allocated.
    pub fn new(shards: Shards, shard: &Tensor, group: RankGroup) -> Result<Self, LmError> {
        let buffer = |padded: usize| -> Result<Buffer, LmError> {
            let whole = Tensor::f_empty([padded as i64], (shard.kind(), shard.device()))?;
            torch_ext::release_memory(&whole)?;
            Ok(Buffer { whole, state: UnshardState::Away })
        };
        let buffers = shards.units.iter().map(|unit_shard| Ok((unit_shard.unit, buffer(unit_shard.shard.padded())?)));
        let buffers = Mutex::new(buffers.collect::<Result<_, LmError>>()?);
        Ok(Self { shards, shard: shard.shallow_clone(), group, buffers })
    }

    fn buffers(&self) -> MutexGuard<'_, BTreeMap<ParamUnit, Buffer>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, buffers: &mut BTreeMap<ParamUnit, Buffer>, unit: ParamUnit) -> Result<(), LmError> {
        let buffer = buffers.get_mut(&unit).expect("every unit has a buffer");
        if !matches!(buffer.state, UnshardState::Away) {
            return Ok(());
        }
        torch_ext::restore_memory(&buffer.whole)?;
        let unit_shard = self.shards.unit_shard(unit);
        let own = self.shard.narrow(0, unit_shard.at as i64, unit_shard.shard.length() as i64);
        // `data()` has a version counter of its own, so autograd graphs that saved the weights do not see a modification.
        let coming = self.group.all_gather(&format!("gather the weights of {unit:?}"), &buffer.whole.data(), &own);
        buffer.state = UnshardState::Coming(coming.map_err(|e| rank_lost(&e))?);
        Ok(())
    }
}

impl ShardedStorage for ShardedParams {
    fn view(&self, unit: ParamUnit) -> Tensor {
        self.buffers()[&unit].whole.narrow(0, 0, self.shards.unit_shard(unit).shard.numel as i64)
    }

    fn unshard(&self, unit: ParamUnit, next: Option<ParamUnit>) -> Result<(), LmError> {
        let mut buffers = self.buffers();
        self.begin(&mut buffers, unit)?;
        let buffer = buffers.get_mut(&unit).expect("every unit has a buffer");
        if let UnshardState::Coming(coming) = std::mem::replace(&mut buffer.state, UnshardState::Here) {
            coming.wait().map_err(|e| rank_lost(&e))?;
        }
        next.map_or(Ok(()), |next| self.begin(&mut buffers, next))
    }

    fn reshard(&self, unit: ParamUnit) -> Result<(), LmError> {
        let mut buffers = self.buffers();
        let buffer = buffers.get_mut(&unit).expect("every unit has a buffer");
        if let UnshardState::Coming(coming) = std::mem::replace(&mut buffer.state, UnshardState::Away) {
            coming.wait().map_err(|e| rank_lost(&e))?;
        }
        Ok(torch_ext::release_memory(&buffer.whole)?)
    }
}
