//! Division of rows into micro-batches over ranks.

use corpus::pack;

use super::ParallelContext;

/// The rows of a batch, divided into packed micro-batches for each rank. The same on every rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchSplit {
    /// The rows of each micro-batch, by rank.
    ranks: Vec<Vec<Vec<usize>>>,
    rank: usize,
    in_step: bool,
}

/// Returns the relative cost of a sequence; a token of a short sequence costs 1. Attention grows with the square of the length.
/// (Per token, a layer's matrix products take 24 · width² FLOPs and its attention 2 · length · width; the width is taken as
/// 1024.)
fn cost(length: usize) -> f64 {
    let n = length as f64;
    n * (1.0 + n / 12288.0)
}

impl BatchSplit {
    /// Divides rows of these lengths into micro-batches of at most `tokens` tokens; a longer row gets its own micro-batch.
    pub fn new(context: &ParallelContext, lengths: &[usize], tokens: usize) -> Self {
        let spread = context.spread(&lengths.iter().map(|n| cost(*n)).collect::<Vec<_>>());
        let passes = |rows: Vec<usize>| -> Vec<Vec<usize>> {
            let own: Vec<usize> = rows.iter().map(|&row| lengths[row]).collect();
            pack(&own, tokens).into_iter().map(|bin| bin.into_iter().map(|i| rows[i]).collect()).collect()
        };
        let ranks = spread.into_iter().map(passes).collect();
        Self { ranks, rank: context.world.rank(), in_step: context.in_step() }
    }

    /// Returns the number of micro-batches of all ranks.
    pub fn passes(&self) -> usize {
        self.ranks.iter().map(Vec::len).sum()
    }

    /// Returns the number of micro-batches that this rank runs: its own and, if ranks run in step, empty ones up to the maximum
    /// over ranks.
    pub fn rounds(&self) -> usize {
        match self.in_step {
            true => self.ranks.iter().map(Vec::len).max().unwrap_or(0),
            false => self.ranks[self.rank].len(),
        }
    }

    /// Returns the rows of this rank's micro-batch in round `i`; empty if it has none left.
    pub fn own(&self, i: usize) -> &[usize] {
        self.ranks[self.rank].get(i).map_or(&[], Vec::as_slice)
    }

    /// Returns the rows of each rank, in the order of its micro-batches.
    pub fn rows_by_rank(&self) -> Vec<Vec<usize>> {
        self.ranks.iter().map(|passes| passes.concat()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_process_packs_as_ever() {
        let lengths = [5, 9, 3, 7, 2];
        let split = BatchSplit::new(&ParallelContext::single(), &lengths, 12);
        let passes: Vec<Vec<usize>> = (0..split.rounds()).map(|i| split.own(i).to_vec()).collect();
        assert_eq!(passes, pack(&lengths, 12));
        assert_eq!(split.passes(), passes.len());
    }
}
