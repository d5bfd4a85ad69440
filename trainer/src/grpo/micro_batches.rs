//! Packed micro-batches of responses: log-probabilities and gradients.

use std::ops::Range;

use lm::head::{Coefficients, Scores, Targets, score, score_and_backward};
use lm::{ActivationCheckpointing, Decoder, Packed, SharedPrefix, Trained};
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use crate::flops::ComputeWork;
use crate::parallel::split::BatchSplit;
use crate::{ParallelContext, TrainError};

/// A response and its prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptAndResponse<'a> {
    /// Index of the group; consecutive rows of a group share their prompt.
    pub group: usize,
    /// Index of the sample in the group.
    pub sample: usize,
    /// Prompt tokens, at least one.
    pub prompt: &'a [u32],
    /// Response tokens, at least one.
    pub response: &'a [u32],
}

/// How rows are divided into micro-batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MicroBatchLimit {
    /// Maximum number of tokens in a micro-batch.
    pub tokens: usize,
    /// Whether the prompt of a group is computed once.
    pub share: bool,
}

/// Log-probabilities and entropies of a response's tokens under a policy, nats.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprobs {
    /// Log-probabilities of the tokens.
    pub logprobs: Vec<f32>,
    /// Entropies of the distributions.
    pub entropy: Vec<f32>,
}

/// Returns the ranges of rows that are computed together because they share a prompt, with their token counts.
fn units(rows: &[PromptAndResponse<'_>], cut: MicroBatchLimit) -> Vec<(Range<usize>, usize)> {
    let mut units: Vec<(Range<usize>, usize)> = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        // The last token of the prompt belongs to each response, whose first token it predicts. The last token of a response
        // predicts nothing.
        let (prefix, branch) = (row.prompt.len() - 1, row.response.len());
        match units.last_mut() {
            Some((range, tokens))
                if cut.share && rows[range.start].group == row.group && *tokens + branch <= cut.tokens =>
            {
                range.end = i + 1;
                *tokens += branch;
            }
            _ => units.push((i..i + 1, prefix + branch)),
        }
    }
    units
}

/// The layout of a micro-batch.
struct MicroBatch {
    /// Row indices, in order.
    rows: Vec<usize>,
    packed: Packed,
    at: Targets,
    /// Offset of each row's targets among those of the micro-batch, and their total at the end.
    starts: Vec<usize>,
    work: ComputeWork,
}

/// Returns the micro-batches of this rank, each a list of units, empty in a round for which it has none left. Also returns the
/// rows of every rank, in the order of its micro-batches.
fn micro_batches(
    context: &ParallelContext,
    rows: &[PromptAndResponse<'_>],
    cut: MicroBatchLimit,
) -> (Vec<Vec<Range<usize>>>, Vec<Vec<usize>>) {
    let units = units(rows, cut);
    let lengths: Vec<usize> = units.iter().map(|(_, tokens)| *tokens).collect();
    let split = BatchSplit::new(context, &lengths, cut.tokens);
    let of = |bin: &[usize]| bin.iter().map(|&u| units[u].0.clone()).collect();
    let by_rank = split.rows_by_rank().into_iter();
    let rows_by_rank = by_rank.map(|of_rank| of_rank.into_iter().flat_map(|u| units[u].0.clone()).collect()).collect();
    ((0..split.rounds()).map(|i| of(split.own(i))).collect(), rows_by_rank)
}

/// Placeholder of an empty micro-batch: one token that predicts another.
const NOTHING: PromptAndResponse<'static> = PromptAndResponse { group: 0, sample: 0, prompt: &[0], response: &[0] };

fn lay_out(model: &Decoder, rows: &[PromptAndResponse<'_>], units: &[Range<usize>]) -> Result<MicroBatch, TrainError> {
    // A row that shares no prompt is a plain sequence, which uses the fastest attention of each device.
    let shares = |unit: &Range<usize>| unit.len() > 1;
    let skipped = |unit: &Range<usize>| if shares(unit) { rows[unit.start].prompt.len() - 1 } else { 0 };
    let branches: Vec<Vec<Vec<u32>>> =
        units.iter().map(|unit| rows[unit.clone()].iter().map(|row| branch(row, skipped(unit))).collect()).collect();
    let groups: Vec<SharedPrefix<'_>> = units
        .iter()
        .zip(&branches)
        .map(|(unit, branches)| {
            let prefix = &rows[unit.start].prompt[..skipped(unit)];
            SharedPrefix { prefix, branches: branches.iter().map(Vec::as_slice).collect() }
        })
        .collect();
    let packed = Packed::with_shared_prefixes(&groups, model.spec().context(), model.device())?;
    // A shared prompt is named after its group, everything else after its sample.
    let name = |row: &PromptAndResponse<'_>, part: usize| ((row.group as u64) << 32) + part as u64;
    let names = units.iter().flat_map(|unit| {
        let shared = shares(unit).then(|| name(&rows[unit.start], 0));
        shared.into_iter().chain(rows[unit.clone()].iter().map(|row| name(row, row.sample + 1)))
    });
    let packed = packed.named(names.collect());
    let (mut places, mut targets, mut starts, mut work) = (Vec::new(), Vec::new(), vec![0], ComputeWork::default());
    let order: Vec<usize> = units.iter().flat_map(Clone::clone).collect();
    let before = units.iter().flat_map(|unit| unit.clone().map(|_| skipped(unit)));
    for ((&row, skipped), branch) in order.iter().zip(before).zip(packed.branches()) {
        let PromptAndResponse { prompt, response, .. } = rows[row];
        let first = branch.tokens.start + (prompt.len() - 1 - skipped) as i64;
        places.extend((0..response.len() as i64).map(|t| first + t));
        targets.extend(response.iter().map(|&id| i64::from(id)));
        starts.push(targets.len());
    }
    for unit in units {
        let prefix = rows[unit.start].prompt.len() - 1;
        work.squares += (prefix * prefix) as u128;
        for row in &rows[unit.clone()] {
            let n = row.response.len();
            work.squares += (n * n + 2 * n * prefix) as u128;
        }
    }
    work.tokens = packed.tokens() as usize;
    work.trained = targets.len();
    let device = model.device();
    let tensor = |values: &[i64]| torch_ext::upload(values, device);
    let at = Targets { rows: tensor(&places), targets: tensor(&targets) };
    Ok(MicroBatch { rows: order, packed, at, starts, work })
}

/// Lays out a micro-batch as [`lay_out`] does; without units, a placeholder with no rows and no work.
fn lay_out_any(
    model: &Decoder,
    rows: &[PromptAndResponse<'_>],
    units: &[Range<usize>],
) -> Result<MicroBatch, TrainError> {
    if !units.is_empty() {
        return lay_out(model, rows, units);
    }
    Ok(MicroBatch {
        rows: Vec::new(),
        work: ComputeWork::default(),
        ..lay_out(model, &[NOTHING], std::slice::from_ref(&(0..1)))?
    })
}

/// Gathers the log-probabilities of all ranks, and sums their work.
fn gather_logprobs(
    context: &ParallelContext,
    rows_by_rank: &[Vec<usize>],
    mut seen: Vec<TokenLogprobs>,
    work: &mut ComputeWork,
) -> Result<Vec<TokenLogprobs>, TrainError> {
    if context.world.size() == 1 {
        return Ok(seen);
    }
    let own = rows_by_rank[context.world.rank()].iter().map(|&row| std::mem::take(&mut seen[row])).collect();
    let seen = context.all_gather_object("log-probabilities", rows_by_rank, own)?;
    let mut sums = [work.tokens as f64, work.trained as f64, work.squares as f64];
    context.world.world_group().all_reduce_scalars("reduce the compute work", &mut sums)?;
    (work.tokens, work.trained, work.squares) = (sums[0] as usize, sums[1] as usize, sums[2] as u128);
    Ok(seen)
}

/// Returns the prompt without its first `skipped` tokens, followed by the response without its last.
fn branch(row: &PromptAndResponse<'_>, skipped: usize) -> Vec<u32> {
    [&row.prompt[skipped..], &row.response[..row.response.len() - 1]].concat()
}

fn numbers(t: &Tensor) -> Result<Vec<f32>, TrainError> {
    let here = t.to_device(Device::Cpu).contiguous();
    Ok(torch_ext::floats(&here)?.to_vec())
}

fn keep(seen: &mut [TokenLogprobs], batch: &MicroBatch, scores: &Scores) -> Result<(), TrainError> {
    let (logprobs, entropy) = (numbers(&scores.logprobs)?, numbers(&scores.entropy)?);
    for (&row, ends) in batch.rows.iter().zip(batch.starts.windows(2)) {
        let range = ends[0]..ends[1];
        seen[row] = TokenLogprobs { logprobs: logprobs[range.clone()].to_vec(), entropy: entropy[range].to_vec() };
    }
    Ok(())
}

/// Computes log-probabilities and entropies of all responses without gradients; the ranks divide the rows. `forward` returns
/// the hidden states of a packed batch; logits are divided by `temperature`. Returns one entry per row, and the work.
///
/// # Errors
/// If memory cannot be allocated or a row is longer than the model's context.
pub fn compute_logprobs(
    context: &ParallelContext,
    model: &Decoder,
    rows: &[PromptAndResponse<'_>],
    cut: MicroBatchLimit,
    temperature: f64,
    forward: impl Fn(&Packed) -> Result<Tensor, lm::LmError>,
) -> Result<(Vec<TokenLogprobs>, ComputeWork), TrainError> {
    let mut seen = vec![TokenLogprobs::default(); rows.len()];
    let mut work = ComputeWork::default();
    let (micro_batches, rows_by_rank) = micro_batches(context, rows, cut);
    for units in micro_batches {
        let batch = lay_out_any(model, rows, &units)?;
        let hidden = forward(&batch.packed)?;
        keep(&mut seen, &batch, &score(model, &hidden, &batch.at, temperature)?)?;
        add(&mut work, batch.work);
    }
    Ok((gather_logprobs(context, &rows_by_rank, seen, &mut work)?, work))
}

/// Derivatives of the loss with respect to the log-probability of each token of a part of a row, and with respect to the
/// entropy, which is the same for all of them.
pub type Slopes = (Vec<f64>, f64);

/// The settings of a forward and backward pass.
pub struct Gradient<'a> {
    /// What is trained.
    pub trained: Trained<'a>,
    /// Which activations are kept for the backward pass.
    pub recompute: ActivationCheckpointing,
    /// Divisor of the logits.
    pub temperature: f64,
    /// Whether `slopes` needs all log-probabilities of a row at once.
    pub whole: bool,
    /// Whether the loss depends on entropies.
    pub entropy: bool,
}

impl std::fmt::Debug for Gradient<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gradient at temperature {}", self.temperature)
    }
}

/// Accumulates the gradients of a loss over all rows; the ranks divide the rows. `slopes` returns the derivatives of the loss:
/// it receives the index of a row, a range of its tokens, and their log-probabilities. Returns one entry per row with the
/// log-probabilities and entropies under the policy, and the work.
///
/// # Errors
/// As [`compute_logprobs`].
pub fn forward_backward(
    context: &ParallelContext,
    model: &Decoder,
    rows: &[PromptAndResponse<'_>],
    cut: MicroBatchLimit,
    gradient: &Gradient<'_>,
    slopes: impl Fn(usize, Range<usize>, &[f32]) -> Slopes,
) -> Result<(Vec<TokenLogprobs>, ComputeWork), TrainError> {
    let mut seen = vec![TokenLogprobs::default(); rows.len()];
    let mut work = ComputeWork::default();
    let (micro_batches, rows_by_rank) = micro_batches(context, rows, cut);
    for units in &micro_batches {
        let batch = lay_out_any(model, rows, units)?;
        let trained = gradient.trained;
        let (hidden, tape) = model.forward_train(&batch.packed, gradient.recompute, trained)?;
        let known = match gradient.whole {
            true => Some(numbers(&score(model, &hidden, &batch.at, gradient.temperature)?.logprobs)?),
            false => None,
        };
        let mut failed = None;
        let coefficients = |begin: i64, scores: &Scores| {
            let own = numbers(&scores.logprobs).unwrap_or_else(|e| {
                failed.get_or_insert(e);
                vec![0.0; scores.logprobs.numel()]
            });
            let range = begin as usize..begin as usize + own.len();
            let of = |row: usize, at: Range<usize>, in_row: Range<usize>| match &known {
                None => slopes(row, in_row, &own[at.start - range.start..at.end - range.start]),
                Some(all) => {
                    let first = at.start - in_row.start;
                    let row_length = rows[row].response.len();
                    let (whole, entropy) = slopes(row, 0..row_length, &all[first..first + row_length]);
                    (whole[in_row].to_vec(), entropy)
                }
            };
            let (logprob, entropy) = match batch.rows[..] {
                [] => (vec![0.0; own.len()], vec![0.0; own.len()]),
                _ => chunk_slopes(&batch, range.clone(), of),
            };
            let device = scores.logprobs.device();
            let tensor = |values: &[f32]| torch_ext::upload(values, device);
            Coefficients { logprob: tensor(&logprob), entropy: gradient.entropy.then(|| tensor(&entropy)) }
        };
        let grads = trained.weight_grads();
        let (dh, scores) = score_and_backward(model, &hidden, &batch.at, gradient.temperature, grads, coefficients)?;
        drop(hidden);
        if let Some(error) = failed {
            return Err(error);
        }
        model.backward(tape, dh)?;
        keep(&mut seen, &batch, &scores)?;
        add(&mut work, batch.work);
    }
    Ok((gather_logprobs(context, &rows_by_rank, seen, &mut work)?, work))
}

/// Returns the slopes of the targets in `range` of a micro-batch, row by row. `of` receives a row, the range of its targets in
/// the micro-batch, and the same range relative to the start of the row.
fn chunk_slopes(
    batch: &MicroBatch,
    range: Range<usize>,
    of: impl Fn(usize, Range<usize>, Range<usize>) -> Slopes,
) -> (Vec<f32>, Vec<f32>) {
    let (mut logprob, mut entropy) = (Vec::with_capacity(range.len()), Vec::with_capacity(range.len()));
    for (&row, ends) in batch.rows.iter().zip(batch.starts.windows(2)) {
        let (begin, end) = (ends[0].max(range.start), ends[1].min(range.end));
        if begin >= end {
            continue;
        }
        let (slopes, of_entropy) = of(row, begin..end, begin - ends[0]..end - ends[0]);
        logprob.extend(slopes.iter().map(|s| *s as f32));
        entropy.extend(std::iter::repeat_n(of_entropy as f32, end - begin));
    }
    (logprob, entropy)
}

fn add(sum: &mut ComputeWork, more: ComputeWork) {
    sum.tokens += more.tokens;
    sum.trained += more.trained;
    sum.squares += more.squares;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_group_share_a_unit_as_far_as_it_fits() {
        let prompt = [1, 2, 3, 4, 5];
        let response = [7; 10];
        let rows: Vec<PromptAndResponse<'_>> = [(0, 3), (0, 4), (0, 5), (1, 6)]
            .map(|(group, n)| PromptAndResponse { group, sample: 0, prompt: &prompt, response: &response[..n] })
            .into();
        let of = |tokens, share| units(&rows, MicroBatchLimit { tokens, share });
        assert_eq!(of(100, true), [(0..3, 4 + 12), (3..4, 4 + 6)]);
        assert_eq!(of(12, true), [(0..2, 4 + 7), (2..3, 4 + 5), (3..4, 4 + 6)]);
        assert_eq!(of(100, false), [(0..1, 7), (1..2, 8), (2..3, 9), (3..4, 10)]);
    }
}
