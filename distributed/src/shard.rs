//! Sharding of buffers, and load balancing over ranks.

use std::ops::Range;

/// Number of elements to which the length of a shard is rounded up, so that shards begin at whole cache lines.
const GRAIN: usize = 32;

/// `numel` elements, sharded evenly over `ranks` ranks; the last shards may end in padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Total number of elements, without padding.
    pub numel: usize,
    /// Number of ranks.
    pub ranks: usize,
}

impl Shard {
    /// Returns the number of elements of one rank's shard, including padding.
    pub fn length(self) -> usize {
        self.numel.div_ceil(self.ranks).next_multiple_of(GRAIN)
    }

    /// Returns the number of elements of all shards, including padding.
    pub fn padded(self) -> usize {
        self.length() * self.ranks
    }

    /// Returns the range of the elements of `rank`, without padding.
    pub fn of(self, rank: usize) -> Range<usize> {
        let begin = (rank * self.length()).min(self.numel);
        begin..(begin + self.length()).min(self.numel)
    }
}

/// Balances items over ranks by their costs with the longest-first rule: each item, in descending order of cost, goes to the rank
/// with the minimum load so far. Returns the items of each rank in ascending order. The result is the same on every rank.
pub fn balanced(costs: &[f64], ranks: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..costs.len()).collect();
    order.sort_by(|&a, &b| costs[b].total_cmp(&costs[a]).then(a.cmp(&b)));
    let (mut loads, mut found) = (vec![0.0_f64; ranks], vec![Vec::new(); ranks]);
    for item in order {
        let least = (0..ranks).min_by(|&a, &b| loads[a].total_cmp(&loads[b])).unwrap_or(0);
        loads[least] += costs[item];
        found[least].push(item);
    }
    found.iter_mut().for_each(|items| items.sort_unstable());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_everything_once() {
        for (numel, ranks) in [(1, 1), (100, 4), (129, 4), (31, 8), (0, 3), (4096, 2)] {
            let share = Shard { numel, ranks };
            let all: Vec<usize> = (0..ranks).flat_map(|rank| share.of(rank)).collect();
            assert_eq!(all, (0..numel).collect::<Vec<_>>(), "{numel} over {ranks}");
            assert!(share.length().is_multiple_of(GRAIN) && share.padded() >= numel);
        }
    }

    #[test]
    fn the_dearest_item_goes_first_to_the_least_loaded_rank() {
        // Loads: 7 | 5, then 4 goes to the 5 (9), 3 to the 7 (10), 2 to the 9.
        assert_eq!(balanced(&[3.0, 7.0, 2.0, 5.0, 4.0], 2), [vec![0, 1], vec![2, 3, 4]]);
        assert_eq!(balanced(&[1.0], 3), [vec![0], vec![], vec![]]);
        assert_eq!(balanced(&[1.0, 1.0, 1.0, 1.0], 2), [vec![0, 2], vec![1, 3]]);
    }
}
