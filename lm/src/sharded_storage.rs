//! Storage of a model that is sharded over several ranks.

use tch::Tensor;

use crate::LmError;
use crate::params::ParamUnit;

/// Storage of param units, each sharded over several ranks. All ranks must make the same calls in the same order.
pub trait ShardedStorage: std::fmt::Debug {
    /// Returns the unsharded elements of a unit, `[numel]`. It is always the same tensor, on which graphs are built. Its memory is
    /// allocated only from [`Self::unshard`] to [`Self::reshard`].
    fn view(&self, unit: ParamUnit) -> Tensor;

    /// All-gathers the elements of a unit into its tensor. Does nothing if the unit is unsharded already. `next` is the unit that
    /// is needed next, which the storage may prefetch.
    ///
    /// # Errors
    /// If memory cannot be allocated or another rank is lost.
    fn unshard(&self, unit: ParamUnit, next: Option<ParamUnit>) -> Result<(), LmError>;

    /// Releases a unit until it is needed again. Weights are freed; gradients are reduce-scattered: they are summed, and each
    /// rank keeps its shard.
    ///
    /// # Errors
    /// If another rank is lost.
    fn reshard(&self, unit: ParamUnit) -> Result<(), LmError>;
}
