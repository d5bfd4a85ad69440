//! The division of a step into mini-batches and micro-batches as AlignXplore+ was trained on a fixed number of ranks (verl). It
//! is a function of the lengths of the responses alone, so it does not depend on how many ranks run.
//!
//! The responses of each stage are dealt to the ranks in equal numbers, so that the sums of their lengths are close
//! ([`balanced_partitions`]). The stages are then concatenated, each in the order of its partitions, and the whole is cut into
//! one contiguous piece per rank. With two stages of equal size, the first half of the ranks therefore holds stage 1, and the
//! second half stage 2. Each rank cuts its piece, in order, into mini-batches, and these into micro-batches.

use std::collections::BinaryHeap;

use configs::rl::{AlgorithmConfig, RolloutConfig};

use super::group::Group;

/// The place of a response in the updates of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchSlot {
    /// The published rank, from 0.
    pub rank: usize,
    /// The mini-batch of the step, from 0.
    pub mini_batch: usize,
    /// The micro-batch of the rank's mini-batch, from 0.
    pub micro_batch: usize,
}

/// The sizes of published mini-batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The number of published ranks.
    pub ranks: usize,
    /// The number of responses of a rank in a full mini-batch.
    pub mini_batch: usize,
    /// The number of responses in a full micro-batch.
    pub micro_batch: usize,
}

impl Layout {
    /// Returns the configured layout.
    pub fn new(config: &AlgorithmConfig, rollout: &RolloutConfig) -> Self {
        Self {
            ranks: config.published_ranks,
            mini_batch: config.published_minibatch_size(rollout),
            micro_batch: config.micro_batch_sequences,
        }
    }

    /// Returns the number of micro-batches of a rank's full mini-batch.
    pub fn micro_batches(&self) -> usize {
        self.mini_batch.div_ceil(self.micro_batch)
    }

    /// Returns the index of a slot's micro-batch among those of all ranks in its mini-batch.
    pub fn micro_batch_of(&self, slot: BatchSlot) -> usize {
        slot.rank * self.micro_batches() + slot.micro_batch
    }

    /// Returns the slot of each response. `stages` holds the lengths of each stage's responses, prompts included, in the order
    /// of rollout. If a step is short, the sizes of partitions and of pieces differ by at most one.
    pub fn slots(&self, stages: &[Vec<usize>]) -> Vec<Vec<BatchSlot>> {
        let mut order: Vec<(usize, usize)> = Vec::new();
        for (stage, lengths) in stages.iter().enumerate() {
            order.extend(balanced_partitions(lengths, self.ranks).into_iter().flatten().map(|i| (stage, i)));
        }
        let mut slots: Vec<Vec<BatchSlot>> =
            stages.iter().map(|lengths| vec![BatchSlot::default(); lengths.len()]).collect();
        for rank in 0..self.ranks {
            let piece = order.len() * rank / self.ranks..order.len() * (rank + 1) / self.ranks;
            for (at, &(stage, i)) in order[piece].iter().enumerate() {
                let micro_batch = at % self.mini_batch / self.micro_batch;
                slots[stage][i] = BatchSlot { rank, mini_batch: at / self.mini_batch, micro_batch };
            }
        }
        slots
    }
}

/// Returns the published slots of a step's samples, in the shape of its groups. Samples that take no part in the update have
/// slots too, so that leaving them out moves no other sample.
pub fn slots(groups: &[Group], config: &AlgorithmConfig, rollout: &RolloutConfig) -> Vec<Vec<BatchSlot>> {
    let stages = groups.iter().map(|g| g.stage + 1).max().unwrap_or(0);
    let mut lengths = vec![Vec::new(); stages];
    for group in groups {
        lengths[group.stage].extend(group.samples.iter().map(|sample| group.prompt.len() + sample.ids.len()));
    }
    let found = Layout::new(config, rollout).slots(&lengths);
    let mut found: Vec<_> = found.into_iter().map(Vec::into_iter).collect();
    groups.iter().map(|group| found[group.stage].by_ref().take(group.samples.len()).collect()).collect()
}

/// Items of a partition. The order of the fields is the order of comparison.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Subset {
    /// The sum of the lengths.
    sum: usize,
    /// The number of items.
    count: usize,
    /// The items and their lengths, in the order in which they were added.
    items: Vec<(usize, usize)>,
}

/// One subset for each partition, the largest first. A state with a larger spread compares as greater, then one with a larger
/// first subset.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    /// The difference between the largest and the smallest sum.
    spread: usize,
    subsets: Vec<Subset>,
}

impl State {
    fn new(mut subsets: Vec<Subset>) -> Self {
        subsets.sort_unstable_by(|a, b| b.cmp(a));
        let sum = |subset: Option<&Subset>| subset.map_or(0, |s| s.sum);
        Self { spread: sum(subsets.first()) - sum(subsets.last()), subsets }
    }

    /// Adds the smallest subset of `other` to the largest of this state, the second smallest to the second largest, and so on.
    fn merge(self, other: Self) -> Self {
        let join = |(mut large, small): (Subset, Subset)| {
            large.sum += small.sum;
            large.count += small.count;
            large.items.extend(small.items);
            large
        };
        Self::new(self.subsets.into_iter().zip(other.subsets.into_iter().rev()).map(join).collect())
    }
}

/// Divides items of these lengths into `partitions` partitions of equal numbers of items, so that the sums of their lengths are
/// close, with the largest differencing method (Karmarkar and Karp 1982) on tuples of items of similar length. Returns ascending
/// indices; the partition with the largest sum comes first.
///
/// If the number of items is not a multiple of `partitions`, items of length 0 fill it up and are then removed, so sizes differ
/// by at most one.
pub fn balanced_partitions(lengths: &[usize], partitions: usize) -> Vec<Vec<usize>> {
    let padded = lengths.len().next_multiple_of(partitions);
    let mut items: Vec<(usize, usize)> = (0..padded).map(|i| (lengths.get(i).copied().unwrap_or(0), i)).collect();
    items.sort_unstable();
    let tuple = |items: &[(usize, usize)]| {
        State::new(items.iter().map(|&(sum, i)| Subset { sum, count: 1, items: vec![(i, sum)] }).collect())
    };
    let mut states: BinaryHeap<State> = items.chunks(partitions).map(tuple).collect();
    loop {
        let Some(largest) = states.pop() else { return vec![Vec::new(); partitions] };
        let Some(next) = states.pop() else { return indices(largest, lengths.len()) };
        states.push(largest.merge(next));
    }
}

/// Returns the indices below `count` of each subset, ascending.
fn indices(state: State, count: usize) -> Vec<Vec<usize>> {
    let of = |subset: Subset| {
        let mut found: Vec<usize> = subset.items.into_iter().map(|(i, _)| i).filter(|&i| i < count).collect();
        found.sort_unstable();
        found
    };
    state.subsets.into_iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_by_hand() {
        // The pairs (3, 10) and (1, 2) differ by 7 and 1; 10 joins 1, and 3 joins 2.
        assert_eq!(balanced_partitions(&[1, 2, 3, 10], 2), [[0, 3], [1, 2]]);
        // Three pairs that differ by 1. The largest two make 9 + 6 and 8 + 7, which differ by 0; then 5 joins one of them.
        assert_eq!(balanced_partitions(&[4, 5, 6, 7, 8, 9], 2), [[1, 3, 4], [0, 2, 5]]);
        // Equal lengths: the later item counts as the larger.
        assert_eq!(balanced_partitions(&[5, 5, 5, 5], 2), [[0, 3], [1, 2]]);
        assert_eq!(balanced_partitions(&[7, 1, 4], 3), [[0], [2], [1]]);
        assert_eq!(balanced_partitions(&[2, 1], 1), [[0, 1]]);
        // Filled up with a length of 0, which joins 9.
        assert_eq!(balanced_partitions(&[9, 4, 6], 2), [vec![1, 2], vec![0]]);
        assert_eq!(balanced_partitions(&[], 2), [Vec::<usize>::new(), Vec::new()]);
    }

    #[test]
    fn slots_by_hand() {
        // Two ranks: partitions [0, 3] and [1, 2] of either stage, so the order is 0, 3, 1, 2 and a stage is one rank's piece.
        let layout = Layout { ranks: 2, mini_batch: 2, micro_batch: 1 };
        let slots = layout.slots(&[vec![1, 2, 3, 10], vec![5, 5, 5, 5]]);
        let of = |rank: usize| {
            let at = |mini_batch, micro_batch| BatchSlot { rank, mini_batch, micro_batch };
            [at(0, 0), at(1, 0), at(1, 1), at(0, 1)]
        };
        assert_eq!(slots, [of(0), of(1)]);
        assert_eq!(layout.micro_batches(), 2);
        assert_eq!(layout.micro_batch_of(slots[1][2]), 3);
        // On one rank, all of stage 1 comes first.
        let alone = Layout { ranks: 1, mini_batch: 4, micro_batch: 2 };
        let slots = alone.slots(&[vec![1, 2, 3, 10], vec![5, 5, 5, 5]]);
        assert!(slots[0].iter().all(|s| s.mini_batch == 0) && slots[1].iter().all(|s| s.mini_batch == 1));
        assert_eq!(slots[0].iter().map(|s| s.micro_batch).collect::<Vec<_>>(), [0, 0, 1, 1]);
    }

    #[test]
    fn the_released_sizes() {
        let (config, rollout) = (AlgorithmConfig::default(), RolloutConfig::default());
        let layout = Layout::new(&config, &rollout);
        assert_eq!(layout, Layout { ranks: 64, mini_batch: 32, micro_batch: 8 });
        let lengths = |stage: usize| (0..4096).map(|i| 1000 + (i * 7919 + stage * 13) % 5000).collect::<Vec<_>>();
        let slots = layout.slots(&[lengths(0), lengths(1)]);
        for mini_batch in 0..4 {
            for (stage, ranks) in [(0, 0..32), (1, 32..64)] {
                let here: Vec<&BatchSlot> = slots[stage].iter().filter(|s| s.mini_batch == mini_batch).collect();
                assert_eq!(here.len(), 1024, "both stages in equal numbers");
                for rank in ranks {
                    for micro_batch in 0..4 {
                        let of = |s: &&&BatchSlot| s.rank == rank && s.micro_batch == micro_batch;
                        assert_eq!(here.iter().filter(of).count(), 8);
                    }
                }
            }
        }
        let first = lengths(0);
        let parts = balanced_partitions(&first, 64);
        let sums: Vec<usize> = parts.iter().map(|part| part.iter().map(|&i| first[i]).sum()).collect();
        assert!(sums[0] - sums[63] <= 8 && sums.is_sorted_by(|a, b| a >= b), "{sums:?}");
    }
}
