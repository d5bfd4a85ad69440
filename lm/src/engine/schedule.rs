//! The scheduler: selects the running sequences, the tokens of the next pass, and the sequences to preempt if the cache is full.

use std::collections::HashSet;

use tch::Tensor;

use crate::LmError;
use crate::engine::block_pool::{BLOCK, PrefixDigest};
use crate::engine::forward::Chunk;
use crate::engine::sequence::{Sequence, SequenceTask, blocks_for};
use crate::engine::{Engine, PendingRequest, RequestId, Waiting};

impl Engine<'_> {
    /// Admits waiting work, first come, first served, while there is room. Returns the new sequences that only need to sample
    /// (their prompt has been read), as indices into `self.running`, with the logits to sample from.
    ///
    /// # Errors
    /// If memory cannot be allocated.
    pub(super) fn admit(&mut self) -> Result<Vec<(usize, Tensor)>, LmError> {
        let mut ready = Vec::new();
        while self.running.len() < self.limits.max_num_seqs
            && let Some(next) = self.waiting.front()
        {
            // Besides the blocks of the new sequence, one block per running sequence must be free. Otherwise a sequence would
            // soon be preempted again.
            let own = match next {
                Waiting::Prompt(id) => blocks_for(self.prompt_of(*id).len()),
                Waiting::Sample(..) => 1,
                Waiting::Preempted(seq) => blocks_for(seq.tokens.len()),
            };
            if !self.running.is_empty() && self.pool.num_free() < own + self.running.len() {
                break;
            }
            match self.waiting.pop_front() {
                Some(Waiting::Prompt(id)) => {
                    let seq = Sequence::new(id, self.first_task(id), self.prompt_of(id));
                    self.running.push(seq);
                }
                Some(Waiting::Preempted(seq)) => self.running.push(seq),
                Some(Waiting::Sample(id, sample)) => match self.fork_sample(id, sample)? {
                    Some((seq, logits)) => {
                        ready.extend(logits.map(|logits| (self.running.len(), logits)));
                        self.running.push(seq);
                    }
                    None => {
                        self.waiting.push_front(Waiting::Sample(id, sample));
                        // If no sequence is running, only kept prompts can hold the blocks.
                        if !(self.running.is_empty() && self.evict_prompts()) {
                            break;
                        }
                    }
                },
                None => break,
            }
        }
        Ok(ready)
    }

    fn prompt_of(&self, id: RequestId) -> &[u32] {
        match &self.requests[&id] {
            PendingRequest::Generate { request, .. } => &request.prompt,
            // Nothing reads the keys of the last token, unless candidates after it are scored.
            PendingRequest::Score { request, .. } if request.candidates.is_empty() => {
                &request.ids[..request.ids.len() - 1]
            }
            PendingRequest::Score { request, .. } => &request.ids,
        }
    }

    fn first_task(&self, id: RequestId) -> SequenceTask {
        match &self.requests[&id] {
            PendingRequest::Generate { request, .. } => SequenceTask::Generate { sample: 0, seed: request.seeds[0] },
            PendingRequest::Score { request, .. } => SequenceTask::Score { from: request.from },
        }
    }

    /// Creates a sequence for a further sample. It shares the full blocks of the prompt, gets a copy of the partial block, and
    /// samples from the prompt's logits. If the prompt's blocks were freed, the sequence reads the prompt again. Returns `None` if
    /// no block is free for the copy.
    ///
    /// # Errors
    /// If memory cannot be allocated.
    fn fork_sample(&mut self, id: RequestId, sample: usize) -> Result<Option<(Sequence, Option<Tensor>)>, LmError> {
        let Some(PendingRequest::Generate { request, prompt, .. }) = self.requests.get_mut(&id) else {
            return Ok(None);
        };
        let mut seq =
            Sequence::new(id, SequenceTask::Generate { sample, seed: request.seeds[sample] }, &request.prompt);
        let Some(read) = prompt else { return Ok(Some((seq, None))) };
        let full = request.prompt.len() / BLOCK;
        if let Some(&partial) = read.blocks.get(full) {
            let Some(copy) = self.pool.allocate() else { return Ok(None) };
            self.cache.make_room(self.pool.num_created(), self.block_limit)?;
            self.cache.copy(partial, copy);
            seq.blocks.push(copy);
        }
        for &block in read.blocks[..full].iter().rev() {
            self.pool.add_ref(block);
            seq.blocks.insert(0, block);
        }
        seq.computed = request.prompt.len();
        seq.num_inserted = full;
        let logits = read.logits.shallow_clone();
        read.left -= 1;
        if read.left == 0
            && let Some(read) = prompt.take()
        {
            self.free_blocks(read.blocks);
        }
        Ok(Some((seq, Some(logits))))
    }

    /// Selects the tokens of the next pass, as chunks with allocated blocks. Chunks that begin a sequence come first.
    ///
    /// # Errors
    /// If memory cannot be allocated.
    pub(super) fn schedule(&mut self) -> Result<Vec<Chunk>, LmError> {
        let mut budget = self.limits.max_num_batched_tokens.max(1);
        let mut chunks: Vec<Chunk> = Vec::new();
        let mut being_read: HashSet<PrefixDigest> = HashSet::new();
        // Generating sequences need one token each. They go before prompts, so that long prompts do not stall them.
        for generating in [true, false] {
            let mut at = 0;
            while at < self.running.len() && budget > 0 {
                let pending = self.running[at].pending();
                let is_generating = pending == 1 && self.running[at].computed > 0;
                if pending > 0 && is_generating == generating {
                    if !generating && self.lookup_prefix(at, &being_read) {
                        at += 1;
                        continue;
                    }
                    let count = self.running[at].pending().min(budget);
                    if !self.reserve(at, count, &mut chunks) {
                        break;
                    }
                    let seq = &mut self.running[at];
                    let from = seq.computed;
                    if !generating {
                        being_read.extend((from / BLOCK..(from + count) / BLOCK).map(|block| seq.digest(block)));
                    }
                    chunks.push(Chunk { seq: at, from, count });
                    budget -= count;
                }
                at += 1;
            }
        }
        chunks.sort_by_key(|chunk| chunk.from != 0);
        self.cache.make_room(self.pool.num_created(), self.block_limit)?;
        Ok(chunks)
    }

    /// Adopts cached blocks that contain the next tokens of a sequence. Returns true if one more such block is being computed in
    /// this pass, so that the sequence should wait for it.
    fn lookup_prefix(&mut self, at: usize, being_read: &HashSet<PrefixDigest>) -> bool {
        let seq = &mut self.running[at];
        // At least one token must be computed, because its output is needed. A score request needs the output of every token
        // that predicts a scored one.
        let most = match seq.task {
            SequenceTask::Generate { .. } => seq.tokens.len() - 1,
            SequenceTask::Score { from } => (from - 1).min(seq.tokens.len() - 1),
        };
        while seq.computed.is_multiple_of(BLOCK) && seq.computed + BLOCK <= most {
            let digest = seq.digest(seq.computed / BLOCK);
            match self.pool.lookup(&digest) {
                Some(block) => {
                    seq.blocks.push(block);
                    seq.computed += BLOCK;
                    seq.num_inserted = seq.blocks.len();
                    self.stats.shared_tokens += BLOCK;
                }
                None => return being_read.contains(&digest),
            }
        }
        false
    }

    /// Allocates the blocks for `count` more tokens of a sequence. If none are free, preempts the youngest sequence and removes its
    /// chunk. Returns false if the sequence itself was preempted.
    fn reserve(&mut self, at: usize, count: usize, chunks: &mut Vec<Chunk>) -> bool {
        let needed = blocks_for(self.running[at].computed + count);
        while self.running[at].blocks.len() < needed {
            match self.pool.allocate() {
                Some(block) => self.running[at].blocks.push(block),
                None if self.evict_prompts() => {}
                None => {
                    let youngest = self.running.len() - 1;
                    let mut seq = self.running.remove(youngest);
                    chunks.retain(|chunk| chunk.seq != youngest);
                    self.free_blocks(std::mem::take(&mut seq.blocks));
                    (seq.computed, seq.num_inserted) = (0, 0);
                    seq.clear_scores();
                    self.stats.preemptions += 1;
                    self.waiting.push_front(Waiting::Preempted(seq));
                    if youngest == at {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// Frees the blocks of prompts that are kept for samples that have not begun. Returns false if there were none.
    fn evict_prompts(&mut self) -> bool {
        let mut freed = Vec::new();
        for request in self.requests.values_mut() {
            if let PendingRequest::Generate { prompt, .. } = request
                && let Some(prompt) = prompt.take()
            {
                freed.extend(prompt.blocks);
            }
        }
        let any = !freed.is_empty();
        self.free_blocks(freed);
        any
    }
}
