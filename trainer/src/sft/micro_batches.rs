//! The loss and gradients of a batch, in packed micro-batches.

use chat::Draw;
use configs::sft::SftTrain;
use corpus::{MaskedSequence, Mixture};
use lm::head::{Scores, Targets, score, score_and_backward};
use lm::{ActivationCheckpointing, Packed};
use tch::{Device, Kind, Tensor};

use crate::TrainError;
use crate::parallel::split::BatchSplit;
use crate::trainable_model::TrainableModel;

/// The number of validation rows that are read at once.
const ROWS_AT_ONCE: usize = 256;

/// The settings of an update's forward and backward passes.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Maximum number of tokens in a micro-batch.
    pub tokens: usize,
    /// Which activations are kept for the backward pass.
    pub recompute: ActivationCheckpointing,
    /// Seed of dropout, different for each update.
    pub seed: u64,
}

impl How {
    /// Returns the configured settings for update `step`.
    pub fn new(train: &SftTrain, seed: u64, step: u64) -> Self {
        let seed = Draw::new(seed).text("dropout").with(step).bits();
        Self {
            tokens: train.micro_batch_tokens,
            recompute: ActivationCheckpointing::every(train.activation_checkpointing_every),
            seed,
        }
    }
}

/// The size of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// The number of sequences.
    pub sequences: usize,
    /// The number of tokens.
    pub tokens: usize,
    /// The number of tokens that count in the loss.
    pub trained: usize,
    /// The sum of the squared lengths, for the FLOPs of attention.
    pub squares: u128,
    /// The number of packed micro-batches.
    pub micro_batches: usize,
}

impl Shape {
    fn of(rows: &[MaskedSequence], micro_batches: usize) -> Self {
        let lengths = || rows.iter().map(|row| row.ids.len());
        Self {
            sequences: rows.len(),
            tokens: lengths().sum(),
            trained: rows.iter().map(MaskedSequence::trained_tokens).sum(),
            squares: lengths().map(|n| (n * n) as u128).sum(),
            micro_batches,
        }
    }
}

/// Accumulates the gradients of the batch's mean loss over all its trained tokens, however they are divided into micro-batches.
/// Returns that loss, in nats per token, and the size of the batch.
///
/// # Errors
/// If memory cannot be allocated or a row is longer than the model's context.
pub fn accumulate(trainable: &TrainableModel, rows: &[MaskedSequence], how: How) -> Result<(f64, Shape), TrainError> {
    let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
    let split = BatchSplit::new(&trainable.context, &lengths, how.tokens);
    let shape = Shape::of(rows, split.passes());
    let total = shape.trained as f64;
    let model = &trainable.model.decoder;
    // Read after the last micro-batch: reading a tensor from a GPU synchronizes with it.
    let (mut weights, mut sums) = (Vec::new(), Vec::new());
    for i in 0..split.rounds() {
        let bin = split.own(i);
        let trained = trainable.trained(how.seed);
        let part: Vec<&MaskedSequence> = bin.iter().map(|&row| &rows[row]).collect();
        let (packed, at) = packed(trainable, &part)?;
        let packed = match bin {
            [] => packed,
            rows => packed.named(rows.iter().map(|&row| row as u64).collect()),
        };
        let (hidden, tape) = model.forward_train(&packed, how.recompute, trained)?;
        // In a round for which this rank has no rows, it runs one token with weight 0.
        let weight = if part.is_empty() { 0.0 } else { -1.0 / total };
        let coefficients = |_: i64, scores: &Scores| scores.logprobs.full_like(weight).into();
        let (dh, scores) = score_and_backward(model, &hidden, &at, 1.0, trained.weight_grads(), coefficients)?;
        drop(hidden);
        model.backward(tape, dh)?;
        weights.push(weight);
        sums.push(scores.logprobs.sum(Kind::Double));
    }
    // With fewer rows than ranks, a replica has no micro-batch.
    let sums: Vec<f64> = match sums.is_empty() {
        true => Vec::new(),
        false => Vec::try_from(Tensor::stack(&sums, 0).to_device(Device::Cpu))?,
    };
    let mut loss = [weights.iter().zip(sums).map(|(weight, sum)| weight * sum).sum()];
    trainable.context.world.world_group().all_reduce_scalars("the loss", &mut loss)?;
    Ok((loss[0], shape))
}

/// Computes the mean loss over all trained tokens of `rows`, in nats per token.
///
/// # Errors
/// As [`accumulate`], and if a row cannot be read.
pub fn mean_loss(trainable: &TrainableModel, rows: &Mixture, tokens: usize) -> Result<f64, TrainError> {
    let mut sums = [0.0, 0.0];
    for ids in rows.epoch(0).chunks(ROWS_AT_ONCE) {
        let lengths: Vec<usize> = ids.iter().map(|&id| rows.length(id)).collect();
        let split = BatchSplit::new(&trainable.context, &lengths, tokens);
        for i in 0..split.rounds() {
            let bin = split.own(i);
            let read = bin.iter().map(|&row| rows.read(ids[row])).collect::<Result<Vec<_>, _>>()?;
            let (packed, at) = packed(trainable, &read.iter().collect::<Vec<_>>())?;
            let model = &trainable.model.decoder;
            let hidden = model.forward_with(&packed, trainable.measured())?;
            let logprobs = score(model, &hidden, &at, 1.0)?.logprobs;
            if !bin.is_empty() {
                sums[0] -= logprobs.sum(Kind::Double).double_value(&[]);
                sums[1] += logprobs.numel() as f64;
            }
        }
    }
    trainable.context.world.world_group().all_reduce_scalars("the loss on validation rows", &mut sums)?;
    Ok(sums[0] / sums[1])
}

/// Placeholder of an empty micro-batch: one token, whose loss has weight 0.
const NOTHING: [u32; 1] = [0];

fn packed(trainable: &TrainableModel, rows: &[&MaskedSequence]) -> Result<(Packed, Targets), TrainError> {
    let model = &trainable.model.decoder;
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

/// Returns the positions that predict the trained tokens: the token before each.
fn targets(rows: &[&MaskedSequence], packed: &Packed) -> Targets {
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
        let row = |ids: &[u32], trained: &[u8]| MaskedSequence {
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
