//! Mixes several datasets, orders each epoch, and holds out rows for validation.
//!
//! An epoch has as many rows as all sets together. Each set contributes a share of them, by weight. The rows of a set
//! are taken in passes; each pass is a separate permutation, and the next epoch continues where the last one stopped.
//! The order depends on (seed, epoch) only.

use std::sync::Arc;

use chat::Draw;

use crate::{CorpusError, MaskedSequence, TokenFile};

/// A row of one of the sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId {
    /// The index of the set, in the order of the configuration.
    pub set: u32,
    /// The index of the row within its set, starting at 0.
    pub row: u32,
}

/// The rows of a set that belong to a mixture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Members {
    /// All rows; the value is their number.
    All(u32),
    /// The listed rows, in the order of the file.
    Some(Vec<u32>),
}

impl Members {
    fn len(&self) -> u64 {
        match self {
            Self::All(n) => u64::from(*n),
            Self::Some(rows) => rows.len() as u64,
        }
    }

    fn rows(&self) -> Vec<u32> {
        match self {
            Self::All(n) => (0..*n).collect(),
            Self::Some(rows) => rows.clone(),
        }
    }
}

/// The order of the rows of several sets.
#[derive(Clone, Debug)]
pub struct RowOrder {
    sets: Vec<Members>,
    /// The index of the first row of each set among all rows.
    offsets: Vec<u64>,
    /// The number of rows per epoch from each set.
    shares: Vec<u64>,
    shuffle: bool,
    seed: u64,
}

impl RowOrder {
    /// Creates an order over `sets`; `rows` holds the total number of rows of each set, held-out rows included. If
    /// every weight is 0, each set is weighted by its number of rows.
    pub fn new(sets: Vec<Members>, rows: &[u64], weights: &[f64], shuffle: bool, seed: u64) -> Self {
        let sizes: Vec<u64> = sets.iter().map(Members::len).collect();
        let weighted = weights.iter().any(|&w| w > 0.0);
        let shares = if weighted { shares(sizes.iter().sum(), weights) } else { sizes };
        let offsets = rows.iter().scan(0, |sum, n| Some(std::mem::replace(sum, *sum + n))).collect();
        Self { sets, offsets, shares, shuffle, seed }
    }

    /// Returns the number of rows per epoch.
    pub fn len(&self) -> u64 {
        self.shares.iter().sum()
    }

    /// Returns whether an epoch has no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the rows of an epoch (starting at 0), in order.
    pub fn epoch(&self, epoch: u64) -> Vec<RowId> {
        let taken: Vec<Vec<Taken>> = (0..self.sets.len()).map(|set| self.take(set, epoch)).collect();
        if !self.shuffle {
            return interleave(&taken);
        }
        let draw = Draw::new(self.seed).text("epoch order").with(epoch);
        let mut all: Vec<Taken> = taken.into_iter().flatten().collect();
        all.sort_by_cached_key(|taken| {
            let draw = draw.with(self.offsets[taken.id.set as usize] + u64::from(taken.id.row));
            // A row that repeats within an epoch gets an independent position.
            if taken.again == 0 { draw.bits() } else { draw.with(u64::from(taken.again)).bits() }
        });
        all.into_iter().map(|taken| taken.id).collect()
    }

    /// Returns the rows that a set contributes to an epoch.
    fn take(&self, set: usize, epoch: u64) -> Vec<Taken> {
        let (size, share) = (self.sets[set].len(), self.shares[set]);
        if size == 0 {
            return Vec::new();
        }
        let (begin, end) = (epoch * share, (epoch + 1) * share);
        let mut taken = Vec::with_capacity(share as usize);
        for pass in begin / size..end.div_ceil(size) {
            let rows = self.pass(set, pass);
            let (from, to) = (begin.max(pass * size) - pass * size, end.min((pass + 1) * size) - pass * size);
            let again = (pass - begin / size) as u32;
            let ids = rows[from as usize..to as usize].iter().map(|&row| RowId { set: set as u32, row });
            taken.extend(ids.map(|id| Taken { id, again }));
        }
        taken
    }

    /// Returns all rows of a set, in the order of one pass over it.
    fn pass(&self, set: usize, pass: u64) -> Vec<u32> {
        let mut rows = self.sets[set].rows();
        // When an epoch is exactly one pass, the order of the epoch already shuffles it.
        if self.shuffle && self.shares[set] != self.sets[set].len() {
            let draw = Draw::new(self.seed).text("pass order").with(set as u64).with(pass);
            rows.sort_by_cached_key(|&row| draw.with(u64::from(row)).bits());
        }
        rows
    }
}

/// A row taken for an epoch, and the number of passes over its set that this epoch started before.
#[derive(Clone, Copy)]
struct Taken {
    id: RowId,
    again: u32,
}

/// Splits `total` by weight with the largest-remainder method; ties go to the earlier set.
fn shares(total: u64, weights: &[f64]) -> Vec<u64> {
    let sum: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights.iter().map(|w| w / sum * total as f64).collect();
    let mut shares: Vec<u64> = exact.iter().map(|x| x.floor() as u64).collect();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by(|&a, &b| (exact[b] - exact[b].floor()).total_cmp(&(exact[a] - exact[a].floor())));
    let missing = total.saturating_sub(shares.iter().sum());
    for &i in by_remainder.iter().cycle().take(missing as usize) {
        shares[i] += 1;
    }
    shares
}

/// Interleaves the sets evenly, keeping the order within each: the next row comes from the set furthest behind its
/// share.
fn interleave(sets: &[Vec<Taken>]) -> Vec<RowId> {
    let total: usize = sets.iter().map(Vec::len).sum();
    let mut next = vec![0usize; sets.len()];
    let mut order = Vec::with_capacity(total);
    for slot in 1..=total {
        // Integers in units of 1 / total avoid rounding.
        let behind = |&set: &usize| (sets[set].len() as i128 * slot as i128) - next[set] as i128 * total as i128;
        let open = (0..sets.len()).filter(|&set| next[set] < sets[set].len());
        // A set with rows left exists while rows are missing. `rev` makes the first set win ties.
        let Some(set) = open.rev().max_by_key(behind) else { break };
        order.push(sets[set][next[set]].id);
        next[set] += 1;
    }
    order
}

/// The rows of one or several sets.
#[derive(Clone, Debug)]
pub struct Mixture {
    files: Vec<Arc<TokenFile>>,
    order: RowOrder,
}

impl Mixture {
    /// Creates a mixture of all rows of `files`, with shares given by `weights`.
    pub fn new(files: Vec<Arc<TokenFile>>, weights: &[f64], shuffle: bool, seed: u64) -> Self {
        let all = files.iter().map(|file| Members::All(file.len() as u32)).collect();
        Self::of(files, all, weights, shuffle, seed)
    }

    fn of(files: Vec<Arc<TokenFile>>, members: Vec<Members>, weights: &[f64], shuffle: bool, seed: u64) -> Self {
        let rows: Vec<u64> = files.iter().map(|file| file.len() as u64).collect();
        Self { order: RowOrder::new(members, &rows, weights, shuffle, seed), files }
    }

    /// Splits the rows into a training set and a validation set. Each row is held out if its own random number, derived
    /// from seed, set and row, falls below `share`; appending rows therefore never moves a row to the other split. The
    /// validation rows keep the order of the files.
    ///
    /// # Errors
    /// Returns [`CorpusError::Share`] if either split has no rows, or a set has no training rows left.
    pub fn split(
        files: &[Arc<TokenFile>],
        share: f64,
        weights: &[f64],
        shuffle: bool,
        seed: u64,
    ) -> Result<(Self, Self), CorpusError> {
        let side = |set: usize, held: bool| {
            let rows = (0..files[set].len() as u32).filter(|&row| held_out(seed, set, row, share) == held);
            Members::Some(rows.collect())
        };
        let members = |held| (0..files.len()).map(|set| side(set, held)).collect();
        let train = Self::of(files.to_vec(), members(false), weights, shuffle, seed);
        let validation = Self::of(files.to_vec(), members(true), &vec![0.0; files.len()], false, seed);
        let (left, held_out) = (train.len() as u64, validation.len() as u64);
        if left == 0 || held_out == 0 || train.order.sets.iter().any(|set| set.len() == 0) {
            return Err(CorpusError::Share { share, held_out, rows: left + held_out });
        }
        Ok((train, validation))
    }

    /// Returns the number of rows per epoch.
    pub fn len(&self) -> usize {
        self.order.len() as usize
    }

    /// Returns whether an epoch has no rows.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Returns the rows of an epoch (starting at 0), in order; 8 bytes each.
    pub fn epoch(&self, epoch: u64) -> Vec<RowId> {
        self.order.epoch(epoch)
    }

    /// Returns the number of tokens of a row of this mixture.
    pub fn length(&self, id: RowId) -> usize {
        self.files[id.set as usize].length(id.row as usize)
    }

    /// Returns the number of trained tokens of a row of this mixture.
    pub fn trained(&self, id: RowId) -> usize {
        self.files[id.set as usize].trained(id.row as usize)
    }

    /// Reads a row of this mixture from disk.
    ///
    /// # Errors
    /// Returns the errors of [`TokenFile::read`].
    pub fn read(&self, id: RowId) -> Result<MaskedSequence, CorpusError> {
        self.files[id.set as usize].read(id.row as usize)
    }
}

fn held_out(seed: u64, set: usize, row: u32, share: f64) -> bool {
    let bits = Draw::new(seed).text("validation").with(set as u64).with(u64::from(row)).bits();
    // The upper 53 bits make an exact fraction below 1.
    ((bits >> 11) as f64 / (1u64 << 53) as f64) < share
}

#[cfg(test)]
#[path = "mix_tests.rs"]
mod tests;
