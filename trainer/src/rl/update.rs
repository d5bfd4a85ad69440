//! The policy update on a step's samples.

use configs::rl::{AlgorithmConfig, RlConfig};
use lm::head::{Scores, Targets, score_and_backward};
use lm::{LocalModel, Packed, Params, Recompute, Trained};
use rewards::Draw;
use tch::{Kind, Tensor};

use super::policy_loss::token_loss;
use super::rollout::Group;
use crate::TrainError;
use crate::microbatch::by_tokens;
use crate::optimizer::{Optimizer, Progress, Update};

/// One sample as the update sees it.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Prompt tokens.
    pub prompt: &'a [u32],
    /// Response tokens.
    pub response: &'a [u32],
    /// Their log-probabilities when they were sampled.
    pub old_logprobs: &'a [f32],
    /// The sample's advantage, the same for each of its tokens.
    pub advantage: f64,
}

/// Sums over tokens; [`Self::means`] divides them.
#[derive(Clone, Copy, Debug, Default)]
pub struct LossSums {
    tokens: f64,
    loss: f64,
    entropy: f64,
    high: f64,
    low: f64,
    dual: f64,
    kl: f64,
    ratio_max: f64,
    first_ratio_error: Option<f64>,
}

impl LossSums {
    /// The numbers for metrics.jsonl.
    pub fn means(&self) -> Vec<(&'static str, f64)> {
        let mean = |sum: f64| sum / self.tokens.max(1.0);
        vec![
            ("loss", mean(self.loss)),
            ("entropy", mean(self.entropy)),
            ("clip/high", mean(self.high)),
            ("clip/low", mean(self.low)),
            ("clip/dual", mean(self.dual)),
            ("ratio/max", self.ratio_max),
            // How far generation and training disagree: before the first update the ratio should be 1.
            ("ratio/first_error", self.first_ratio_error.unwrap_or(f64::NAN)),
            ("kl/old", mean(self.kl)),
        ]
    }
}

/// Makes `updates_per_step` updates, each on a random share of the step's samples. Returns the last update and the sums
/// over all tokens.
///
/// # Errors
/// If memory does not suffice.
pub fn update(
    model: &mut LocalModel,
    groups: &[Group<'_>],
    advantages: &[Vec<f64>],
    config: &RlConfig,
    (optimizer, grads): (&mut Optimizer, &mut Params),
    (step, steps): (u64, u64),
) -> Result<(Update, LossSums), TrainError> {
    let mut rows: Vec<Row<'_>> = groups
        .iter()
        .zip(advantages)
        .flat_map(|(g, advantages)| {
            g.samples.iter().zip(advantages).map(|(s, &advantage)| Row {
                prompt: &g.prompt,
                response: &s.ids,
                old_logprobs: &s.logprobs,
                advantage,
            })
        })
        .collect();
    let draw = Draw::new(config.seed).text("mini-batches").with(step);
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_cached_key(|&i| draw.with(i as u64).bits());
    rows = order.iter().map(|&i| rows[i]).collect();

    let updates = config.algorithm.updates_per_step.min(rows.len());
    let mut sums = LossSums::default();
    let mut last = Update { grad_norm: 0.0, lr: 0.0, skipped: false };
    for u in 0..updates {
        let part = &rows[rows.len() * u / updates..rows.len() * (u + 1) / updates];
        accumulate(model, part, &config.algorithm, config.rollout.temperature, grads, &mut sums)?;
        let progress = Progress { done: step, total: steps };
        last = optimizer.update(&mut model.decoder.params.flat, &mut grads.flat, progress)?;
    }
    Ok((last, sums))
}

/// Adds the gradient of the mini-batch's loss: the mean over all its response tokens.
///
/// # Errors
/// If memory does not suffice.
pub fn accumulate(
    model: &LocalModel,
    rows: &[Row<'_>],
    algorithm: &AlgorithmConfig,
    temperature: f64,
    grads: &Params,
    sums: &mut LossSums,
) -> Result<(), TrainError> {
    let total: usize = rows.iter().map(|r| r.response.len()).sum();
    let lengths: Vec<usize> = rows.iter().map(|r| r.prompt.len() + r.response.len()).collect();
    let first = sums.tokens == 0.0;
    for range in by_tokens(&lengths, algorithm.tokens_per_microbatch) {
        let part = &rows[range];
        let sequences: Vec<Vec<u32>> = part.iter().map(|r| [r.prompt, r.response].concat()).collect();
        let packed = Packed::new(&sequences, model.decoder.spec().context(), model.decoder.device())?;
        let (hidden, tape) = model.decoder.forward_train(&packed, Recompute::Nothing, Trained::Weights { grads })?;
        let (at, old, advantages) = response_targets(part, &packed);
        let coefficients = |begin: i64, scores: &Scores| {
            let n = scores.logprobs.size()[0];
            let old = old.narrow(0, begin, n);
            let t = token_loss(&scores.logprobs, &old, &advantages.narrow(0, begin, n), algorithm);
            let sum = |t: &Tensor| t.sum(Kind::Double).double_value(&[]);
            sums.tokens += n as f64;
            sums.loss += sum(&t.loss);
            sums.entropy += sum(&scores.entropy);
            sums.high += sum(&t.clipped.high);
            sums.low += sum(&t.clipped.low);
            sums.dual += sum(&t.clipped.dual);
            sums.kl += sum(&(&old - &scores.logprobs));
            sums.ratio_max = sums.ratio_max.max(t.ratio.max().double_value(&[]));
            if first {
                let error = (&t.ratio - 1.0).abs().max().double_value(&[]);
                sums.first_ratio_error = Some(sums.first_ratio_error.unwrap_or(0.0).max(error));
            }
            (t.derivative / total as f64).into()
        };
        let (dh, _) = score_and_backward(&model.decoder, &hidden, &at, temperature, Some(grads), coefficients)?;
        model.decoder.backward(tape, dh)?;
    }
    Ok(())
}

/// Where response tokens are predicted, their old log-probabilities, and their advantages, [tokens] each.
fn response_targets(rows: &[Row<'_>], packed: &Packed) -> (Targets, Tensor, Tensor) {
    let (mut at, mut targets, mut old, mut advantages) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (row, begin) in rows.iter().zip(&packed.cu_seqlens) {
        let first = begin + row.prompt.len() as i64 - 1;
        at.extend((0..row.response.len() as i64).map(|i| first + i));
        targets.extend(row.response.iter().map(|&id| i64::from(id)));
        old.extend_from_slice(row.old_logprobs);
        advantages.extend(std::iter::repeat_n(row.advantage as f32, row.response.len()));
    }
    let device = packed.ids.device();
    let targets = Targets {
        rows: Tensor::from_slice(&at).to_device(device),
        targets: Tensor::from_slice(&targets).to_device(device),
    };
    (targets, Tensor::from_slice(&old).to_device(device), Tensor::from_slice(&advantages).to_device(device))
}
