//! Rows into passes, over ranks.

use corpus::pack;

use super::Team;

/// A batch's rows, cut into packed passes for each rank. The same on every rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The rows of each pass, by rank.
    ranks: Vec<Vec<Vec<usize>>>,
    rank: usize,
    in_step: bool,
}

/// What a sequence costs, relative to a token of a short one: attention grows with the square of its length. (A layer's
/// products take 24 · width² FLOPs a token, its attention 2 · length · width; width is taken as 1024.)
fn cost(length: usize) -> f64 {
    let n = length as f64;
    n * (1.0 + n / 12288.0)
}

impl Split {
    /// Rows of these lengths, at most `tokens` a pass (a longer row goes alone).
    pub fn new(team: &Team, lengths: &[usize], tokens: usize) -> Self {
        let spread = team.spread(&lengths.iter().map(|n| cost(*n)).collect::<Vec<_>>());
        let passes = |rows: Vec<usize>| -> Vec<Vec<usize>> {
            let own: Vec<usize> = rows.iter().map(|&row| lengths[row]).collect();
            pack(&own, tokens).into_iter().map(|bin| bin.into_iter().map(|i| rows[i]).collect()).collect()
        };
        let ranks = spread.into_iter().map(passes).collect();
        Self { ranks, rank: team.world.rank(), in_step: team.in_step() }
    }

    /// Passes of all ranks.
    pub fn passes(&self) -> usize {
        self.ranks.iter().map(Vec::len).sum()
    }

    /// Passes this rank makes: its own, and, where all go in step, empty ones up to the number of the busiest.
    pub fn rounds(&self) -> usize {
        match self.in_step {
            true => self.ranks.iter().map(Vec::len).max().unwrap_or(0),
            false => self.ranks[self.rank].len(),
        }
    }

    /// The rows of this rank's pass in round `i`; none in a round in which it has nothing left.
    pub fn own(&self, i: usize) -> &[usize] {
        self.ranks[self.rank].get(i).map_or(&[], Vec::as_slice)
    }

    /// The rows of each rank, in the order of its passes.
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
        let split = Split::new(&Team::alone(), &lengths, 12);
        let passes: Vec<Vec<usize>> = (0..split.rounds()).map(|i| split.own(i).to_vec()).collect();
        assert_eq!(passes, pack(&lengths, 12));
        assert_eq!(split.passes(), passes.len());
    }
}
