//! Batched generation with a KV cache.
//!
//! A prompt is prefilled once, however many samples are drawn from it: its keys and values lie in a shared, packed
//! prefix, and each row caches only what it generates. A row that has finished leaves the batch. Draws are
//! counter-based ([`crate::sampling`]), so a request's output does not depend on its neighbours.

use chat::{FinishReason, Sampling};
use rayon::prelude::*;
use tch::{Kind, Tensor};
use torch_ext::DecodeRows;

use crate::decoder::{finish, project, scale};
use crate::sampling::{argmax, draw, uniform};
use crate::{Decoder, LmError, Packed, head};

/// One prompt and the samples wanted of it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Prompt tokens.
    pub prompt: Vec<u32>,
    /// One random stream a sample.
    pub seeds: Vec<u64>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Alternatives to report per token.
    pub top_logprobs: usize,
}

/// A token the model considered, with its own log-probability (temperature 1).
pub type Alternative = (u32, f32);

/// One sample.
#[derive(Clone, Debug)]
pub struct Generated {
    /// New tokens, the one that ended the turn included.
    pub ids: Vec<u32>,
    /// Log-probability of each under the sampled distribution before truncation: logits divided by the temperature
    /// (by 1 if decoding is greedy). Nats.
    pub logprobs: Vec<f32>,
    /// Alternatives of each token, best first, where asked for; the drawn token comes first of all.
    pub top: Vec<Vec<Alternative>>,
    /// Why it ended.
    pub finish: FinishReason,
}

/// What bounds a batch.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rows decoded at once.
    pub max_rows: usize,
    /// Tokens of a prefill pass, and prefix tokens held at once (at least one prompt always fits).
    pub prefill_tokens: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_rows: 512, prefill_tokens: 32 << 10 }
    }
}

/// What every sample's generation shares.
pub struct Generator<'a> {
    /// The model.
    pub model: &'a Decoder,
    /// Tokens that end a turn.
    pub stop_ids: &'a [u32],
    /// Bounds of a batch.
    pub limits: Limits,
}

/// Asked after each new token of (request index, new tokens): should this row stop here?
pub type StopHook<'a> = dyn Fn(usize, &[u32]) -> bool + 'a;

impl std::fmt::Debug for Generator<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Generator({:?})", self.limits)
    }
}

impl Generator<'_> {
    /// Draws every sample of every request; the result has one list a request, one entry a seed.
    ///
    /// # Errors
    /// If a prompt is empty or fills the model's context, or libtorch fails.
    pub fn generate(&self, requests: &[Request], stop: Option<&StopHook<'_>>) -> Result<Vec<Vec<Generated>>, LmError> {
        let mut results = Vec::with_capacity(requests.len());
        let mut begin = 0;
        while begin < requests.len() {
            let (mut rows, mut tokens, mut end) = (0, 0, begin);
            while end < requests.len() {
                rows += requests[end].seeds.len();
                tokens += requests[end].prompt.len();
                if end > begin && (rows > self.limits.max_rows || tokens > self.limits.prefill_tokens) {
                    break;
                }
                end += 1;
            }
            let batch = &requests[begin..end];
            let hook = stop.map(|hook| move |i: usize, ids: &[u32]| hook(begin + i, ids));
            let hook = hook.as_ref().map(|h| h as &StopHook<'_>);
            results.extend(tch::no_grad(|| self.generate_batch(batch, hook))?);
            begin = end;
        }
        Ok(results)
    }

    fn generate_batch(
        &self,
        requests: &[Request],
        stop: Option<&StopHook<'_>>,
    ) -> Result<Vec<Vec<Generated>>, LmError> {
        let context = self.model.spec().max_position_embeddings;
        let prompts: Vec<&[u32]> = requests.iter().map(|r| r.prompt.as_slice()).collect();
        // A prompt leaves room for at least one new token.
        let packed = Packed::new(&prompts, context.saturating_sub(1), self.model.device())?;
        let mut kept = Vec::new();
        let hidden = self.model.forward(&packed, Some(&mut kept))?;
        let first = head::logits(self.model, &hidden, &packed.last_tokens())?;

        let mut rows: Vec<Row> = Vec::new();
        for (request, r) in requests.iter().enumerate() {
            for &seed in &r.seeds {
                rows.push(Row::new(rows.len() as i64, request, seed, &packed.cu_seqlens));
            }
        }
        let of_request: Vec<i64> = rows.iter().map(|r| r.request as i64).collect();
        let mut logits = first.index_select(0, &Tensor::from_slice(&of_request).to_device(self.model.device()));
        let mut cache = Cache::new(self.model, kept, rows.len() as i64);
        let mut active: Vec<usize> = (0..rows.len()).collect();
        while !active.is_empty() {
            self.extend(&mut rows, &active, requests, &logits, stop)?;
            active.retain(|&r| rows[r].finish.is_none());
            if !active.is_empty() {
                logits = self.decode(&mut rows, &active, &mut cache)?;
            }
        }
        let mut results: Vec<Vec<Generated>> = requests.iter().map(|_| Vec::new()).collect();
        for row in rows {
            results[row.request].push(Generated {
                ids: row.ids,
                logprobs: row.logprobs,
                top: row.top,
                finish: row.finish.unwrap_or(FinishReason::Length),
            });
        }
        Ok(results)
    }

    /// Draws one token for each active row from `logits` [active, vocab] and marks the rows that end.
    fn extend(
        &self,
        rows: &mut [Row],
        active: &[usize],
        requests: &[Request],
        logits: &Tensor,
        stop: Option<&StopHook<'_>>,
    ) -> Result<(), LmError> {
        let sampling = |row: &Row| &requests[row.request].sampling;
        let temperatures: Vec<f32> = active
            .iter()
            .map(|&r| Some(sampling(&rows[r]).temperature as f32).filter(|t| *t > 0.0).unwrap_or(1.0))
            .collect();
        let scaled = if temperatures.iter().all(|t| *t == 1.0) {
            logits.shallow_clone()
        } else {
            logits / Tensor::from_slice(&temperatures).to_device(logits.device()).unsqueeze(-1)
        };
        let vocab = self.model.spec().vocab_size as usize;
        let probabilities = to_vec(&scaled.softmax(-1, Kind::Float))?;
        let drawn: Vec<usize> = active
            .par_iter()
            .zip(probabilities.par_chunks(vocab))
            .map(|(&r, p)| match sampling(&rows[r]) {
                s if s.temperature == 0.0 => argmax(p),
                s => draw(p, s, uniform(rows[r].seed, rows[r].ids.len() as u64)),
            })
            .collect();
        self.report_alternatives(rows, active, requests, logits, &drawn)?;
        let context = self.model.spec().max_position_embeddings;
        for (i, &r) in active.iter().enumerate() {
            let row = &mut rows[r];
            row.ids.push(drawn[i] as u32);
            row.logprobs.push(probabilities[i * vocab + drawn[i]].ln());
            row.finish =
                if self.stop_ids.contains(&(drawn[i] as u32)) || stop.is_some_and(|hook| hook(row.request, &row.ids)) {
                    Some(FinishReason::Stop)
                } else if row.ids.len() >= requests[row.request].sampling.max_tokens
                    || row.prefix_len as usize + row.ids.len() >= context
                {
                    Some(FinishReason::Length)
                } else {
                    None
                };
        }
        Ok(())
    }

    fn report_alternatives(
        &self,
        rows: &mut [Row],
        active: &[usize],
        requests: &[Request],
        logits: &Tensor,
        drawn: &[usize],
    ) -> Result<(), LmError> {
        let wanted = active.iter().map(|&r| requests[rows[r].request].top_logprobs).max().unwrap_or(0);
        if wanted == 0 {
            return Ok(());
        }
        let k = wanted.min(self.model.spec().vocab_size as usize);
        let own = logits.log_softmax(-1, Kind::Float);
        let (values, ids) = own.topk(k as i64, -1, true, true);
        let (values, ids) = (to_vec(&values)?, Vec::<i64>::try_from(ids.contiguous().view(-1))?);
        let index: Vec<i64> = drawn.iter().map(|&d| d as i64).collect();
        let index = Tensor::from_slice(&index).to_device(logits.device()).unsqueeze(-1);
        let drawn_logprobs = to_vec(&own.gather(-1, &index, false))?;
        for (i, &r) in active.iter().enumerate() {
            let n = requests[rows[r].request].top_logprobs.min(k);
            let mut top = vec![(drawn[i] as u32, drawn_logprobs[i])];
            top.extend((0..n).map(|j| (ids[i * k + j] as u32, values[i * k + j])));
            rows[r].top.push(top);
        }
        Ok(())
    }

    /// Feeds each active row's last token through the model: logits [active, vocab].
    fn decode(&self, rows: &mut [Row], active: &[usize], cache: &mut Cache) -> Result<Tensor, LmError> {
        let (spec, device) = (self.model.spec(), self.model.device());
        let of = |f: &dyn Fn(&Row) -> i64| active.iter().map(|&r| f(&rows[r])).collect::<Vec<i64>>();
        let at = DecodeRows {
            slot: of(&|r| r.slot),
            own_len: of(&|r| r.ids.len() as i64),
            prefix_begin: of(&|r| r.prefix_begin),
            prefix_len: of(&|r| r.prefix_len),
        };
        let to_device = |values: &[i64]| Tensor::from_slice(values).to_device(device);
        let ids = to_device(&of(&|r| i64::from(r.ids[r.ids.len() - 1])));
        let positions = to_device(&of(&|r| r.prefix_len + r.ids.len() as i64 - 1));
        cache.make_room(at.own_len.iter().copied().max().unwrap_or(0))?;
        let places: Vec<i64> =
            at.slot.iter().zip(&at.own_len).map(|(slot, len)| slot * cache.capacity + len - 1).collect();
        let places = to_device(&places);

        let (cos, sin) = self.model.rope_rows(&positions);
        let width = spec.num_attention_heads * spec.head_dim;
        let mut x = self.model.embed(&ids);
        for layer in 0..spec.num_hidden_layers {
            let weights = self.model.params.layer(layer);
            let (q, k, v) = project(spec, &weights, &x, (&cos, &sin))?;
            let (own_k, own_v) = cache.write(layer, &places, &k, &v);
            let prefix = &cache.prefix[layer];
            let attended = torch_ext::decode_attention(&q, (&prefix.0, &prefix.1), (own_k, own_v), &at, scale(spec))?;
            x = finish(spec, &weights, &x, &attended.view([-1, width]))?;
        }
        let all = Tensor::arange(active.len() as i64, (Kind::Int64, device));
        head::logits(self.model, &x, &all)
    }
}

fn to_vec(t: &Tensor) -> Result<Vec<f32>, LmError> {
    Ok(Vec::<f32>::try_from(t.contiguous().view(-1))?)
}

struct Row {
    slot: i64,
    request: usize,
    seed: u64,
    prefix_begin: i64,
    prefix_len: i64,
    ids: Vec<u32>,
    logprobs: Vec<f32>,
    top: Vec<Vec<Alternative>>,
    finish: Option<FinishReason>,
}

impl Row {
    fn new(slot: i64, request: usize, seed: u64, cu_seqlens: &[i64]) -> Self {
        let (prefix_begin, end) = (cu_seqlens[request], cu_seqlens[request + 1]);
        Self {
            slot,
            request,
            seed,
            prefix_begin,
            prefix_len: end - prefix_begin,
            ids: Vec::new(),
            logprobs: Vec::new(),
            top: Vec::new(),
            finish: None,
        }
    }
}

/// Keys and values of all layers: the prompts', packed, and each row's own, which grow by doubling.
struct Cache {
    prefix: Vec<(Tensor, Tensor)>,
    own: Vec<(Tensor, Tensor)>,
    slots: i64,
    capacity: i64,
}

impl Cache {
    const FIRST_CAPACITY: i64 = 32;

    fn new(model: &Decoder, prefix: Vec<crate::decoder::KeysValues>, slots: i64) -> Self {
        let spec = model.spec();
        let options = (model.params.flat.kind(), model.device());
        let shape = [slots, Self::FIRST_CAPACITY, spec.num_key_value_heads, spec.head_dim];
        let own = (0..spec.num_hidden_layers)
            .map(|_| (Tensor::empty(shape, options), Tensor::empty(shape, options)))
            .collect();
        let prefix = prefix.into_iter().map(|kv| (kv.k.contiguous(), kv.v.contiguous())).collect();
        Self { prefix, own, slots, capacity: Self::FIRST_CAPACITY }
    }

    fn make_room(&mut self, length: i64) -> Result<(), LmError> {
        if length <= self.capacity {
            return Ok(());
        }
        let grown = (self.capacity * 2).max(length);
        for (k, v) in &mut self.own {
            for t in [k, v] {
                let mut shape = t.size();
                shape[1] = grown;
                let larger = Tensor::f_empty(&shape, (t.kind(), t.device()))?;
                larger.narrow(1, 0, self.capacity).copy_(t);
                *t = larger;
            }
        }
        self.capacity = grown;
        Ok(())
    }

    /// Writes the new position of each row; returns the layer's cache.
    fn write(&self, layer: usize, places: &Tensor, k: &Tensor, v: &Tensor) -> (&Tensor, &Tensor) {
        let flat = self.slots * self.capacity;
        let (own_k, own_v) = &self.own[layer];
        for (cache, new) in [(own_k, k), (own_v, v)] {
            let shape = cache.size();
            let _ = cache.view([flat, shape[2], shape[3]]).index_copy_(0, places, &new.contiguous());
        }
        (own_k, own_v)
    }
}
