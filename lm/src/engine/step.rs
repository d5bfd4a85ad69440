//! One step: admit sequences, run a forward pass, sample, retire complete sequences.

use std::time::Instant;

use chat::FinishReason;
use tch::{Device, Tensor};

use crate::LmError;
use crate::engine::block_pool::BLOCK;
use crate::engine::forward::{Chunk, Weights, forward};
use crate::engine::request::{Generated, SampledToken, Scored};
use crate::engine::sampler::{Pick, Picked, pick};
use crate::engine::sequence::{Sequence, SequenceTask};
use crate::engine::{Engine, PendingRequest, Prompt, StepOutput, Waiting};
use crate::head::{self, Targets};
use crate::packed::PackedModel;

/// Outputs of a forward pass that are needed.
#[derive(Default)]
struct WantedOutputs {
    /// Tokens of the pass whose outputs are needed, ascending.
    outputs: Vec<i64>,
    /// Sequences that sample, each with the index in `outputs` to sample from.
    samples: Vec<(usize, i64)>,
    /// Tokens to score: the sequence, the index in `outputs`, and the token that follows it.
    scores: Vec<(usize, i64, i64)>,
}

impl Engine<'_> {
    /// Reads the tokens that each sequence needs next, and samples a token for each sequence that has read all its tokens.
    ///
    /// # Errors
    /// If libtorch fails (memory). The engine must not be used after an error.
    pub fn step(&mut self) -> Result<StepOutput, LmError> {
        tch::no_grad(|| {
            let (begun, read, drawn) = (Instant::now(), self.stats.prompt_tokens, self.stats.sampled_tokens);
            let mut ready = self.admit()?;
            let chunks = self.schedule()?;
            // Scheduling may have preempted the youngest sequences.
            ready.retain(|(seq, _)| *seq < self.running.len());
            let (mut drawing, mut logits) = (Vec::new(), Vec::new());
            if !chunks.is_empty() {
                let wanted = self.wanted(&chunks);
                self.pack()?;
                let weights = Weights { model: self.model, layers: &self.layers, packed: self.packed.as_ref() };
                let hidden = forward(weights, &self.cache, &self.running, &chunks, &wanted.outputs)?;
                self.stats.passes += 1;
                self.advance(&chunks);
                self.score(&hidden, &wanted)?;
                if !wanted.samples.is_empty() {
                    let at: Vec<i64> = wanted.samples.iter().map(|&(_, at)| at).collect();
                    let made = head::logits_packed(self.model, self.packed.as_ref(), &hidden, &self.on_device(&at))?;
                    drawing.extend(wanted.samples.iter().map(|&(seq, _)| seq));
                    ready.extend(self.share_prompts(&drawing, &made)?);
                    logits.push(made);
                }
            }
            for (seq, of_prompt) in ready {
                drawing.push(seq);
                logits.push(of_prompt.unsqueeze(0));
            }
            let mut output = StepOutput::default();
            if !drawing.is_empty() {
                let logits = if logits.len() == 1 { logits.remove(0) } else { Tensor::cat(&logits, 0) };
                self.sample(&drawing, &logits, &mut output)?;
            }
            self.retire(&output);
            output.done = std::mem::take(&mut self.done);
            let seconds = begun.elapsed().as_secs_f64();
            if self.stats.prompt_tokens > read {
                self.stats.prefill_seconds += seconds;
            } else {
                self.stats.decode_seconds += seconds;
                self.stats.decoded_tokens += self.stats.sampled_tokens - drawn;
            }
            Ok(output)
        })
    }

    /// Packs the model's matrices for the CPU kernels, once.
    fn pack(&mut self) -> Result<(), LmError> {
        let (kind, dim) = (self.model.params.flat.kind(), self.model.spec().head_dim);
        if self.packed.is_none() && torch_ext::most_paged_tokens(self.model.device(), kind, dim) > 0 {
            self.packed = Some(PackedModel::new(self.model, &self.layers)?);
        }
        Ok(())
    }

    fn on_device(&self, values: &[i64]) -> Tensor {
        torch_ext::upload(values, self.model.device())
    }

    /// Returns which outputs of a pass over `chunks` are needed: the last of each sequence that samples, and those that predict
    /// scored tokens.
    fn wanted(&self, chunks: &[Chunk]) -> WantedOutputs {
        let mut wanted = WantedOutputs::default();
        let mut begin = 0;
        for chunk in chunks {
            let (seq, end) = (&self.running[chunk.seq], chunk.from + chunk.count);
            let mut output = |position: usize| {
                wanted.outputs.push(begin + (position - chunk.from) as i64);
                wanted.outputs.len() as i64 - 1
            };
            match (seq.task, &self.requests[&seq.request]) {
                (SequenceTask::Score { from }, PendingRequest::Score { request, .. }) => {
                    for position in chunk.from.max(from - 1)..end {
                        let after = request.ids.get(position + 1).into_iter();
                        let last = position + 1 == request.ids.len();
                        let asked: Vec<u32> =
                            after.chain(request.candidates.iter().filter(|_| last)).copied().collect();
                        if !asked.is_empty() {
                            let at = output(position);
                            wanted.scores.extend(asked.into_iter().map(|id| (chunk.seq, at, i64::from(id))));
                        }
                    }
                }
                _ if end == seq.tokens.len() => {
                    let at = output(end - 1);
                    wanted.samples.push((chunk.seq, at));
                }
                _ => {}
            }
            begin += chunk.count as i64;
        }
        wanted
    }

    /// Records the tokens that the pass has read, and registers full blocks for prefix caching.
    fn advance(&mut self, chunks: &[Chunk]) {
        for chunk in chunks {
            let seq = &mut self.running[chunk.seq];
            seq.computed += chunk.count;
            while (seq.num_inserted + 1) * BLOCK <= seq.computed {
                let digest = seq.digest(seq.num_inserted);
                self.pool.insert(seq.blocks[seq.num_inserted], digest);
                seq.num_inserted += 1;
            }
            let generates_on = !seq.sampled().is_empty() && chunk.count == 1;
            self.stats.prompt_tokens += if generates_on { 0 } else { chunk.count };
        }
    }

    fn score(&mut self, hidden: &Tensor, wanted: &WantedOutputs) -> Result<(), LmError> {
        if wanted.scores.is_empty() {
            return Ok(());
        }
        let column = |f: fn(&(usize, i64, i64)) -> i64| wanted.scores.iter().map(f).collect::<Vec<i64>>();
        let at = Targets { rows: self.on_device(&column(|s| s.1)), targets: self.on_device(&column(|s| s.2)) };
        let scores = head::score_packed(self.model, self.packed.as_ref(), hidden, &at)?;
        let logprobs: Vec<f32> = Vec::try_from(scores.logprobs.to_device(Device::Cpu))?;
        for (&(seq, ..), logprob) in wanted.scores.iter().zip(logprobs) {
            self.running[seq].logprobs.push(logprob);
        }
        Ok(())
    }

    /// Shares prompts that were just read with the further samples of their requests. Returns the samples that can begin at once.
    fn share_prompts(&mut self, drawing: &[usize], logits: &Tensor) -> Result<Vec<(usize, Tensor)>, LmError> {
        let mut any = false;
        for (i, &at) in drawing.iter().enumerate().rev() {
            let seq = &self.running[at];
            if !seq.sampled().is_empty() || !matches!(seq.task, SequenceTask::Generate { sample: 0, .. }) {
                continue;
            }
            let Some(PendingRequest::Generate { request, prompt, .. }) = self.requests.get_mut(&seq.request) else {
                continue;
            };
            let left = request.seeds.len() - 1;
            if left == 0 {
                continue;
            }
            for &block in &seq.blocks {
                self.pool.add_ref(block);
            }
            *prompt = Some(Prompt { blocks: seq.blocks.clone(), logits: logits.get(i as i64).copy(), left });
            for sample in (1..=left).rev() {
                self.waiting.push_front(Waiting::Sample(seq.request, sample));
            }
            any = true;
        }
        if any { self.admit() } else { Ok(Vec::new()) }
    }

    fn sample(&mut self, drawing: &[usize], logits: &Tensor, output: &mut StepOutput) -> Result<(), LmError> {
        let mut picks = Vec::with_capacity(drawing.len());
        for &at in drawing {
            let seq = &self.running[at];
            if let (SequenceTask::Generate { seed, .. }, PendingRequest::Generate { request, .. }) =
                (seq.task, &self.requests[&seq.request])
            {
                picks.push(Pick {
                    sampling: &request.sampling,
                    seed,
                    tokens: &seq.tokens,
                    position: seq.sampled().len(),
                    top_logprobs: request.top_logprobs,
                });
            }
        }
        let picked = pick(logits, &picks)?;
        let context = self.model.spec().context();
        for (&at, picked) in drawing.iter().zip(picked) {
            let seq = &mut self.running[at];
            let (SequenceTask::Generate { sample, .. }, PendingRequest::Generate { request, .. }) =
                (seq.task, &self.requests[&seq.request])
            else {
                continue;
            };
            seq.tokens.push(picked.id);
            seq.logprobs.push(picked.logprob);
            seq.top.push(picked.top.clone());
            let full = seq.sampled().len() >= request.sampling.max_tokens || seq.tokens.len() >= context;
            let ends = !request.sampling.ignore_eos && self.stop_ids.contains(&picked.id);
            let finish = match ends {
                true => Some(FinishReason::Stop),
                false => full.then_some(FinishReason::Length),
            };
            self.stats.sampled_tokens += 1;
            let Picked { id, logprob, top } = picked;
            output.sampled.push(SampledToken { request: seq.request, sample, id, logprob, top, finish });
        }
        Ok(())
    }

    /// Retires the sequences that are complete.
    fn retire(&mut self, output: &StepOutput) {
        let mut finished =
            output.sampled.iter().filter_map(|d| Some((d.request, d.sample, d.finish?))).collect::<Vec<_>>();
        let seqs = std::mem::take(&mut self.running);
        for seq in seqs {
            match seq.task {
                SequenceTask::Score { .. } if seq.pending() == 0 => self.complete(seq, FinishReason::Stop),
                SequenceTask::Generate { sample, .. } => {
                    match finished.iter().position(|&(id, s, _)| (id, s) == (seq.request, sample)) {
                        Some(at) => {
                            let (.., finish) = finished.swap_remove(at);
                            self.complete(seq, finish);
                        }
                        None => self.running.push(seq),
                    }
                }
                SequenceTask::Score { .. } => self.running.push(seq),
            }
        }
    }

    /// Stores the result of a sequence and frees its blocks.
    pub(super) fn complete(&mut self, mut seq: Sequence, finish: FinishReason) {
        self.free_blocks(std::mem::take(&mut seq.blocks));
        match (seq.task, self.requests.get_mut(&seq.request)) {
            (SequenceTask::Generate { sample, .. }, Some(PendingRequest::Generate { samples, .. })) => {
                let ids = seq.tokens.split_off(seq.prompt_len);
                samples[sample] = Some(Generated { ids, logprobs: seq.logprobs, top: seq.top, finish });
                if samples.iter().all(Option::is_some) {
                    self.done.push(seq.request);
                }
            }
            (SequenceTask::Score { .. }, Some(PendingRequest::Score { request, scored })) => {
                let candidates = seq.logprobs.split_off(request.ids.len() - request.from);
                *scored = Some(Scored { logprobs: seq.logprobs, candidates });
                self.done.push(seq.request);
            }
            _ => {}
        }
    }
}
