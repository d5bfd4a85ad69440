//! One step: let rows in, read, draw, let rows out.

use std::time::Instant;

use chat::FinishReason;
use tch::{Device, Tensor};

use crate::LmError;
use crate::engine::blocks::BLOCK;
use crate::engine::forward::{Chunk, Weights, forward};
use crate::engine::request::{Drawn, Generated, Scored};
use crate::engine::row::{Row, Task};
use crate::engine::sampler::{Pick, Picked, pick};
use crate::engine::{Engine, Job, Progress, Prompt, Waiting};
use crate::head::{self, Targets};
use crate::packed::PackedModel;

/// Which outputs of a forward pass are wanted.
#[derive(Default)]
struct Wanted {
    /// The tokens of the pass whose outputs they are, ascending.
    outputs: Vec<i64>,
    /// Rows that draw, and the place in `outputs` they draw from.
    draws: Vec<(usize, i64)>,
    /// Rows that are scored, the place in `outputs` and the token that comes after it.
    scores: Vec<(usize, i64, i64)>,
}

impl Engine<'_> {
    /// Reads what every row needs next and draws a token for each that has read all it has.
    ///
    /// # Errors
    /// If libtorch fails (memory). The engine is not to be used any more then.
    pub fn step(&mut self) -> Result<Progress, LmError> {
        tch::no_grad(|| {
            let (begun, read, drawn) = (Instant::now(), self.counts.prompt_tokens, self.counts.drawn_tokens);
            let mut ready = self.admit();
            let chunks = self.plan()?;
            // Planning may have sent the youngest away again.
            ready.retain(|(row, _)| *row < self.rows.len());
            let (mut drawing, mut logits) = (Vec::new(), Vec::new());
            if !chunks.is_empty() {
                let wanted = self.wanted(&chunks);
                self.pack()?;
                let weights = Weights { model: self.model, layers: &self.layers, packed: self.packed.as_ref() };
                let hidden = forward(weights, &self.cache, &self.rows, &chunks, &wanted.outputs)?;
                self.counts.passes += 1;
                self.advance(&chunks);
                self.score(&hidden, &wanted)?;
                if !wanted.draws.is_empty() {
                    let at: Vec<i64> = wanted.draws.iter().map(|&(_, at)| at).collect();
                    let made = head::logits_packed(self.model, self.packed.as_ref(), &hidden, &self.on_device(&at))?;
                    drawing.extend(wanted.draws.iter().map(|&(row, _)| row));
                    ready.extend(self.share_prompts(&drawing, &made)?);
                    logits.push(made);
                }
            }
            for (row, of_prompt) in ready {
                drawing.push(row);
                logits.push(of_prompt.unsqueeze(0));
            }
            let mut progress = Progress::default();
            if !drawing.is_empty() {
                let logits = if logits.len() == 1 { logits.remove(0) } else { Tensor::cat(&logits, 0) };
                self.draw(&drawing, &logits, &mut progress)?;
            }
            self.let_out(&progress);
            progress.done = std::mem::take(&mut self.done);
            let seconds = begun.elapsed().as_secs_f64();
            if self.counts.prompt_tokens > read {
                self.counts.prefill_seconds += seconds;
            } else {
                self.counts.decode_seconds += seconds;
                self.counts.decoded_tokens += self.counts.drawn_tokens - drawn;
            }
            Ok(progress)
        })
    }

    /// Copies the model's matrices for the CPU's kernels, once.
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

    /// Which outputs of a pass over `chunks` are wanted: the last of each row that draws, and those of scored tokens.
    fn wanted(&self, chunks: &[Chunk]) -> Wanted {
        let mut wanted = Wanted::default();
        let mut begin = 0;
        for chunk in chunks {
            let (row, end) = (&self.rows[chunk.row], chunk.from + chunk.count);
            let mut output = |position: usize| {
                wanted.outputs.push(begin + (position - chunk.from) as i64);
                wanted.outputs.len() as i64 - 1
            };
            match (row.task, &self.jobs[&row.request]) {
                (Task::Score { from }, Job::Score { request, .. }) => {
                    for position in chunk.from.max(from - 1)..end {
                        let after = request.ids.get(position + 1).into_iter();
                        let last = position + 1 == request.ids.len();
                        let asked: Vec<u32> =
                            after.chain(request.candidates.iter().filter(|_| last)).copied().collect();
                        if !asked.is_empty() {
                            let at = output(position);
                            wanted.scores.extend(asked.into_iter().map(|id| (chunk.row, at, i64::from(id))));
                        }
                    }
                }
                _ if end == row.tokens.len() => {
                    let at = output(end - 1);
                    wanted.draws.push((chunk.row, at));
                }
                _ => {}
            }
            begin += chunk.count as i64;
        }
        wanted
    }

    /// Notes what the pass has read and makes full blocks known.
    fn advance(&mut self, chunks: &[Chunk]) {
        for chunk in chunks {
            let row = &mut self.rows[chunk.row];
            row.computed += chunk.count;
            while (row.named + 1) * BLOCK <= row.computed {
                let digest = row.digest(row.named);
                self.blocks.name(row.blocks[row.named], digest);
                row.named += 1;
            }
            let generates_on = !row.drawn().is_empty() && chunk.count == 1;
            self.counts.prompt_tokens += if generates_on { 0 } else { chunk.count };
        }
    }

    fn score(&mut self, hidden: &Tensor, wanted: &Wanted) -> Result<(), LmError> {
        if wanted.scores.is_empty() {
            return Ok(());
        }
        let column = |f: fn(&(usize, i64, i64)) -> i64| wanted.scores.iter().map(f).collect::<Vec<i64>>();
        let at = Targets { rows: self.on_device(&column(|s| s.1)), targets: self.on_device(&column(|s| s.2)) };
        let scores = head::score_packed(self.model, self.packed.as_ref(), hidden, &at)?;
        let logprobs: Vec<f32> = Vec::try_from(scores.logprobs.to_device(Device::Cpu))?;
        for (&(row, ..), logprob) in wanted.scores.iter().zip(logprobs) {
            self.rows[row].logprobs.push(logprob);
        }
        Ok(())
    }

    /// Prompts that were just read to the end are shared with the further samples of their requests. Returns those that
    /// can begin at once.
    fn share_prompts(&mut self, drawing: &[usize], logits: &Tensor) -> Result<Vec<(usize, Tensor)>, LmError> {
        let mut any = false;
        for (i, &at) in drawing.iter().enumerate().rev() {
            let row = &self.rows[at];
            if !row.drawn().is_empty() || !matches!(row.task, Task::Generate { sample: 0, .. }) {
                continue;
            }
            let Some(Job::Generate { request, prompt, .. }) = self.jobs.get_mut(&row.request) else { continue };
            let left = request.seeds.len() - 1;
            if left == 0 {
                continue;
            }
            for &block in &row.blocks {
                self.blocks.share(block);
            }
            *prompt = Some(Prompt { blocks: row.blocks.clone(), logits: logits.get(i as i64).copy(), left });
            for sample in (1..=left).rev() {
                self.waiting.push_front(Waiting::Next(row.request, sample));
            }
            any = true;
        }
        Ok(if any { self.admit() } else { Vec::new() })
    }

    fn draw(&mut self, drawing: &[usize], logits: &Tensor, progress: &mut Progress) -> Result<(), LmError> {
        let mut picks = Vec::with_capacity(drawing.len());
        for &at in drawing {
            let row = &self.rows[at];
            if let (Task::Generate { seed, .. }, Job::Generate { request, .. }) = (row.task, &self.jobs[&row.request]) {
                picks.push(Pick {
                    sampling: &request.sampling,
                    seed,
                    tokens: &row.tokens,
                    position: row.drawn().len(),
                    top_logprobs: request.top_logprobs,
                });
            }
        }
        let picked = pick(logits, &picks)?;
        let context = self.model.spec().context();
        for (&at, picked) in drawing.iter().zip(picked) {
            let row = &mut self.rows[at];
            let (Task::Generate { sample, .. }, Job::Generate { request, .. }) = (row.task, &self.jobs[&row.request])
            else {
                continue;
            };
            row.tokens.push(picked.id);
            row.logprobs.push(picked.logprob);
            row.top.push(picked.top.clone());
            let full = row.drawn().len() >= request.sampling.max_tokens || row.tokens.len() >= context;
            let ends = !request.sampling.ignore_eos && self.stop_ids.contains(&picked.id);
            let finish = match ends {
                true => Some(FinishReason::Stop),
                false => full.then_some(FinishReason::Length),
            };
            self.counts.drawn_tokens += 1;
            let Picked { id, logprob, top } = picked;
            progress.drawn.push(Drawn { request: row.request, sample, id, logprob, top, finish });
        }
        Ok(())
    }

    /// Takes out the rows that are complete.
    fn let_out(&mut self, progress: &Progress) {
        let mut finished =
            progress.drawn.iter().filter_map(|d| Some((d.request, d.sample, d.finish?))).collect::<Vec<_>>();
        let rows = std::mem::take(&mut self.rows);
        for row in rows {
            match row.task {
                Task::Score { .. } if row.pending() == 0 => self.complete(row, FinishReason::Stop),
                Task::Generate { sample, .. } => {
                    match finished.iter().position(|&(id, s, _)| (id, s) == (row.request, sample)) {
                        Some(at) => {
                            let (.., finish) = finished.swap_remove(at);
                            self.complete(row, finish);
                        }
                        None => self.rows.push(row),
                    }
                }
                Task::Score { .. } => self.rows.push(row),
            }
        }
    }

    /// Notes a row's answer and gives its blocks back.
    pub(super) fn complete(&mut self, mut row: Row, finish: FinishReason) {
        self.give_back(std::mem::take(&mut row.blocks));
        match (row.task, self.jobs.get_mut(&row.request)) {
            (Task::Generate { sample, .. }, Some(Job::Generate { samples, .. })) => {
                let ids = row.tokens.split_off(row.prompt_len);
                samples[sample] = Some(Generated { ids, logprobs: row.logprobs, top: row.top, finish });
                if samples.iter().all(Option::is_some) {
                    self.done.push(row.request);
                }
            }
            (Task::Score { .. }, Some(Job::Score { request, scored })) => {
                let candidates = row.logprobs.split_off(request.ids.len() - request.from);
                *scored = Some(Scored { logprobs: row.logprobs, candidates });
                self.done.push(row.request);
            }
            _ => {}
        }
    }
}
