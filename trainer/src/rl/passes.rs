//! Packed passes over responses: their log-probabilities, and gradients.

use std::ops::Range;

use lm::head::{Coefficients, Scores, Targets, score, score_and_backward};
use lm::{Decoder, Packed, Recompute, SharedPrefix, Trained};
use tch::{Device, Tensor};

use crate::flops::Work;
use crate::parallel::split::Split;
use crate::{Team, TrainError};

/// A response and the prompt it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// Index of its group: rows of one group that follow each other share their prompt.
    pub group: usize,
    /// Its place in the group.
    pub sample: usize,
    /// Prompt tokens, at least one.
    pub prompt: &'a [u32],
    /// Response tokens, at least one.
    pub response: &'a [u32],
}

/// How passes are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Most tokens of a pass.
    pub tokens: usize,
    /// Whether the prompt of a group is computed once.
    pub share: bool,
}

/// What a response's tokens have under a policy, nats.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Log-probabilities.
    pub logprobs: Vec<f32>,
    /// Entropies of the distributions.
    pub entropy: Vec<f32>,
}

/// Rows that are computed together because they share a prompt, as a range, and their tokens.
fn units(rows: &[Row<'_>], cut: Cut) -> Vec<(Range<usize>, usize)> {
    let mut units: Vec<(Range<usize>, usize)> = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        // The prompt's last token goes with each response, whose first token it predicts; the last token predicts nothing.
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

/// One pass, laid out.
struct Pass {
    /// Its rows, in order.
    rows: Vec<usize>,
    packed: Packed,
    at: Targets,
    /// Where each row's targets begin among those of the pass, and their number at the end.
    starts: Vec<usize>,
    work: Work,
}

/// The passes of this rank, each some units; none in a round in which it has nothing left. And the rows of every rank, in the
/// order of its passes.
fn passes(team: &Team, rows: &[Row<'_>], cut: Cut) -> (Vec<Vec<Range<usize>>>, Vec<Vec<usize>>) {
    let units = units(rows, cut);
    let lengths: Vec<usize> = units.iter().map(|(_, tokens)| *tokens).collect();
    let split = Split::new(team, &lengths, cut.tokens);
    let of = |bin: &[usize]| bin.iter().map(|&u| units[u].0.clone()).collect();
    let by_rank = split.rows_by_rank().into_iter();
    let rows_by_rank = by_rank.map(|of_rank| of_rank.into_iter().flat_map(|u| units[u].0.clone()).collect()).collect();
    ((0..split.rounds()).map(|i| of(split.own(i))).collect(), rows_by_rank)
}

/// What stands in a pass that has no rows: a token after which one is predicted.
const NOTHING: Row<'static> = Row { group: 0, sample: 0, prompt: &[0], response: &[0] };

fn lay_out(model: &Decoder, rows: &[Row<'_>], units: &[Range<usize>]) -> Result<Pass, TrainError> {
    // A row that shares with none is a plain sequence, for which every device has its fastest attention.
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
    // A prompt that is shared is its group's, and named so; what is its own is the sample's.
    let name = |row: &Row<'_>, part: usize| ((row.group as u64) << 32) + part as u64;
    let names = units.iter().flat_map(|unit| {
        let shared = shares(unit).then(|| name(&rows[unit.start], 0));
        shared.into_iter().chain(rows[unit.clone()].iter().map(|row| name(row, row.sample + 1)))
    });
    let packed = packed.named(names.collect());
    let (mut places, mut targets, mut starts, mut work) = (Vec::new(), Vec::new(), vec![0], Work::default());
    let order: Vec<usize> = units.iter().flat_map(Clone::clone).collect();
    let before = units.iter().flat_map(|unit| unit.clone().map(|_| skipped(unit)));
    for ((&row, skipped), branch) in order.iter().zip(before).zip(packed.branches()) {
        let Row { prompt, response, .. } = rows[row];
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
    Ok(Pass { rows: order, packed, at, starts, work })
}

/// The same; of no units, a pass that counts for nothing.
fn lay_out_any(model: &Decoder, rows: &[Row<'_>], units: &[Range<usize>]) -> Result<Pass, TrainError> {
    if !units.is_empty() {
        return lay_out(model, rows, units);
    }
    Ok(Pass { rows: Vec::new(), work: Work::default(), ..lay_out(model, &[NOTHING], std::slice::from_ref(&(0..1)))? })
}

/// What one rank saw of a row: bits, because JSON knows no infinities.
type Bits = (Vec<u32>, Vec<u32>);

/// Puts together what all ranks have seen, and their work.
fn together(
    team: &Team,
    rows_by_rank: &[Vec<usize>],
    mut seen: Vec<Seen>,
    work: &mut Work,
) -> Result<Vec<Seen>, TrainError> {
    if team.world.size() == 1 {
        return Ok(seen);
    }
    let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
    let own = &rows_by_rank[team.world.rank()];
    let told: Vec<Bits> = own.iter().map(|&row| (bits(&seen[row].logprobs), bits(&seen[row].entropy))).collect();
    let floats = |bits: Vec<u32>| bits.into_iter().map(f32::from_bits).collect::<Vec<f32>>();
    for (row, (logprobs, entropy)) in team.together("log-probabilities", rows_by_rank, told)?.into_iter().enumerate() {
        seen[row] = Seen { logprobs: floats(logprobs), entropy: floats(entropy) };
    }
    let mut sums = [work.tokens as f64, work.trained as f64, work.squares as f64];
    team.world.everyone().sums("the work of all ranks", &mut sums)?;
    (work.tokens, work.trained, work.squares) = (sums[0] as usize, sums[1] as usize, sums[2] as u128);
    Ok(seen)
}

/// The prompt without its first `skipped` tokens, and the response without its last.
fn branch(row: &Row<'_>, skipped: usize) -> Vec<u32> {
    [&row.prompt[skipped..], &row.response[..row.response.len() - 1]].concat()
}

fn numbers(t: &Tensor) -> Result<Vec<f32>, TrainError> {
    let here = t.to_device(Device::Cpu).contiguous();
    Ok(torch_ext::floats(&here)?.to_vec())
}

fn keep(seen: &mut [Seen], pass: &Pass, scores: &Scores) -> Result<(), TrainError> {
    let (logprobs, entropy) = (numbers(&scores.logprobs)?, numbers(&scores.entropy)?);
    for (&row, ends) in pass.rows.iter().zip(pass.starts.windows(2)) {
        let range = ends[0]..ends[1];
        seen[row] = Seen { logprobs: logprobs[range.clone()].to_vec(), entropy: entropy[range].to_vec() };
    }
    Ok(())
}

/// Log-probabilities and entropies of all responses, without gradients, each worked out by one of the ranks. `forward` gives the hidden states of a packed
/// batch; logits are divided by `temperature`. Returns one entry a row, and the work.
///
/// # Errors
/// If memory does not suffice or a row is longer than the model's context.
pub fn look(
    team: &Team,
    model: &Decoder,
    rows: &[Row<'_>],
    cut: Cut,
    temperature: f64,
    forward: impl Fn(&Packed) -> Result<Tensor, lm::LmError>,
) -> Result<(Vec<Seen>, Work), TrainError> {
    let mut seen = vec![Seen::default(); rows.len()];
    let mut work = Work::default();
    let (passes, rows_by_rank) = passes(team, rows, cut);
    for units in passes {
        let pass = lay_out_any(model, rows, &units)?;
        let hidden = forward(&pass.packed)?;
        keep(&mut seen, &pass, &score(model, &hidden, &pass.at, temperature)?)?;
        add(&mut work, pass.work);
    }
    Ok((together(team, &rows_by_rank, seen, &mut work)?, work))
}

/// d loss / d logprob of each token of a part of a row, and d loss / d entropy, the same for all of them.
pub type Slopes = (Vec<f64>, f64);

/// What a gradient pass needs beside the rows.
pub struct Gradient<'a> {
    /// What is trained.
    pub trained: Trained<'a>,
    /// What is kept for the way back.
    pub recompute: Recompute,
    /// Divides the logits.
    pub temperature: f64,
    /// Whether `slopes` needs all of a row at once.
    pub whole: bool,
    /// Whether the loss moves with entropies.
    pub entropy: bool,
}

impl std::fmt::Debug for Gradient<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gradient at temperature {}", self.temperature)
    }
}

/// Adds, each rank for some rows, the gradients of the loss that `slopes` is the derivative of: it gets a row's index, the tokens of it that are
/// meant, and their log-probabilities. Returns what the tokens have under the policy, one entry a row, and the work.
///
/// # Errors
/// As [`look`].
pub fn learn(
    team: &Team,
    model: &Decoder,
    rows: &[Row<'_>],
    cut: Cut,
    gradient: &Gradient<'_>,
    slopes: impl Fn(usize, Range<usize>, &[f32]) -> Slopes,
) -> Result<(Vec<Seen>, Work), TrainError> {
    let mut seen = vec![Seen::default(); rows.len()];
    let mut work = Work::default();
    let (passes, rows_by_rank) = passes(team, rows, cut);
    for units in &passes {
        let pass = lay_out_any(model, rows, units)?;
        let trained = gradient.trained;
        let (hidden, tape) = model.forward_train(&pass.packed, gradient.recompute, trained)?;
        let known = match gradient.whole {
            true => Some(numbers(&score(model, &hidden, &pass.at, gradient.temperature)?.logprobs)?),
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
            let (logprob, entropy) = match pass.rows[..] {
                [] => (vec![0.0; own.len()], vec![0.0; own.len()]),
                _ => chunk_slopes(&pass, range.clone(), of),
            };
            let device = scores.logprobs.device();
            let tensor = |values: &[f32]| torch_ext::upload(values, device);
            Coefficients { logprob: tensor(&logprob), entropy: gradient.entropy.then(|| tensor(&entropy)) }
        };
        let grads = trained.weight_grads();
        let (dh, scores) = score_and_backward(model, &hidden, &pass.at, gradient.temperature, grads, coefficients)?;
        drop(hidden);
        if let Some(error) = failed {
            return Err(error);
        }
        model.backward(tape, dh)?;
        keep(&mut seen, &pass, &scores)?;
        add(&mut work, pass.work);
    }
    Ok((together(team, &rows_by_rank, seen, &mut work)?, work))
}

/// The slopes of the targets in `range` of a pass, by rows: `of` gets a row, its part of the pass's targets, and the same
/// counted from the row's own beginning.
fn chunk_slopes(
    pass: &Pass,
    range: Range<usize>,
    of: impl Fn(usize, Range<usize>, Range<usize>) -> Slopes,
) -> (Vec<f32>, Vec<f32>) {
    let (mut logprob, mut entropy) = (Vec::with_capacity(range.len()), Vec::with_capacity(range.len()));
    for (&row, ends) in pass.rows.iter().zip(pass.starts.windows(2)) {
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

fn add(sum: &mut Work, more: Work) {
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
        let rows: Vec<Row<'_>> = [(0, 3), (0, 4), (0, 5), (1, 6)]
            .map(|(group, n)| Row { group, sample: 0, prompt: &prompt, response: &response[..n] })
            .into();
        let of = |tokens, share| units(&rows, Cut { tokens, share });
        assert_eq!(of(100, true), [(0..3, 4 + 12), (3..4, 4 + 6)]);
        assert_eq!(of(12, true), [(0..2, 4 + 7), (2..3, 4 + 5), (3..4, 4 + 6)]);
        assert_eq!(of(100, false), [(0..1, 7), (1..2, 8), (2..3, 9), (3..4, 10)]);
    }
}
