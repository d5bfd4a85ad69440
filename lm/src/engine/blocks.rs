//! Who holds which block of the key/value cache.
//!
//! A block holds [`BLOCK`] positions of every layer. Rows that begin with the same tokens hold the same full blocks: a
//! full block is known by a digest of all tokens up to its end. A block that nobody holds keeps its contents until it is
//! needed, so that a later request may still find it.

use std::collections::{HashMap, VecDeque};

use sha2::{Digest, Sha256};

/// Positions of a block.
pub use torch_ext::BLOCK;

/// Names the tokens from a sequence's begin to the end of one of its blocks.
pub type PrefixDigest = [u8; 32];

/// The digest of a full block after `before` (`None`: the sequence's first).
pub fn digest(before: Option<&PrefixDigest>, tokens: &[u32]) -> PrefixDigest {
    let mut hash = Sha256::new();
    hash.update(before.map_or(&[][..], |d| &d[..]));
    for token in tokens {
        hash.update(token.to_le_bytes());
    }
    hash.finalize().into()
}

#[derive(Debug, Default, Clone)]
struct Block {
    holders: u32,
    digest: Option<PrefixDigest>,
    /// Which entry of the queue of free blocks is the valid one.
    freed_at: u64,
}

/// The blocks of one cache.
#[derive(Debug)]
pub struct Blocks {
    blocks: Vec<Block>,
    limit: usize,
    retain: usize,
    known: HashMap<PrefixDigest, u32>,
    /// Blocks nobody holds, longest unused first, with the time of their release; stale entries are skipped.
    unused: VecDeque<(u32, u64)>,
    held: usize,
    clock: u64,
}

impl Blocks {
    /// At most `limit` blocks. Before so many as `retain` are unused, fresh ones are taken instead of them.
    pub fn new(limit: usize, retain: usize) -> Self {
        Self { blocks: Vec::new(), limit, retain, known: HashMap::new(), unused: VecDeque::new(), held: 0, clock: 0 }
    }

    /// Blocks that somebody holds.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Blocks that can still be taken.
    pub fn left(&self) -> usize {
        self.limit - self.held
    }

    /// Blocks that have ever been taken: the cache must have room for so many.
    pub fn in_use(&self) -> usize {
        self.blocks.len()
    }

    /// Takes a block with undefined contents; `None` if all are held.
    pub fn take(&mut self) -> Option<u32> {
        let unused = self.blocks.len() - self.held;
        if self.blocks.len() < self.limit && unused <= self.retain {
            self.blocks.push(Block { holders: 1, ..Block::default() });
            self.held += 1;
            return Some(self.blocks.len() as u32 - 1);
        }
        while let Some((at, freed)) = self.unused.pop_front() {
            let block = &mut self.blocks[at as usize];
            if block.holders == 0 && block.freed_at == freed {
                if let Some(old) = block.digest.take() {
                    self.known.remove(&old);
                }
                block.holders = 1;
                self.held += 1;
                return Some(at);
            }
        }
        None
    }

    /// One more holder of a block that is held.
    pub fn share(&mut self, at: u32) {
        self.blocks[at as usize].holders += 1;
    }

    /// The block with these tokens, if it exists; it is held from now on.
    pub fn find(&mut self, digest: &PrefixDigest) -> Option<u32> {
        let at = *self.known.get(digest)?;
        let block = &mut self.blocks[at as usize];
        self.held += usize::from(block.holders == 0);
        block.holders += 1;
        Some(at)
    }

    /// Says what a held block contains, now that it does. If another one does already, that one stays the known one.
    pub fn name(&mut self, at: u32, digest: PrefixDigest) {
        if let std::collections::hash_map::Entry::Vacant(place) = self.known.entry(digest) {
            place.insert(at);
            self.blocks[at as usize].digest = Some(digest);
        }
    }

    /// One holder less.
    pub fn release(&mut self, at: u32) {
        let block = &mut self.blocks[at as usize];
        block.holders -= 1;
        if block.holders == 0 {
            self.held -= 1;
            self.clock += 1;
            block.freed_at = self.clock;
            self.unused.push_back((at, self.clock));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_run_out_and_come_back() {
        let mut blocks = Blocks::new(2, 2);
        let (a, b) = (blocks.take().unwrap(), blocks.take().unwrap());
        assert_ne!(a, b);
        assert_eq!((blocks.take(), blocks.left(), blocks.held()), (None, 0, 2));
        blocks.share(a);
        blocks.release(a);
        assert_eq!(blocks.take(), None, "it has a holder still");
        blocks.release(a);
        assert_eq!(blocks.take(), Some(a));
    }

    #[test]
    fn contents_are_found_until_the_block_is_needed() {
        let mut blocks = Blocks::new(2, 2);
        let first = digest(None, &[1, 2]);
        let a = blocks.take().unwrap();
        assert_eq!(blocks.find(&first), None);
        blocks.name(a, first);
        assert_eq!(blocks.find(&first), Some(a));
        blocks.release(a);
        blocks.release(a);
        assert_eq!((blocks.held(), blocks.find(&first)), (0, Some(a)), "unused, not forgotten");
        blocks.release(a);
        // The fresh block goes first, then the one with contents.
        let b = blocks.take().unwrap();
        assert_ne!(a, b);
        assert_eq!(blocks.take(), Some(a));
        assert_eq!(blocks.find(&first), None, "its contents are gone");
    }

    #[test]
    fn the_longest_unused_block_goes_first() {
        let mut blocks = Blocks::new(3, 3);
        let taken: Vec<u32> = (0..3).map(|_| blocks.take().unwrap()).collect();
        for (i, &at) in taken.iter().enumerate() {
            blocks.name(at, digest(None, &[i as u32]));
            blocks.release(at);
        }
        // The first is used again and released: it is the youngest now.
        assert_eq!(blocks.find(&digest(None, &[0])), Some(taken[0]));
        blocks.release(taken[0]);
        assert_eq!([blocks.take(), blocks.take(), blocks.take()], [Some(taken[1]), Some(taken[2]), Some(taken[0])]);
        assert_eq!(blocks.take(), None);
    }

    #[test]
    fn more_unused_blocks_than_are_to_be_retained_are_used_again() {
        let mut blocks = Blocks::new(9, 1);
        let (a, b) = (blocks.take().unwrap(), blocks.take().unwrap());
        blocks.release(a);
        let c = blocks.take().unwrap();
        assert!(c != a && c != b, "one unused block is retained");
        blocks.release(b);
        assert_eq!(blocks.take(), Some(a), "two are one too many");
        assert_eq!(blocks.in_use(), 3);
    }

    #[test]
    fn a_digest_depends_on_everything_before() {
        let (a, b) = (digest(None, &[1]), digest(None, &[2]));
        assert_ne!(digest(Some(&a), &[3]), digest(Some(&b), &[3]));
        assert_ne!(digest(None, &[3]), digest(Some(&a), &[3]));
        assert_eq!(digest(Some(&a), &[3]), digest(Some(&digest(None, &[1])), &[3]));
    }
}
