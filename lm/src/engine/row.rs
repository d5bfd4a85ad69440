//! One sequence on its way through the engine.

use crate::engine::blocks::{BLOCK, PrefixDigest, digest};
use crate::engine::request::{Alternative, RequestId};

/// What a row is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// To draw new tokens for a sample of its request.
    Generate {
        /// Which sample.
        sample: usize,
        /// Its random stream.
        seed: u64,
    },
    /// To give the log-probabilities of its own tokens from this one on.
    Score {
        /// The first token that is scored.
        from: usize,
    },
}

/// Tokens read, tokens drawn, and the blocks that hold their keys and values.
#[derive(Debug)]
pub(super) struct Row {
    pub request: RequestId,
    pub task: Task,
    /// Prompt, then what was drawn.
    pub tokens: Vec<u32>,
    pub prompt_len: usize,
    /// Tokens whose keys and values are in the cache.
    pub computed: usize,
    pub blocks: Vec<u32>,
    digests: Vec<PrefixDigest>,
    /// Blocks whose contents are known to the others.
    pub named: usize,
    pub logprobs: Vec<f32>,
    pub top: Vec<Vec<Alternative>>,
}

impl Row {
    pub fn new(request: RequestId, task: Task, prompt: &[u32]) -> Self {
        Self {
            request,
            task,
            tokens: prompt.to_vec(),
            prompt_len: prompt.len(),
            computed: 0,
            blocks: Vec::new(),
            digests: Vec::new(),
            named: 0,
            logprobs: Vec::new(),
            top: Vec::new(),
        }
    }

    /// Tokens that a forward pass must still read before the next one can be drawn.
    pub fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Tokens drawn so far.
    pub fn drawn(&self) -> &[u32] {
        &self.tokens[self.prompt_len..]
    }

    /// The digest of the block that holds positions `block`·BLOCK and on; all its tokens must be known.
    pub fn digest(&mut self, block: usize) -> PrefixDigest {
        while self.digests.len() <= block {
            let at = self.digests.len();
            let next = digest(self.digests.last(), &self.tokens[at * BLOCK..(at + 1) * BLOCK]);
            self.digests.push(next);
        }
        self.digests[block]
    }

    /// Gives up the scores of a row that is read again; what was drawn stays.
    pub fn forget_scores(&mut self) {
        if matches!(self.task, Task::Score { .. }) {
            self.logprobs.clear();
        }
    }

    /// Place of position `at` among all positions of the cache.
    pub fn slot(&self, at: usize) -> i64 {
        i64::from(self.blocks[at / BLOCK]) * BLOCK as i64 + (at % BLOCK) as i64
    }
}

/// Blocks that `tokens` positions fill, the last perhaps in part.
pub(super) fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK)
}
