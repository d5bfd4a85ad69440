//! The elements of a model that a rank holds: an equal shard of each param unit, so that one collective unshards a unit.

use std::ops::Range;

use distributed::Shard;
use lm::ModelConfig;
use lm::params::{self, ParamUnit};

use crate::optimizer::ParamGroup;

/// A param unit and its sharding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitShard {
    /// The param unit.
    pub unit: ParamUnit,
    /// Offset of the unit in the whole model's buffer.
    pub begin: usize,
    /// How the unit is sharded.
    pub shard: Shard,
    /// Offset of a rank's shard of the unit in the rank's buffer.
    pub at: usize,
}

/// The sharding of a model over ranks, as seen by one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shards {
    /// The param units, in the order of the model's buffer.
    pub units: Vec<UnitShard>,
    /// The rank within the shard group.
    pub rank: usize,
}

impl Shards {
    /// Returns the sharding of a model with this configuration over `ranks` ranks.
    pub fn new(spec: &ModelConfig, rank: usize, ranks: usize) -> Self {
        let mut at = 0;
        let unit_shard = |group: params::ParamRange| {
            let shard = Shard { numel: group.numel as usize, ranks };
            at += shard.length();
            UnitShard { unit: group.unit, begin: group.offset as usize, shard, at: at - shard.length() }
        };
        Self { units: params::units(&params::layout(spec)).into_iter().map(unit_shard).collect(), rank }
    }

    /// Returns the number of elements that a rank holds, including padding.
    pub fn length(&self) -> usize {
        self.units.last().map_or(0, |last| last.at + last.shard.length())
    }

    /// Returns the sharding of one param unit.
    pub fn unit_shard(&self, unit: ParamUnit) -> &UnitShard {
        self.units.iter().find(|unit_shard| unit_shard.unit == unit).expect("a unit of this model")
    }

    /// Returns this rank's elements, as ranges in the whole model's buffer and offsets in this rank's buffer.
    pub fn own(&self) -> impl Iterator<Item = (Range<usize>, usize)> {
        self.units.iter().map(|unit_shard| {
            let own = unit_shard.shard.of(self.rank);
            (unit_shard.begin + own.start..unit_shard.begin + own.end, unit_shard.at)
        })
    }

    /// Restricts param groups of the whole model's buffer to the elements that this rank holds. Their weight offsets refer to
    /// the whole model's buffer or, if `sharded`, to this rank's shard.
    pub fn cut(&self, whole: &[ParamGroup], sharded: bool) -> Vec<ParamGroup> {
        let mut found = Vec::new();
        for (own, at) in self.own() {
            for group in whole {
                let begin = own.start.max(group.weights as usize);
                let end = own.end.min((group.weights + group.length) as usize);
                if begin >= end {
                    continue;
                }
                let state = (at + begin - own.start) as i64;
                let weights = if sharded { state } else { begin as i64 };
                found.push(ParamGroup { weights, state, length: (end - begin) as i64, decays: group.decays });
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_cut_at_the_borders_of_shares() {
        // Two units of 100 and 40 elements over two ranks: shards of 64 and 32.
        let shard = |numel| Shard { numel, ranks: 2 };
        let units = vec![
            UnitShard { unit: ParamUnit::Embedding, begin: 0, shard: shard(100), at: 0 },
            UnitShard { unit: ParamUnit::Head, begin: 100, shard: shard(40), at: 64 },
        ];
        let second = Shards { units, rank: 1 };
        assert_eq!(second.length(), 96);
        assert_eq!(second.own().collect::<Vec<_>>(), [(64..100, 0), (132..140, 64)]);
        let whole = |from: i64, to: i64, decays| ParamGroup { weights: from, state: from, length: to - from, decays };
        let cut = |sharded| second.cut(&[whole(0, 90, true), whole(90, 140, false)], sharded);
        let group = |weights, state, length, decays| ParamGroup { weights, state, length, decays };
        assert_eq!(cut(false), [group(64, 0, 26, true), group(90, 26, 10, false), group(132, 64, 8, false)]);
        assert_eq!(cut(true), [group(0, 0, 26, true), group(26, 26, 10, false), group(64, 64, 8, false)]);
    }
}
