//! One sequence of the engine.

use crate::engine::block_pool::{BLOCK, PrefixDigest, digest};
use crate::engine::request::{Alternative, RequestId};

/// Task of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SequenceTask {
    /// Generate new tokens for a sample of its request.
    Generate {
        /// Index of the sample.
        sample: usize,
        /// Seed of the sample.
        seed: u64,
    },
    /// Compute the log-probabilities of its own tokens, starting at `from`.
    Score {
        /// Index of the first token to score.
        from: usize,
    },
}

/// Tokens of a sequence, and the blocks that hold their keys and values.
#[derive(Debug)]
pub(super) struct Sequence {
    pub request: RequestId,
    pub task: SequenceTask,
    /// Prompt tokens, then sampled tokens.
    pub tokens: Vec<u32>,
    pub prompt_len: usize,
    /// Number of tokens whose keys and values are in the cache.
    pub computed: usize,
    pub blocks: Vec<u32>,
    digests: Vec<PrefixDigest>,
    /// Number of blocks whose digests are registered in the block pool.
    pub num_inserted: usize,
    pub logprobs: Vec<f32>,
    pub top: Vec<Vec<Alternative>>,
}

impl Sequence {
    pub fn new(request: RequestId, task: SequenceTask, prompt: &[u32]) -> Self {
        Self {
            request,
            task,
            tokens: prompt.to_vec(),
            prompt_len: prompt.len(),
            computed: 0,
            blocks: Vec::new(),
            digests: Vec::new(),
            num_inserted: 0,
            logprobs: Vec::new(),
            top: Vec::new(),
        }
    }

    /// Returns the number of tokens that forward passes must read before the next token can be sampled.
    pub fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Returns the tokens sampled so far.
    pub fn sampled(&self) -> &[u32] {
        &self.tokens[self.prompt_len..]
    }

    /// Returns the digest of the block that begins at position `block`·BLOCK. All tokens of the block must be known.
    pub fn digest(&mut self, block: usize) -> PrefixDigest {
        while self.digests.len() <= block {
            let at = self.digests.len();
            let next = digest(self.digests.last(), &self.tokens[at * BLOCK..(at + 1) * BLOCK]);
            self.digests.push(next);
        }
        self.digests[block]
    }

    /// Clears the scores of a score request that is recomputed. Sampled tokens are kept.
    pub fn clear_scores(&mut self) {
        if matches!(self.task, SequenceTask::Score { .. }) {
            self.logprobs.clear();
        }
    }

    /// Returns the slot of position `at` among all positions of the cache.
    pub fn slot(&self, at: usize) -> i64 {
        i64::from(self.blocks[at / BLOCK]) * BLOCK as i64 + (at % BLOCK) as i64
    }
}

/// Returns the number of blocks that `tokens` positions need. The last block may be partial.
pub(super) fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK)
}
