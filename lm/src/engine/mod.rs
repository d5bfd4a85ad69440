//! Continuous batching: requests of any length arrive and finish at any time, and each forward pass computes what every sequence
//! needs next.
//!
//! A pass reads chunks of prompts, and one new token of each sequence that is generating. The KV cache consists of blocks under
//! a fixed budget ([`block_pool`]). Sequences with a common prefix share its blocks, and the samples of one request share its
//! whole prompt. A sequence is admitted when enough blocks for its prompt are free. If the cache fills up later, the youngest
//! sequence is preempted: it frees its blocks, and is recomputed when there is room. Sampling is counter-based
//! ([`crate::sampling`]), and on the CPU every token is computed by the same operations in the same order, whatever else is in
//! the batch. The token ids and log-probabilities of a request therefore do not depend on its neighbors, to the bit
//! (docs/determinism.md).
//!
//! Reading order: request → block_pool → kv_cache → sequence → schedule → forward → sampler → step.

pub mod block_pool;
mod device_sampler;
mod forward;
mod kv_cache;
mod request;
mod sampler;
mod schedule;
mod sequence;
mod step;

use std::collections::{HashMap, VecDeque};

use chat::FinishReason;
use tch::Tensor;

pub use request::{Alternative, Generated, Limits, Request, RequestId, SampledToken, ScoreRequest, Scored};

use crate::packed::PackedModel;
use crate::params::LayerWeights;
use crate::{Decoder, LmError};
use block_pool::BlockPool;
use kv_cache::KvCache;
use sequence::{Sequence, SequenceTask};

/// Work that is not part of the running batch.
#[derive(Debug)]
enum Waiting {
    /// A request whose prompt has not been read.
    Prompt(RequestId),
    /// A further sample of a request whose prompt has been read.
    Sample(RequestId, usize),
    /// A sequence that was preempted.
    Preempted(Sequence),
}

/// Prompt of a request after it was read, kept for the samples that have not begun.
#[derive(Debug)]
struct Prompt {
    blocks: Vec<u32>,
    /// Logits of the last prompt token, [vocab], fp32.
    logits: Tensor,
    /// Number of samples that have not begun.
    left: usize,
}

/// A request with its results so far.
#[derive(Debug)]
enum PendingRequest {
    Generate { request: Request, samples: Vec<Option<Generated>>, prompt: Option<Prompt> },
    Score { request: ScoreRequest, scored: Option<Scored> },
}

/// Results of one step.
#[derive(Debug, Default)]
pub struct StepOutput {
    /// Sampled tokens, in the order of the sequences.
    pub sampled: Vec<SampledToken>,
    /// Requests that are complete.
    pub done: Vec<RequestId>,
}

/// Counters since the engine was created.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineStats {
    /// Number of tokens read in forward passes, without prompt tokens that were found in the cache.
    pub prompt_tokens: usize,
    /// Number of prompt tokens that were found in the cache.
    pub shared_tokens: usize,
    /// Number of sampled tokens.
    pub sampled_tokens: usize,
    /// Number of preemptions.
    pub preemptions: usize,
    /// Number of forward passes.
    pub passes: usize,
    /// Number of tokens sampled in steps that read no prompt.
    pub decoded_tokens: usize,
    /// Time of the steps that read prompts, in seconds.
    pub prefill_seconds: f64,
    /// Time of the other steps, in seconds.
    pub decode_seconds: f64,
}

/// Generation engine: a model, its KV cache, and the requests in progress.
pub struct Engine<'a> {
    model: &'a Decoder,
    stop_ids: &'a [u32],
    limits: Limits,
    layers: Vec<LayerWeights>,
    packed: Option<PackedModel>,
    cache: KvCache,
    pool: BlockPool,
    block_limit: usize,
    /// Running sequences, in order of admission.
    running: Vec<Sequence>,
    waiting: VecDeque<Waiting>,
    requests: HashMap<RequestId, PendingRequest>,
    next: u64,
    /// Requests completed since the last step reported them.
    done: Vec<RequestId>,
    stats: EngineStats,
}

impl std::fmt::Debug for Engine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({} seqs, {} waiting, {:?})", self.running.len(), self.waiting.len(), self.limits)
    }
}

impl<'a> Engine<'a> {
    /// Creates an idle engine. `stop_ids` are the tokens that end a sample.
    pub fn new(model: &'a Decoder, stop_ids: &'a [u32], limits: Limits) -> Self {
        let (spec, kind) = (model.spec(), model.params.flat.kind());
        let block = KvCache::block_bytes(spec, kind);
        let block_limit = (limits.cache_bytes / block).max(1);
        Self {
            model,
            stop_ids,
            limits,
            layers: (0..spec.num_hidden_layers).map(|layer| model.params.layer(layer)).collect(),
            packed: None,
            cache: KvCache::new(spec, kind, model.device()),
            pool: BlockPool::new(block_limit, limits.retain_bytes / block),
            block_limit,
            running: Vec::new(),
            waiting: VecDeque::new(),
            requests: HashMap::new(),
            next: 0,
            done: Vec::new(),
            stats: EngineStats::default(),
        }
    }

    /// Queues a generation request.
    ///
    /// # Errors
    /// [`LmError::Request`] if the prompt is empty or fills the context, or if the request can never fit in the cache.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, LmError> {
        let context = self.model.spec().context();
        // The context must have room for at least one new token after the prompt.
        self.check(&request.prompt, context.saturating_sub(1))?;
        let longest = request.prompt.len().saturating_add(request.sampling.max_tokens).min(context);
        self.check_fit(
            longest,
            &format!("{} prompt tokens and up to {} new tokens", request.prompt.len(), request.sampling.max_tokens),
        )?;
        let nothing = Generated { ids: vec![], logprobs: vec![], top: vec![], finish: FinishReason::Length };
        let wants_none = request.sampling.max_tokens == 0;
        let samples: Vec<_> = request.seeds.iter().map(|_| wants_none.then(|| nothing.clone())).collect();
        let done = samples.iter().all(Option::is_some);
        let id = self.register(PendingRequest::Generate { request, samples, prompt: None });
        if done {
            self.done.push(id);
        } else {
            self.waiting.push_back(Waiting::Prompt(id));
        }
        Ok(id)
    }

    /// Queues a request for log-probabilities.
    ///
    /// # Errors
    /// [`LmError::Request`] if there are no tokens or too many, if `from` is not between 1 and the number of tokens, or if the
    /// tokens can never fit in the cache.
    pub fn submit_score(&mut self, request: ScoreRequest) -> Result<RequestId, LmError> {
        let count = request.ids.len();
        self.check(&request.ids, self.model.spec().context())?;
        if request.from == 0 || request.from > count {
            let from = request.from;
            return Err(LmError::Request(format!("cannot score from token {from} of {count}; expected 1 to {count}")));
        }
        self.check_fit(count, "a request for log-probabilities")?;
        let nothing = request.from == count && request.candidates.is_empty();
        let id = self.register(PendingRequest::Score { request, scored: nothing.then(Scored::default) });
        if nothing {
            self.done.push(id);
        } else {
            self.waiting.push_back(Waiting::Prompt(id));
        }
        Ok(id)
    }

    fn check(&self, ids: &[u32], most: usize) -> Result<(), LmError> {
        let vocab = self.model.spec().vocab_size;
        if ids.is_empty() || ids.len() > most {
            let length = ids.len();
            return Err(LmError::Request(format!("the request has {length} tokens; expected 1 to {most}")));
        }
        match ids.iter().find(|&&id| i64::from(id) >= vocab) {
            Some(id) => {
                Err(LmError::Request(format!("token id {id} is not in the vocabulary; expected 0 to {}", vocab - 1)))
            }
            None => Ok(()),
        }
    }

    fn check_fit(&self, tokens: usize, what: &str) -> Result<(), LmError> {
        let fits = self.block_limit * block_pool::BLOCK;
        if tokens > fits {
            let bytes = self.limits.cache_bytes;
            return Err(LmError::Request(format!(
                "{tokens} tokens ({what}) exceed the KV cache of {bytes} bytes, which holds {fits} tokens; increase \
                 kv_cache_gib or request fewer tokens"
            )));
        }
        Ok(())
    }

    fn register(&mut self, request: PendingRequest) -> RequestId {
        let id = RequestId(self.next);
        self.next += 1;
        self.requests.insert(id, request);
        id
    }

    /// Returns whether there is no work left and no completed request left to report.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty() && self.done.is_empty()
    }

    /// Returns the number of requests whose prompt has not been started.
    pub fn queued(&self) -> usize {
        self.waiting.iter().filter(|w| matches!(w, Waiting::Prompt(_))).count()
    }

    /// Returns the number of cache blocks that sequences and prompts reference.
    pub fn blocks_held(&self) -> usize {
        self.pool.num_allocated()
    }

    /// Returns the counters since the engine was created.
    pub fn stats(&self) -> EngineStats {
        self.stats
    }

    /// Returns the samples of a complete request, and removes the request from the engine.
    pub fn take(&mut self, id: RequestId) -> Option<Vec<Generated>> {
        match self.requests.get_mut(&id)? {
            PendingRequest::Generate { samples, .. } if samples.iter().all(Option::is_some) => {
                let samples = std::mem::take(samples).into_iter().flatten().collect();
                self.requests.remove(&id);
                Some(samples)
            }
            _ => None,
        }
    }

    /// Returns the scores of a complete request, and removes the request from the engine.
    pub fn take_scored(&mut self, id: RequestId) -> Option<Scored> {
        match self.requests.get_mut(&id)? {
            PendingRequest::Score { scored, .. } => {
                let scored = scored.take()?;
                self.requests.remove(&id);
                Some(scored)
            }
            PendingRequest::Generate { .. } => None,
        }
    }

    /// Ends a sample with the tokens it has, for example at a stop string. A sample that has just reached its length is reported as
    /// stopped. Has no effect on a sample without tokens.
    pub fn stop(&mut self, id: RequestId, sample: usize) {
        let this = |seq: &Sequence| {
            let own = matches!(seq.task, SequenceTask::Generate { sample: s, .. } if s == sample);
            seq.request == id && own && !seq.sampled().is_empty()
        };
        let preempted = |waiting: &Waiting| matches!(waiting, Waiting::Preempted(seq) if this(seq));
        if let Some(at) = self.running.iter().position(this) {
            let seq = self.running.remove(at);
            self.complete(seq, FinishReason::Stop);
        } else if let Some(at) = self.waiting.iter().position(preempted) {
            if let Some(Waiting::Preempted(seq)) = self.waiting.remove(at) {
                self.complete(seq, FinishReason::Stop);
            }
        } else if let Some(PendingRequest::Generate { samples, .. }) = self.requests.get_mut(&id)
            && let Some(Some(generated)) = samples.get_mut(sample)
            && !generated.ids.is_empty()
        {
            generated.finish = FinishReason::Stop;
        }
    }

    /// Cancels a request and discards its tokens.
    pub fn cancel(&mut self, id: RequestId) {
        let (gone, kept) = std::mem::take(&mut self.running).into_iter().partition(|seq: &Sequence| seq.request == id);
        self.running = kept;
        for seq in gone {
            self.free_blocks(seq.blocks);
        }
        self.waiting.retain(|waiting| match waiting {
            Waiting::Prompt(other) | Waiting::Sample(other, _) => *other != id,
            Waiting::Preempted(seq) => seq.request != id,
        });
        self.done.retain(|done| *done != id);
        if let Some(PendingRequest::Generate { prompt: Some(prompt), .. }) = self.requests.remove(&id) {
            self.free_blocks(prompt.blocks);
        }
    }

    fn free_blocks(&mut self, blocks: Vec<u32>) {
        for block in blocks {
            self.pool.free(block);
        }
    }
}
