//! Which rows are in, which tokens the next pass reads, and who gives way when the cache is full.

use std::collections::HashSet;

use tch::Tensor;

use crate::LmError;
use crate::engine::blocks::{BLOCK, PrefixDigest};
use crate::engine::forward::Chunk;
use crate::engine::row::{Row, Task, blocks_for};
use crate::engine::{Engine, Job, RequestId, Waiting};

impl Engine<'_> {
    /// Lets waiting work in, first come first served, while there is room. Returns the new rows that have only to draw
    /// (their prompt has been read), as places in `self.rows`, and the logits to draw from.
    pub(super) fn admit(&mut self) -> Vec<(usize, Tensor)> {
        let mut ready = Vec::new();
        while self.rows.len() < self.limits.max_rows
            && let Some(next) = self.waiting.front()
        {
            // Beside its own tokens, one block for each row that is growing: less would soon push somebody out again.
            let own = match next {
                Waiting::First(id) => blocks_for(self.prompt_of(*id).len()),
                Waiting::Next(..) => 1,
                Waiting::Again(row) => blocks_for(row.tokens.len()),
            };
            if !self.rows.is_empty() && self.blocks.left() < own + self.rows.len() {
                break;
            }
            match self.waiting.pop_front() {
                Some(Waiting::First(id)) => {
                    let row = Row::new(id, self.first_task(id), self.prompt_of(id));
                    self.rows.push(row);
                }
                Some(Waiting::Again(row)) => self.rows.push(row),
                Some(Waiting::Next(id, sample)) => match self.follow(id, sample) {
                    Some((row, logits)) => {
                        ready.extend(logits.map(|logits| (self.rows.len(), logits)));
                        self.rows.push(row);
                    }
                    None => {
                        self.waiting.push_front(Waiting::Next(id, sample));
                        // With no row at work, only kept prompts can hold the blocks.
                        if !(self.rows.is_empty() && self.forget_prompts()) {
                            break;
                        }
                    }
                },
                None => break,
            }
        }
        ready
    }

    fn prompt_of(&self, id: RequestId) -> &[u32] {
        match &self.jobs[&id] {
            Job::Generate { request, .. } => &request.prompt,
            // The last token's keys are needed by nobody, unless something is asked of what follows it.
            Job::Score { request, .. } if request.candidates.is_empty() => &request.ids[..request.ids.len() - 1],
            Job::Score { request, .. } => &request.ids,
        }
    }

    fn first_task(&self, id: RequestId) -> Task {
        match &self.jobs[&id] {
            Job::Generate { request, .. } => Task::Generate { sample: 0, seed: request.seeds[0] },
            Job::Score { request, .. } => Task::Score { from: request.from },
        }
    }

    /// A row for a further sample: it shares the prompt's full blocks, gets a copy of the one that is filled in part, and
    /// draws from the prompt's logits. If the prompt's blocks had to be given back, the row reads it again.
    fn follow(&mut self, id: RequestId, sample: usize) -> Option<(Row, Option<Tensor>)> {
        let Some(Job::Generate { request, prompt, .. }) = self.jobs.get_mut(&id) else { return None };
        let mut row = Row::new(id, Task::Generate { sample, seed: request.seeds[sample] }, &request.prompt);
        let Some(read) = prompt else { return Some((row, None)) };
        let full = request.prompt.len() / BLOCK;
        if let Some(&partial) = read.blocks.get(full) {
            let copy = self.blocks.take()?;
            self.cache.make_room(self.blocks.in_use(), self.block_limit).ok()?;
            self.cache.copy(partial, copy);
            row.blocks.push(copy);
        }
        for &block in read.blocks[..full].iter().rev() {
            self.blocks.share(block);
            row.blocks.insert(0, block);
        }
        row.computed = request.prompt.len();
        row.named = full;
        let logits = read.logits.shallow_clone();
        read.left -= 1;
        if read.left == 0
            && let Some(read) = prompt.take()
        {
            self.give_back(read.blocks);
        }
        Some((row, Some(logits)))
    }

    /// What the next pass reads, sequences that begin first. Every chunk has its blocks.
    ///
    /// # Errors
    /// If memory does not suffice.
    pub(super) fn plan(&mut self) -> Result<Vec<Chunk>, LmError> {
        let mut budget = self.limits.step_tokens.max(1);
        let mut chunks: Vec<Chunk> = Vec::new();
        let mut being_read: HashSet<PrefixDigest> = HashSet::new();
        // Rows that are generating need one token each; they go before prompts, so that long ones do not stall them.
        for generating in [true, false] {
            let mut at = 0;
            while at < self.rows.len() && budget > 0 {
                let pending = self.rows[at].pending();
                let is_generating = pending == 1 && self.rows[at].computed > 0;
                if pending > 0 && is_generating == generating {
                    if !generating && self.find_prefix(at, &being_read) {
                        at += 1;
                        continue;
                    }
                    let count = self.rows[at].pending().min(budget);
                    if !self.reserve(at, count, &mut chunks) {
                        break;
                    }
                    let row = &mut self.rows[at];
                    let from = row.computed;
                    if !generating {
                        being_read.extend((from / BLOCK..(from + count) / BLOCK).map(|block| row.digest(block)));
                    }
                    chunks.push(Chunk { row: at, from, count });
                    budget -= count;
                }
                at += 1;
            }
        }
        chunks.sort_by_key(|chunk| chunk.from != 0);
        self.cache.make_room(self.blocks.in_use(), self.block_limit)?;
        Ok(chunks)
    }

    /// Takes over blocks that hold the row's next tokens already. True if one of them is being read in this very pass:
    /// the row had better wait for it.
    fn find_prefix(&mut self, at: usize, being_read: &HashSet<PrefixDigest>) -> bool {
        let row = &mut self.rows[at];
        // One token must remain to be read: its output is what the row is there for. Scores need all of theirs.
        let most = match row.task {
            Task::Generate { .. } => row.tokens.len() - 1,
            Task::Score { from } => (from - 1).min(row.tokens.len() - 1),
        };
        while row.computed.is_multiple_of(BLOCK) && row.computed + BLOCK <= most {
            let digest = row.digest(row.computed / BLOCK);
            match self.blocks.find(&digest) {
                Some(block) => {
                    row.blocks.push(block);
                    row.computed += BLOCK;
                    row.named = row.blocks.len();
                    self.counts.shared_tokens += BLOCK;
                }
                None => return being_read.contains(&digest),
            }
        }
        false
    }

    /// Takes the blocks for `count` more tokens of a row. If there are none, the youngest row gives way (its chunk with
    /// it). False if that was the row itself.
    fn reserve(&mut self, at: usize, count: usize, chunks: &mut Vec<Chunk>) -> bool {
        let needed = blocks_for(self.rows[at].computed + count);
        while self.rows[at].blocks.len() < needed {
            match self.blocks.take() {
                Some(block) => self.rows[at].blocks.push(block),
                None if self.forget_prompts() => {}
                None => {
                    let youngest = self.rows.len() - 1;
                    let mut row = self.rows.remove(youngest);
                    chunks.retain(|chunk| chunk.row != youngest);
                    self.give_back(std::mem::take(&mut row.blocks));
                    (row.computed, row.named) = (0, 0);
                    row.forget_scores();
                    self.counts.preemptions += 1;
                    self.waiting.push_front(Waiting::Again(row));
                    if youngest == at {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// Gives back the blocks of prompts whose remaining samples have not begun. False if there were none.
    fn forget_prompts(&mut self) -> bool {
        let mut freed = Vec::new();
        for job in self.jobs.values_mut() {
            if let Job::Generate { prompt, .. } = job
                && let Some(prompt) = prompt.take()
            {
                freed.extend(prompt.blocks);
            }
        }
        let any = !freed.is_empty();
        self.give_back(freed);
        any
    }
}
