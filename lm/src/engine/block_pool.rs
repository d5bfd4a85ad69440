//! The block pool of the KV cache: allocation, reference counts, and prefix caching.
//!
//! A block stores [`BLOCK`] positions of every layer. Sequences with a common prefix share its full blocks: a full block is
//! identified by a digest of all tokens up to its end. A block with no references keeps its contents until it is reused, so that
//! a later request can still find it.

use std::collections::{HashMap, VecDeque};

use sha2::{Digest, Sha256};

/// Number of positions of a block.
pub use torch_ext::BLOCK;

/// Digest of the tokens from the start of a sequence to the end of one of its blocks.
pub type PrefixDigest = [u8; 32];

/// Returns the digest of a full block that follows `before` (`None`: the first block of the sequence).
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
    ref_count: u32,
    digest: Option<PrefixDigest>,
    /// Time of the last release, which identifies the valid entry of the queue of unused blocks.
    freed_at: u64,
}

/// Pool of the blocks of one cache.
#[derive(Debug)]
pub struct BlockPool {
    blocks: Vec<Block>,
    limit: usize,
    retain: usize,
    known: HashMap<PrefixDigest, u32>,
    /// Blocks without references, longest unused first, with the time of their release. Stale entries are skipped.
    unused: VecDeque<(u32, u64)>,
    allocated: usize,
    clock: u64,
}

impl BlockPool {
    /// Creates an empty pool of at most `limit` blocks. The pool creates new blocks, rather than reuse unused ones, while no more
    /// than `retain` blocks are unused.
    pub fn new(limit: usize, retain: usize) -> Self {
        Self {
            blocks: Vec::new(),
            limit,
            retain,
            known: HashMap::new(),
            unused: VecDeque::new(),
            allocated: 0,
            clock: 0,
        }
    }

    /// Returns the number of blocks with references.
    pub fn num_allocated(&self) -> usize {
        self.allocated
    }

    /// Returns the number of blocks that can still be allocated.
    pub fn num_free(&self) -> usize {
        self.limit - self.allocated
    }

    /// Returns the number of blocks ever created, for which the cache must have room.
    pub fn num_created(&self) -> usize {
        self.blocks.len()
    }

    /// Allocates a block with undefined contents. Returns `None` if all blocks have references.
    pub fn allocate(&mut self) -> Option<u32> {
        let unused = self.blocks.len() - self.allocated;
        if self.blocks.len() < self.limit && unused <= self.retain {
            self.blocks.push(Block { ref_count: 1, ..Block::default() });
            self.allocated += 1;
            return Some(self.blocks.len() as u32 - 1);
        }
        while let Some((at, freed)) = self.unused.pop_front() {
            let block = &mut self.blocks[at as usize];
            if block.ref_count == 0 && block.freed_at == freed {
                if let Some(old) = block.digest.take() {
                    self.known.remove(&old);
                }
                block.ref_count = 1;
                self.allocated += 1;
                return Some(at);
            }
        }
        None
    }

    /// Adds a reference to an allocated block.
    pub fn add_ref(&mut self, at: u32) {
        self.blocks[at as usize].ref_count += 1;
    }

    /// Returns the block with this digest, if it exists, and adds a reference to it.
    pub fn lookup(&mut self, digest: &PrefixDigest) -> Option<u32> {
        let at = *self.known.get(digest)?;
        let block = &mut self.blocks[at as usize];
        self.allocated += usize::from(block.ref_count == 0);
        block.ref_count += 1;
        Some(at)
    }

    /// Registers the digest of an allocated block, once the block has its contents. If another block has the same digest, that one
    /// stays registered.
    pub fn insert(&mut self, at: u32, digest: PrefixDigest) {
        if let std::collections::hash_map::Entry::Vacant(place) = self.known.entry(digest) {
            place.insert(at);
            self.blocks[at as usize].digest = Some(digest);
        }
    }

    /// Removes a reference from a block.
    pub fn free(&mut self, at: u32) {
        let block = &mut self.blocks[at as usize];
        block.ref_count -= 1;
        if block.ref_count == 0 {
            self.allocated -= 1;
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
        let mut pool = BlockPool::new(2, 2);
        let (a, b) = (pool.allocate().unwrap(), pool.allocate().unwrap());
        assert_ne!(a, b);
        assert_eq!((pool.allocate(), pool.num_free(), pool.num_allocated()), (None, 0, 2));
        pool.add_ref(a);
        pool.free(a);
        assert_eq!(pool.allocate(), None, "it has a holder still");
        pool.free(a);
        assert_eq!(pool.allocate(), Some(a));
    }

    #[test]
    fn contents_are_found_until_the_block_is_needed() {
        let mut pool = BlockPool::new(2, 2);
        let first = digest(None, &[1, 2]);
        let a = pool.allocate().unwrap();
        assert_eq!(pool.lookup(&first), None);
        pool.insert(a, first);
        assert_eq!(pool.lookup(&first), Some(a));
        pool.free(a);
        pool.free(a);
        assert_eq!((pool.num_allocated(), pool.lookup(&first)), (0, Some(a)), "unused, not forgotten");
        pool.free(a);
        // The fresh block is allocated first, then the one with contents.
        let b = pool.allocate().unwrap();
        assert_ne!(a, b);
        assert_eq!(pool.allocate(), Some(a));
        assert_eq!(pool.lookup(&first), None, "its contents are gone");
    }

    #[test]
    fn the_longest_unused_block_goes_first() {
        let mut pool = BlockPool::new(3, 3);
        let taken: Vec<u32> = (0..3).map(|_| pool.allocate().unwrap()).collect();
        for (i, &at) in taken.iter().enumerate() {
            pool.insert(at, digest(None, &[i as u32]));
            pool.free(at);
        }
        // The first block is used and released again, so it is now the most recently used.
        assert_eq!(pool.lookup(&digest(None, &[0])), Some(taken[0]));
        pool.free(taken[0]);
        assert_eq!(
            [pool.allocate(), pool.allocate(), pool.allocate()],
            [Some(taken[1]), Some(taken[2]), Some(taken[0])]
        );
        assert_eq!(pool.allocate(), None);
    }

    #[test]
    fn more_unused_blocks_than_are_to_be_retained_are_used_again() {
        let mut pool = BlockPool::new(9, 1);
        let (a, b) = (pool.allocate().unwrap(), pool.allocate().unwrap());
        pool.free(a);
        let c = pool.allocate().unwrap();
        assert!(c != a && c != b, "one unused block is retained");
        pool.free(b);
        assert_eq!(pool.allocate(), Some(a), "two are one too many");
        assert_eq!(pool.num_created(), 3);
    }

    #[test]
    fn a_digest_depends_on_everything_before() {
        let (a, b) = (digest(None, &[1]), digest(None, &[2]));
        assert_ne!(digest(Some(&a), &[3]), digest(Some(&b), &[3]));
        assert_ne!(digest(None, &[3]), digest(Some(&a), &[3]));
        assert_eq!(digest(Some(&a), &[3]), digest(Some(&digest(None, &[1])), &[3]));
    }
}
