//! Continuous batching: requests of any length come and go, and each forward pass does what every row needs next.
//!
//! A pass reads parts of prompts and one new token of each row that is generating. Keys and values lie in blocks under a
//! stated budget ([`blocks`]); rows that begin alike share them, the samples of one request share its whole prompt. A row
//! is admitted when the blocks of its prompt are free; if the cache fills up later, the youngest row gives its blocks back
//! and is read again when there is room. Draws are counter-based ([`crate::sampling`]), and on the CPU every token is computed
//! by the same operations in the same order whatever is beside it: what a request gets, ids and log-probabilities, does not
//! depend on its neighbors, to the bit (docs/determinism.md).
//!
//! Reading order: request → blocks → cache → row → schedule → forward → sampler → step.

pub mod blocks;
mod cache;
mod draw;
mod forward;
mod request;
mod row;
mod sampler;
mod schedule;
mod step;

use std::collections::{HashMap, VecDeque};

use chat::FinishReason;
use tch::Tensor;

pub use request::{Alternative, Drawn, Generated, Limits, Request, RequestId, ScoreRequest, Scored};

use crate::packed::PackedModel;
use crate::params::LayerWeights;
use crate::{Decoder, LmError};
use blocks::Blocks;
use cache::Cache;
use row::{Row, Task};

/// What is not in a forward pass yet.
#[derive(Debug)]
enum Waiting {
    /// A request whose prompt nobody has read.
    First(RequestId),
    /// A further sample of a request whose prompt has been read.
    Next(RequestId, usize),
    /// A row that had to give its blocks back.
    Again(Row),
}

/// A request's prompt after it was read, kept for samples that have not begun.
#[derive(Debug)]
struct Prompt {
    blocks: Vec<u32>,
    /// [vocab], fp32.
    logits: Tensor,
    /// Samples to come.
    left: usize,
}

/// A request and what is known of its answer.
#[derive(Debug)]
enum Job {
    Generate { request: Request, samples: Vec<Option<Generated>>, prompt: Option<Prompt> },
    Score { request: ScoreRequest, scored: Option<Scored> },
}

/// What a step did.
#[derive(Debug, Default)]
pub struct Progress {
    /// Tokens drawn, in the rows' order.
    pub drawn: Vec<Drawn>,
    /// Requests that are answered now.
    pub done: Vec<RequestId>,
}

/// Counts since the engine began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Tokens read in forward passes, those of prompts that were found in the cache left out.
    pub prompt_tokens: usize,
    /// Prompt tokens that were found in the cache.
    pub shared_tokens: usize,
    /// Tokens drawn.
    pub drawn_tokens: usize,
    /// Times that a row had to give its blocks back.
    pub preemptions: usize,
    /// Forward passes.
    pub passes: usize,
    /// Tokens drawn in steps that read no prompt.
    pub decoded_tokens: usize,
    /// Seconds of steps that read prompts.
    pub prefill_seconds: f64,
    /// Seconds of the other steps.
    pub decode_seconds: f64,
}

/// A model with its cache and the requests it is working on.
pub struct Engine<'a> {
    model: &'a Decoder,
    stop_ids: &'a [u32],
    limits: Limits,
    layers: Vec<LayerWeights>,
    packed: Option<PackedModel>,
    cache: Cache,
    blocks: Blocks,
    block_limit: usize,
    /// In order of admission.
    rows: Vec<Row>,
    waiting: VecDeque<Waiting>,
    jobs: HashMap<RequestId, Job>,
    next: u64,
    /// Answered since the last step said so.
    done: Vec<RequestId>,
    counts: Counts,
}

impl std::fmt::Debug for Engine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({} rows, {} waiting, {:?})", self.rows.len(), self.waiting.len(), self.limits)
    }
}

impl<'a> Engine<'a> {
    /// An idle engine. `stop_ids` end a sample.
    pub fn new(model: &'a Decoder, stop_ids: &'a [u32], limits: Limits) -> Self {
        let (spec, kind) = (model.spec(), model.params.flat.kind());
        let block = Cache::block_bytes(spec, kind);
        let block_limit = (limits.cache_bytes / block).max(1);
        Self {
            model,
            stop_ids,
            limits,
            layers: (0..spec.num_hidden_layers).map(|layer| model.params.layer(layer)).collect(),
            packed: None,
            cache: Cache::new(spec, kind, model.device()),
            blocks: Blocks::new(block_limit, limits.retain_bytes / block),
            block_limit,
            rows: Vec::new(),
            waiting: VecDeque::new(),
            jobs: HashMap::new(),
            next: 0,
            done: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Queues a request.
    ///
    /// # Errors
    /// [`LmError::Request`] if its prompt is empty or fills the context, or if it can never fit the cache.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, LmError> {
        let context = self.model.spec().context();
        // A prompt leaves room for at least one new token.
        self.check(&request.prompt, context.saturating_sub(1))?;
        let longest = request.prompt.len().saturating_add(request.sampling.max_tokens).min(context);
        self.check_fit(
            longest,
            &format!("of {} prompt and up to {} new ones", request.prompt.len(), request.sampling.max_tokens),
        )?;
        let nothing = Generated { ids: vec![], logprobs: vec![], top: vec![], finish: FinishReason::Length };
        let wants_none = request.sampling.max_tokens == 0;
        let samples: Vec<_> = request.seeds.iter().map(|_| wants_none.then(|| nothing.clone())).collect();
        let done = samples.iter().all(Option::is_some);
        let id = self.file(Job::Generate { request, samples, prompt: None });
        if done {
            self.done.push(id);
        } else {
            self.waiting.push_back(Waiting::First(id));
        }
        Ok(id)
    }

    /// Queues a request for log-probabilities.
    ///
    /// # Errors
    /// [`LmError::Request`] if the tokens are none or too many, `from` is not among 1 to their number, or they can never
    /// fit the cache.
    pub fn submit_score(&mut self, request: ScoreRequest) -> Result<RequestId, LmError> {
        let count = request.ids.len();
        self.check(&request.ids, self.model.spec().context())?;
        if request.from == 0 || request.from > count {
            let from = request.from;
            return Err(LmError::Request(format!(
                "scoring from token {from} of {count}; the first that has a past is 1"
            )));
        }
        self.check_fit(count, "to score")?;
        let nothing = request.from == count && request.candidates.is_empty();
        let id = self.file(Job::Score { request, scored: nothing.then(Scored::default) });
        if nothing {
            self.done.push(id);
        } else {
            self.waiting.push_back(Waiting::First(id));
        }
        Ok(id)
    }

    fn check(&self, ids: &[u32], most: usize) -> Result<(), LmError> {
        let vocab = self.model.spec().vocab_size;
        if ids.is_empty() || ids.len() > most {
            let length = ids.len();
            return Err(LmError::Request(format!("{length} tokens; the model takes 1 to {most}")));
        }
        match ids.iter().find(|&&id| i64::from(id) >= vocab) {
            Some(id) => Err(LmError::Request(format!("token id {id}; the model knows 0 to {}", vocab - 1))),
            None => Ok(()),
        }
    }

    fn check_fit(&self, tokens: usize, what: &str) -> Result<(), LmError> {
        let fits = self.block_limit * blocks::BLOCK;
        if tokens > fits {
            let bytes = self.limits.cache_bytes;
            return Err(LmError::Request(format!(
                "{tokens} tokens {what} need more than the key/value cache of {bytes} bytes, which holds {fits}; give it \
                 more memory or ask for fewer tokens"
            )));
        }
        Ok(())
    }

    fn file(&mut self, job: Job) -> RequestId {
        let id = RequestId(self.next);
        self.next += 1;
        self.jobs.insert(id, job);
        id
    }

    /// Whether nothing is left to do.
    pub fn is_idle(&self) -> bool {
        self.rows.is_empty() && self.waiting.is_empty() && self.done.is_empty()
    }

    /// Requests that nobody has begun to read.
    pub fn queued(&self) -> usize {
        self.waiting.iter().filter(|w| matches!(w, Waiting::First(_))).count()
    }

    /// Blocks of the cache that rows and prompts hold.
    pub fn blocks_held(&self) -> usize {
        self.blocks.held()
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The samples of a request whose answer is complete; the engine forgets it.
    pub fn take(&mut self, id: RequestId) -> Option<Vec<Generated>> {
        match self.jobs.get_mut(&id)? {
            Job::Generate { samples, .. } if samples.iter().all(Option::is_some) => {
                let samples = std::mem::take(samples).into_iter().flatten().collect();
                self.jobs.remove(&id);
                Some(samples)
            }
            _ => None,
        }
    }

    /// The scores of a request whose answer is complete; the engine forgets it.
    pub fn take_scored(&mut self, id: RequestId) -> Option<Scored> {
        match self.jobs.get_mut(&id)? {
            Job::Score { scored, .. } => {
                let scored = scored.take()?;
                self.jobs.remove(&id);
                Some(scored)
            }
            Job::Generate { .. } => None,
        }
    }

    /// Ends one sample with what it has (a stop string was seen).
    pub fn stop(&mut self, id: RequestId, sample: usize) {
        let this = |row: &Row| row.request == id && matches!(row.task, Task::Generate { sample: s, .. } if s == sample);
        if let Some(at) = self.rows.iter().position(this) {
            let row = self.rows.remove(at);
            self.complete(row, FinishReason::Stop);
        }
    }

    /// Forgets a request and what it has drawn.
    pub fn cancel(&mut self, id: RequestId) {
        let (gone, kept) = std::mem::take(&mut self.rows).into_iter().partition(|row: &Row| row.request == id);
        self.rows = kept;
        for row in gone {
            self.give_back(row.blocks);
        }
        self.waiting.retain(|waiting| match waiting {
            Waiting::First(other) | Waiting::Next(other, _) => *other != id,
            Waiting::Again(row) => row.request != id,
        });
        if let Some(Job::Generate { prompt: Some(prompt), .. }) = self.jobs.remove(&id) {
            self.give_back(prompt.blocks);
        }
    }

    fn give_back(&mut self, blocks: Vec<u32>) {
        for block in blocks {
            self.blocks.release(block);
        }
    }
}
