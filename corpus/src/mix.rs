//! Several sets of rows as one, the order of each epoch, and rows held out for validation.
//!
//! An epoch has as many rows as all sets together. Each set gives its share of them, by weight; its rows are taken in
//! passes, each pass a permutation of its own, and the next epoch goes on where the last one stopped. The order depends
//! on (seed, epoch) alone.

use std::sync::Arc;

use chat::Draw;

use crate::{CorpusError, Sequence, TokenFile};

/// A row of one of the sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId {
    /// The set, in the order of the configuration.
    pub set: u32,
    /// Its row, from 0.
    pub row: u32,
}

/// Which rows of a set belong to a mixture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Members {
    /// All of so many.
    All(u32),
    /// These, in the order of the file.
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

/// The order of rows of several sets.
#[derive(Clone, Debug)]
pub struct Order {
    sets: Vec<Members>,
    /// The number of the first row of each set among all rows.
    offsets: Vec<u64>,
    /// How many rows of an epoch come from each set.
    shares: Vec<u64>,
    shuffle: bool,
    seed: u64,
}

impl Order {
    /// Of `sets` with so many `rows` in all, held-out ones included. A weight of 0 for each set stands for its rows.
    pub fn new(sets: Vec<Members>, rows: &[u64], weights: &[f64], shuffle: bool, seed: u64) -> Self {
        let sizes: Vec<u64> = sets.iter().map(Members::len).collect();
        let weighted = weights.iter().any(|&w| w > 0.0);
        let shares = if weighted { shares(sizes.iter().sum(), weights) } else { sizes };
        let offsets = rows.iter().scan(0, |sum, n| Some(std::mem::replace(sum, *sum + n))).collect();
        Self { sets, offsets, shares, shuffle, seed }
    }

    /// Rows of an epoch.
    pub fn len(&self) -> u64 {
        self.shares.iter().sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows of an epoch (from 0), in order.
    pub fn epoch(&self, epoch: u64) -> Vec<RowId> {
        let taken: Vec<Vec<Taken>> = (0..self.sets.len()).map(|set| self.take(set, epoch)).collect();
        if !self.shuffle {
            return interleave(&taken);
        }
        let draw = Draw::new(self.seed).text("epoch order").with(epoch);
        let mut all: Vec<Taken> = taken.into_iter().flatten().collect();
        all.sort_by_cached_key(|taken| {
            let draw = draw.with(self.offsets[taken.id.set as usize] + u64::from(taken.id.row));
            // A row that comes again in the same epoch has a place of its own.
            if taken.again == 0 { draw.bits() } else { draw.with(u64::from(taken.again)).bits() }
        });
        all.into_iter().map(|taken| taken.id).collect()
    }

    /// The rows that a set gives to an epoch.
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

    /// All rows of a set, in the order of one pass over it.
    fn pass(&self, set: usize, pass: u64) -> Vec<u32> {
        let mut rows = self.sets[set].rows();
        // A whole pass is put in order by the epoch.
        if self.shuffle && self.shares[set] != self.sets[set].len() {
            let draw = Draw::new(self.seed).text("pass order").with(set as u64).with(pass);
            rows.sort_by_cached_key(|&row| draw.with(u64::from(row)).bits());
        }
        rows
    }
}

/// A row taken for an epoch, and how many passes over its set began in this epoch before.
#[derive(Clone, Copy)]
struct Taken {
    id: RowId,
    again: u32,
}

/// `total` divided by weight: exact by largest remainders, the first of equal ones.
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

/// The rows of each set in their order, evenly spread: next comes the set that is furthest behind its share.
fn interleave(sets: &[Vec<Taken>]) -> Vec<RowId> {
    let total: usize = sets.iter().map(Vec::len).sum();
    let mut next = vec![0usize; sets.len()];
    let mut order = Vec::with_capacity(total);
    for slot in 1..=total {
        // In units of 1 / total, so that nothing is rounded.
        let behind = |&set: &usize| (sets[set].len() as i128 * slot as i128) - next[set] as i128 * total as i128;
        let open = (0..sets.len()).filter(|&set| next[set] < sets[set].len());
        // There is an open set as long as rows are missing; the first of equal ones.
        let Some(set) = open.rev().max_by_key(behind) else { break };
        order.push(sets[set][next[set]].id);
        next[set] += 1;
    }
    order
}

/// Rows of one or several sets.
#[derive(Clone, Debug)]
pub struct Mixture {
    files: Vec<Arc<TokenFile>>,
    order: Order,
}

impl Mixture {
    /// All rows of `files`, in shares by `weights`.
    pub fn new(files: Vec<Arc<TokenFile>>, weights: &[f64], shuffle: bool, seed: u64) -> Self {
        let all = files.iter().map(|file| Members::All(file.len() as u32)).collect();
        Self::of(files, all, weights, shuffle, seed)
    }

    fn of(files: Vec<Arc<TokenFile>>, members: Vec<Members>, weights: &[f64], shuffle: bool, seed: u64) -> Self {
        let rows: Vec<u64> = files.iter().map(|file| file.len() as u64).collect();
        Self { order: Order::new(members, &rows, weights, shuffle, seed), files }
    }

    /// Splits the rows in those to train on and those held out for validation: each row is held out if its own draw, by
    /// seed, set and row, falls below `share`. So a row stays on its side when others come after it. The rows for
    /// validation keep the order of the files.
    ///
    /// # Errors
    /// [`CorpusError::Share`] if one of the two has no rows.
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

    /// Rows of an epoch.
    pub fn len(&self) -> usize {
        self.order.len() as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The rows of an epoch (from 0), in order: 8 bytes each.
    pub fn epoch(&self, epoch: u64) -> Vec<RowId> {
        self.order.epoch(epoch)
    }

    /// Tokens of a row of this mixture.
    pub fn length(&self, id: RowId) -> usize {
        self.files[id.set as usize].length(id.row as usize)
    }

    /// Trained tokens of a row of this mixture.
    pub fn trained(&self, id: RowId) -> usize {
        self.files[id.set as usize].trained(id.row as usize)
    }

    /// A row of this mixture, from disk.
    ///
    /// # Errors
    /// As [`TokenFile::read`].
    pub fn read(&self, id: RowId) -> Result<Sequence, CorpusError> {
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
