//! A batch's loss and gradients, in packed passes.

use chat::Draw;
use configs::sft::SftTrain;
use corpus::{Mixture, Sequence};
use lm::head::{Scores, Targets, score, score_and_backward};
use lm::{Packed, Recompute};
use tch::{Device, Kind, Tensor};

use crate::TrainError;
use crate::parallel::split::Split;
use crate::trainee::Trainee;

/// Rows of validation that are read at once.
const ROWS_AT_ONCE: usize = 256;

/// How the passes of one update are made.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Most tokens of a pass.
    pub tokens: usize,
    /// What is kept for the way back.
    pub recompute: Recompute,
    /// Differs from update to update; dropout draws from it.
    pub seed: u64,
}

impl How {
    /// As the configuration says, for update `step`.
    pub fn new(train: &SftTrain, seed: u64, step: u64) -> Self {
        let seed = Draw::new(seed).text("dropout").with(step).bits();
        Self { tokens: train.tokens_per_microbatch, recompute: Recompute::every(train.recompute_every), seed }
    }
}

/// The size of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Sequences.
    pub sequences: usize,
    /// Tokens.
    pub tokens: usize,
    /// Tokens that count in the loss.
    pub trained: usize,
    /// Sum of the squared lengths, for the FLOPs of attention.
    pub squares: u128,
    /// Packed passes.
    pub passes: usize,
}

impl Shape {
    fn of(rows: &[Sequence], passes: usize) -> Self {
        let lengths = || rows.iter().map(|row| row.ids.len());
        Self {
            sequences: rows.len(),
            tokens: lengths().sum(),
            trained: rows.iter().map(Sequence::trained_tokens).sum(),
            squares: lengths().map(|n| (n * n) as u128).sum(),
            passes,
        }
    }
}

/// Adds the gradients of the batch's mean loss over all its trained tokens, however they fall into passes; returns that
/// loss, in nats per token, and the batch's size.
///
/// # Errors
/// If memory does not suffice or a row is longer than the model's context.
pub fn accumulate(trainee: &Trainee, rows: &[Sequence], how: How) -> Result<(f64, Shape), TrainError> {
    let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
    let split = Split::new(&trainee.team, &lengths, how.tokens);
    let shape = Shape::of(rows, split.passes());
    let total = shape.trained as f64;
    let model = &trainee.model.decoder;
    // Looked at after the last pass: on a GPU a look waits for all that was asked of it.
    let (mut weights, mut sums) = (Vec::new(), Vec::new());
    for i in 0..split.rounds() {
        let bin = split.own(i);
        let trained = trainee.trained(how.seed);
        let part: Vec<&Sequence> = bin.iter().map(|&row| &rows[row]).collect();
        let (packed, at) = packed(trainee, &part)?;
        let packed = match bin {
            [] => packed,
            rows => packed.named(rows.iter().map(|&row| row as u64).collect()),
        };
        let (hidden, tape) = model.forward_train(&packed, how.recompute, trained)?;
        // Of a round in which this rank has nothing left, one token goes along without weight.
        let weight = if part.is_empty() { 0.0 } else { -1.0 / total };
        let coefficients = |_: i64, scores: &Scores| scores.logprobs.full_like(weight).into();
        let (dh, scores) = score_and_backward(model, &hidden, &at, 1.0, trained.weight_grads(), coefficients)?;
        drop(hidden);
        model.backward(tape, dh)?;
        weights.push(weight);
        sums.push(scores.logprobs.sum(Kind::Double));
    }
    let sums: Vec<f64> = Vec::try_from(Tensor::stack(&sums, 0).to_device(Device::Cpu))?;
    let mut loss = [weights.iter().zip(sums).map(|(weight, sum)| weight * sum).sum()];
    trainee.team.world.everyone().sums("the loss", &mut loss)?;
    Ok((loss[0], shape))
}

/// The mean loss over all trained tokens of `rows`, in nats per token.
///
/// # Errors
/// As [`accumulate`], and if a row cannot be read.
pub fn mean_loss(trainee: &Trainee, rows: &Mixture, tokens: usize) -> Result<f64, TrainError> {
    let mut sums = [0.0, 0.0];
    for ids in rows.epoch(0).chunks(ROWS_AT_ONCE) {
        let lengths: Vec<usize> = ids.iter().map(|&id| rows.length(id)).collect();
        let split = Split::new(&trainee.team, &lengths, tokens);
        for i in 0..split.rounds() {
            let bin = split.own(i);
            let read = bin.iter().map(|&row| rows.read(ids[row])).collect::<Result<Vec<_>, _>>()?;
            let (packed, at) = packed(trainee, &read.iter().collect::<Vec<_>>())?;
            let model = &trainee.model.decoder;
            let hidden = model.forward_with(&packed, trainee.measured())?;
            let logprobs = score(model, &hidden, &at, 1.0)?.logprobs;
            if !bin.is_empty() {
                sums[0] -= logprobs.sum(Kind::Double).double_value(&[]);
                sums[1] += logprobs.numel() as f64;
            }
        }
    }
    trainee.team.world.everyone().sums("the loss on validation rows", &mut sums)?;
    Ok(sums[0] / sums[1])
}

/// What stands in a pass that has no rows: a token after which one is predicted.
const NOTHING: [u32; 1] = [0];

fn packed(trainee: &Trainee, rows: &[&Sequence]) -> Result<(Packed, Targets), TrainError> {
    let model = &trainee.model.decoder;
    let sequences: Vec<&[u32]> = match rows {
        [] => vec![&NOTHING],
        rows => rows.iter().map(|row| row.ids.as_slice()).collect(),
    };
    let packed = Packed::new(&sequences, model.spec().context(), model.device())?;
    let at = match rows {
        [] => Targets { rows: packed.ids.zeros_like(), targets: packed.ids.zeros_like() },
        rows => targets(rows, &packed),
    };
    Ok((packed, at))
}

/// Where the trained tokens are predicted: each by the token before it.
fn targets(rows: &[&Sequence], packed: &Packed) -> Targets {
    let (mut at, mut targets) = (Vec::new(), Vec::new());
    for (row, begin) in rows.iter().zip(&packed.cu_seqlens) {
        for (i, &id) in row.ids.iter().enumerate().skip(1).filter(|&(i, _)| row.trained[i]) {
            at.push(begin + i as i64 - 1);
            targets.push(i64::from(id));
        }
    }
    let tensor = |values: &[i64]| torch_ext::upload(values, packed.ids.device());
    Targets { rows: tensor(&at), targets: tensor(&targets) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trained_token_is_predicted_by_the_one_before() {
        let row = |ids: &[u32], trained: &[u8]| Sequence {
            ids: ids.into(),
            trained: trained.iter().map(|&t| t > 0).collect(),
        };
        let (a, b) = (row(&[1, 2, 3, 4], &[0, 0, 1, 1]), row(&[5, 6, 7], &[0, 1, 0]));
        let packed = Packed::new(&[&a.ids, &b.ids], 16, tch::Device::Cpu).unwrap();
        let at = targets(&[&a, &b], &packed);
        assert_eq!(Vec::<i64>::try_from(at.rows).unwrap(), [1, 2, 4]);
        assert_eq!(Vec::<i64>::try_from(at.targets).unwrap(), [3, 4, 6]);
    }
}
