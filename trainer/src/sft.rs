//! Supervised fine-tuning: next-token loss on the completions of packed rows.

use std::time::Instant;

use chat::SftRow;
use chat::tokenizer::{TokenizedRow, Tokenizer};
use configs::sft::{SftData, SftTrain};
use configs::{checkpoint::CheckpointConfig, optimizer::OptimizerConfig};
use lm::head::{Targets, score_and_backward};
use lm::{LocalModel, Packed, Recompute};
use rayon::prelude::*;
use rewards::Draw;
use tch::{Kind, Tensor};

use crate::microbatch::by_tokens;
use crate::optimizer::{Optimizer, Progress};
use crate::{Output, TrainError};

/// What a run of fine-tuning needs to know.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// Seed of the data order.
    pub seed: u64,
    /// Rows: length and order.
    pub data: &'a SftData,
    /// Length and batches.
    pub train: &'a SftTrain,
    /// Optimizer.
    pub optimizer: &'a OptimizerConfig,
    /// Checkpoints.
    pub checkpoint: &'a CheckpointConfig,
}

/// Tokenizes rows in parallel; `max_length` cuts from the right.
///
/// # Errors
/// [`TrainError::Data`] naming the row (from 1) that does not tokenize or has nothing left to train on.
pub fn tokenize(rows: &[SftRow], tokenizer: &Tokenizer, max_length: usize) -> Result<Vec<TokenizedRow>, TrainError> {
    rows.par_iter()
        .enumerate()
        .map(|(i, row)| {
            let mut tokens =
                tokenizer.encode_row(row).map_err(|e| TrainError::Data(format!("SFT row {}: {e}", i + 1)))?;
            tokens.ids.truncate(max_length);
            if tokens.prompt_len >= tokens.ids.len() {
                return Err(TrainError::Data(format!(
                    "SFT row {}: its prompt alone has {} tokens, so data.max_length = {max_length} leaves nothing to \
                     train on; raise it or shorten the row",
                    i + 1,
                    tokens.prompt_len
                )));
            }
            Ok(tokens)
        })
        .collect()
}

/// Trains `model` on `rows`.
///
/// # Errors
/// If a file cannot be written, memory does not suffice, or the gradient is not finite ten times in a row.
pub fn train(
    model: &mut LocalModel,
    rows: &[TokenizedRow],
    settings: Settings<'_>,
    output: &mut Output<'_>,
) -> Result<(), TrainError> {
    let params = &model.decoder.params;
    let kind = crate::optimizer::state_kind(settings.optimizer, params.flat.kind());
    let mut grads = lm::Params::zeros(params.spec(), kind, params.flat.device())?;
    let stretches = crate::optimizer::stretches(params, &settings.optimizer.no_decay);
    let mut optimizer = Optimizer::new(&params.flat, stretches, settings.optimizer.clone())?;
    let batch_size = settings.train.batch_size;
    let per_epoch = rows.len().div_ceil(batch_size);
    let whole = (per_epoch * settings.train.epochs) as u64;
    let steps = if settings.train.max_steps == 0 { whole } else { whole.min(settings.train.max_steps as u64) };
    let mut failures = 0;
    let mut order = Vec::new();
    for step in 0..steps {
        let (epoch, batch) = (step / per_epoch as u64, step as usize % per_epoch);
        if batch == 0 {
            order = epoch_order(rows.len(), settings.data.shuffle, settings.seed, epoch);
        }
        let members = &order[batch * batch_size..((batch + 1) * batch_size).min(rows.len())];
        let batch: Vec<&TokenizedRow> = members.iter().map(|&i| &rows[i]).collect();
        let begin = Instant::now();
        let loss = accumulate(model, &batch, settings.train.tokens_per_microbatch, &grads)?;
        let update =
            optimizer.update(&mut model.decoder.params.flat, &mut grads.flat, Progress { done: step, total: steps })?;
        failures = if update.skipped { failures + 1 } else { 0 };
        if failures == 10 {
            return Err(TrainError::Diverged(format!(
                "the gradient was not finite ten steps in a row, up to step {}; lower optimizer.lr or look at the data",
                step + 1
            )));
        }
        let seconds = begin.elapsed().as_secs_f64();
        let tokens: usize = batch.iter().map(|row| row.ids.len()).sum();
        output.step(
            step + 1,
            steps,
            [
                ("loss", loss),
                ("grad_norm", update.grad_norm),
                ("lr", update.lr),
                ("skipped", f64::from(u8::from(update.skipped))),
                ("trained_tokens", trained(&batch) as f64),
                ("tokens", tokens as f64),
                ("time/step", seconds),
                ("time/tokens_per_second", tokens as f64 / seconds),
            ],
        )?;
        output.checkpoint(model, (step + 1, steps), settings.checkpoint)?;
    }
    Ok(())
}

fn trained(batch: &[&TokenizedRow]) -> usize {
    batch.iter().map(|row| row.ids.len() - row.prompt_len).sum()
}

/// The order of an epoch: the file's, or a permutation that depends on (seed, epoch) alone.
fn epoch_order(rows: usize, shuffle: bool, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows).collect();
    if shuffle {
        let draw = Draw::new(seed).text("epoch order").with(epoch);
        order.sort_by_cached_key(|&row| draw.with(row as u64).bits());
    }
    order
}

/// Adds the gradients of the batch's mean loss over all its trained tokens; returns that loss, in nats per token.
fn accumulate(
    model: &LocalModel,
    batch: &[&TokenizedRow],
    budget: usize,
    grads: &lm::Params,
) -> Result<f64, TrainError> {
    let total = trained(batch) as f64;
    let lengths: Vec<usize> = batch.iter().map(|row| row.ids.len()).collect();
    let mut loss = 0.0;
    for range in by_tokens(&lengths, budget) {
        let part = &batch[range];
        let sequences: Vec<&[u32]> = part.iter().map(|row| row.ids.as_slice()).collect();
        let context = model.decoder.spec().context();
        let packed = Packed::new(&sequences, context, model.decoder.device())?;
        let (hidden, tape) =
            model.decoder.forward_train(&packed, Recompute::Nothing, lm::Trained::Weights { grads })?;
        let at = completion_targets(part, &packed);
        let coefficients = |_: i64, scores: &lm::head::Scores| scores.logprobs.full_like(-1.0 / total);
        let (dh, scores) = score_and_backward(&model.decoder, &hidden, &at, 1.0, Some(grads), coefficients)?;
        model.decoder.backward(tape, dh)?;
        loss -= scores.logprobs.sum(Kind::Double).double_value(&[]) / total;
    }
    Ok(loss)
}

/// Where the tokens of the completions are predicted: each by the token before it.
pub(crate) fn completion_targets(rows: &[&TokenizedRow], packed: &Packed) -> Targets {
    let (mut at, mut targets) = (Vec::new(), Vec::new());
    for (row, begin) in rows.iter().zip(&packed.cu_seqlens) {
        for (i, &id) in row.ids.iter().enumerate().skip(row.prompt_len.max(1)) {
            at.push(begin + i as i64 - 1);
            targets.push(i64::from(id));
        }
    }
    let tensor = |values: &[i64]| Tensor::from_slice(values).to_device(packed.ids.device());
    Targets { rows: tensor(&at), targets: tensor(&targets) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_visits_every_row_once_in_an_order_of_its_own() {
        let order = epoch_order(100, true, 1, 0);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_eq!(order, epoch_order(100, true, 1, 0));
        assert_ne!(order, epoch_order(100, true, 1, 1));
        assert_ne!(order, epoch_order(100, true, 2, 0));
        assert_eq!(epoch_order(3, false, 1, 5), [0, 1, 2]);
    }

    #[test]
    fn only_completions_are_trained() {
        let row = |ids: &[u32], prompt_len| TokenizedRow { ids: ids.into(), prompt_len };
        let (a, b) = (row(&[1, 2, 3, 4], 2), row(&[5, 6, 7], 1));
        let packed = Packed::new(&[&a.ids, &b.ids], 16, tch::Device::Cpu).unwrap();
        let at = completion_targets(&[&a, &b], &packed);
        assert_eq!(Vec::<i64>::try_from(at.rows).unwrap(), [1, 2, 4, 5]);
        assert_eq!(Vec::<i64>::try_from(at.targets).unwrap(), [3, 4, 6, 7]);
    }
}
