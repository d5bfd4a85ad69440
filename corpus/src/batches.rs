//! Which rows make up each update, and how the sequences of an update are packed into micro-batches.

use std::collections::BTreeSet;

use configs::sft::SftTrain;

use crate::{Mixture, RowId};

/// The rows of one update (a batch).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The epoch, starting at 0.
    pub epoch: u64,
    /// The rows of the batch.
    pub rows: Vec<RowId>,
}

/// The updates of a run: their number, and the rows of each. Holds the order of one epoch at a time.
#[derive(Debug)]
pub struct BatchPlan<'a> {
    mixture: &'a Mixture,
    train: SftTrain,
    /// The number of rows of an update, unless updates are cut by tokens.
    batch_size: usize,
    /// The cumulative number of updates at the end of each epoch.
    ends: Vec<u64>,
    steps: u64,
    epoch: Option<Epoch>,
}

#[derive(Debug)]
struct Epoch {
    number: u64,
    rows: Vec<RowId>,
    /// The end of each batch, as an index into `rows`.
    ends: Vec<usize>,
}

/// Plans the updates of `train` over the epochs of `mixture`. With `batch_tokens` and shuffling, the number of batches
/// differs between epochs; they are counted here, so the number of updates is exact.
pub fn plan<'a>(mixture: &'a Mixture, train: &SftTrain) -> BatchPlan<'a> {
    let batch_size = train.batch_size.sequences(mixture.len());
    let mut plan = BatchPlan { mixture, train: train.clone(), batch_size, ends: Vec::new(), steps: 0, epoch: None };
    let limit = if train.max_steps == 0 { u64::MAX } else { train.max_steps as u64 };
    for number in 0..train.epochs as u64 {
        if plan.steps >= limit {
            break;
        }
        plan.steps += plan.batches_of(number);
        plan.ends.push(plan.steps);
    }
    plan.steps = plan.steps.min(limit);
    plan
}

impl BatchPlan<'_> {
    /// Returns the total number of updates.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Returns the number of epochs that the run starts.
    pub fn epochs(&self) -> u64 {
        self.ends.len() as u64
    }

    /// Returns the number of rows of an update, of which the last of an epoch may have fewer; 0 if updates are cut by tokens.
    pub fn batch_size(&self) -> usize {
        if self.train.batch_tokens == 0 { self.batch_size } else { 0 }
    }

    /// Returns whether the last of `done` updates is the last of its epoch.
    pub fn ends_epoch(&self, done: u64) -> bool {
        self.ends.contains(&done)
    }

    /// Returns the number of completed epochs, as a fraction, after `done` updates.
    pub fn epochs_after(&self, done: u64) -> f64 {
        let number = self.ends.partition_point(|&end| end <= done);
        let begin = if number == 0 { 0 } else { self.ends[number - 1] };
        let within = self.ends.get(number).map_or(0.0, |end| (done - begin) as f64 / (end - begin) as f64);
        number as f64 + within
    }

    /// Returns the rows of update `step` (starting at 0), or `None` past the last update.
    pub fn batch(&mut self, step: u64) -> Option<Batch> {
        if step >= self.steps {
            return None;
        }
        let number = self.ends.partition_point(|&end| end <= step);
        let within = (step - if number == 0 { 0 } else { self.ends[number - 1] }) as usize;
        let epoch = self.epoch(number as u64);
        let begin = if within == 0 { 0 } else { epoch.ends[within - 1] };
        Some(Batch { epoch: number as u64, rows: epoch.rows[begin..epoch.ends[within]].to_vec() })
    }

    fn batches_of(&self, number: u64) -> u64 {
        if self.train.batch_tokens == 0 {
            return self.mixture.len().div_ceil(self.batch_size.max(1)) as u64;
        }
        self.cut(&self.mixture.epoch(number)).len() as u64
    }

    fn cut(&self, rows: &[RowId]) -> Vec<usize> {
        if self.train.batch_tokens == 0 {
            by_rows(rows.len(), self.batch_size)
        } else {
            by_tokens(rows.iter().map(|&id| self.mixture.length(id)), self.train.batch_tokens)
        }
    }

    fn epoch(&mut self, number: u64) -> &Epoch {
        let epoch = self.epoch.take().filter(|epoch| epoch.number == number).unwrap_or_else(|| {
            let rows = self.mixture.epoch(number);
            Epoch { number, ends: self.cut(&rows), rows }
        });
        self.epoch.insert(epoch)
    }
}

/// Returns the ends of batches of `size` rows; the last batch may have fewer.
fn by_rows(rows: usize, size: usize) -> Vec<usize> {
    let size = size.max(1);
    (1..=rows.div_ceil(size)).map(|batch| (batch * size).min(rows)).collect()
}

/// Returns the ends of batches filled in order, with at most `budget` tokens and at least one row each.
fn by_tokens(lengths: impl Iterator<Item = usize>, budget: usize) -> Vec<usize> {
    let (mut ends, mut tokens, mut count) = (Vec::new(), 0, 0);
    for (i, length) in lengths.enumerate() {
        if i > 0 && tokens + length > budget {
            ends.push(i);
            tokens = 0;
        }
        tokens += length;
        count = i + 1;
    }
    ends.extend((count > 0).then_some(count));
    ends
}

/// Packs sequences into bins of at most `budget` tokens with best-fit decreasing: the longest sequence first, each into
/// the bin with the least room left. A sequence longer than `budget` gets its own bin. Bins hold indices into
/// `lengths`. Ties keep the input order. Complexity: O(n log n).
pub fn pack(lengths: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut longest_first: Vec<usize> = (0..lengths.len()).collect();
    longest_first.sort_by_key(|&i| std::cmp::Reverse(lengths[i]));
    let (mut bins, mut free) = (Vec::<Vec<usize>>::new(), BTreeSet::new());
    for i in longest_first {
        let best = free.range((lengths[i], 0)..).next().copied();
        let (room, bin) = best.unwrap_or((budget, bins.len()));
        if best.is_some() {
            free.remove(&(room, bin));
            bins[bin].push(i);
        } else {
            bins.push(vec![i]);
        }
        if let Some(left) = room.checked_sub(lengths[i]) {
            free.insert((left, bin));
        }
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;
    use chat::Draw;

    #[test]
    fn batches_of_rows_and_of_tokens() {
        assert_eq!(by_rows(7, 3), [3, 6, 7]);
        assert_eq!(by_rows(6, 3), [3, 6]);
        assert_eq!(by_tokens([3, 3, 4, 9, 1, 12, 2].into_iter(), 10), [3, 5, 6, 7]);
        assert_eq!(by_tokens([12].into_iter(), 10), [1]);
        assert!(by_tokens(std::iter::empty(), 10).is_empty());
    }

    #[test]
    fn bins_by_hand() {
        assert_eq!(pack(&[4, 8, 1, 4, 2, 1], 10), [vec![1, 4], vec![0, 3, 2, 5]]);
        assert_eq!(pack(&[6, 5, 4], 10), [vec![0, 2], vec![1]], "where the least is left over");
        assert_eq!(pack(&[3, 30, 3], 10), [vec![1], vec![0, 2]], "the long one alone");
        assert_eq!(pack(&[5, 5, 5], 5), [vec![0], vec![1], vec![2]]);
        assert!(pack(&[], 5).is_empty());
    }

    #[test]
    fn bins_hold_everything_once_and_never_too_much() {
        for case in 0..200 {
            let draw = Draw::new(case).text("pack");
            let budget = 1 + draw.text("budget").below(100);
            let lengths: Vec<usize> = (0..case).map(|i| draw.with(i).below(120)).collect();
            let bins = pack(&lengths, budget);
            let mut all: Vec<usize> = bins.iter().flatten().copied().collect();
            all.sort_unstable();
            assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
            let sum = |bin: &Vec<usize>| bin.iter().map(|&i| lengths[i]).sum::<usize>();
            assert!(bins.iter().all(|bin| bin.len() == 1 || sum(bin) <= budget));
            // Best fit never leaves two bins that would fit into one.
            assert!(bins.iter().filter(|bin| sum(bin) * 2 < budget).count() <= 1);
        }
    }
}
