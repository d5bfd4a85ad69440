//! The policy update on the samples of a step.

use chat::Draw;
use configs::rl::RlConfig;
use configs::rl::algorithm::{Aggregation, Minibatches, Ratio};
use lm::{ActivationCheckpointing, Decoder};

use super::advantages::{StepAdvantages, is_trained};
use super::group::{Group, Sample};
use super::importance_sampling;
use super::micro_batches::{self, Gradient, MicroBatchLimit, PromptAndResponse, TokenLogprobs};
use super::policy_loss::{LossStats, Normalizer, PolicyLossInputs, SequenceLoss, sequence_loss};
use super::published_batches::{self, Layout};
use crate::TrainError;
use crate::flops::ComputeWork;
use crate::lr_schedule::ScheduleStep;
use crate::optimizer::{Optimizer, Update};
use crate::trainable_model::TrainableModel;

/// A response and all inputs of its loss, except for the policy in training.
#[derive(Clone, Debug)]
pub struct TrainSample<'a> {
    /// The tokens of the response.
    pub row: PromptAndResponse<'a>,
    /// Index of the micro-batch that `micro_batch_token_mean` averages; 0 with any other aggregation. Packing ignores it.
    pub micro_batch: usize,
    old: &'a [f32],
    reference: Option<&'a [f32]>,
    correction: Option<Vec<f64>>,
    advantage: f64,
}

impl<'a> TrainSample<'a> {
    /// Returns the training sample of `sample`, at `place` (group, sample) of the step.
    pub fn new(group: &'a Group, sample: &'a Sample, place: (usize, usize), advantage: f64, config: &RlConfig) -> Self {
        let row = PromptAndResponse { group: place.0, sample: place.1, prompt: &group.prompt, response: &sample.ids };
        let recomputed = !sample.old.is_empty();
        Self {
            row,
            micro_batch: 0,
            old: if recomputed { &sample.old } else { &sample.rollout },
            reference: (!sample.reference.is_empty()).then_some(&sample.reference),
            correction: importance_sampling::weights(&config.algorithm, &sample.old, &sample.rollout)
                .filter(|_| recomputed),
            advantage,
        }
    }

    /// Returns the weight of each token.
    pub fn weight(&self, by: &Normalizer) -> f64 {
        by.weight(self.row.response.len(), self.micro_batch)
    }

    /// Computes the loss of the tokens in `range`, each with weight `weight`.
    pub fn loss(
        &self,
        range: std::ops::Range<usize>,
        logprobs: &[f32],
        entropy: &[f32],
        weight: f64,
        config: &RlConfig,
    ) -> SequenceLoss {
        let response = PolicyLossInputs {
            logprobs,
            entropy,
            old: &self.old[range.clone()],
            reference: self.reference.map(|r| &r[range.clone()]),
            correction: self.correction.as_deref().map(|c| &c[range]),
            advantage: self.advantage,
        };
        sequence_loss(response, weight, &config.algorithm)
    }
}

/// Returns the normalizer of the token losses of these samples.
pub fn normalizer(train_samples: &[TrainSample<'_>], config: &RlConfig) -> Normalizer {
    let responses = train_samples.iter().map(|sample| (sample.row.response.len(), sample.micro_batch));
    Normalizer::new(&config.algorithm, &config.rollout, responses)
}

/// Computes the loss statistics of a mini-batch from the log-probabilities and entropies of its tokens under the policy. The
/// result depends only on the bits of the arguments, so [`super::replay`] reproduces it.
pub fn measure(train_samples: &[TrainSample<'_>], seen: &[TokenLogprobs], config: &RlConfig) -> LossStats {
    let by = normalizer(train_samples, config);
    let mut sums = LossStats::default();
    for (sample, seen) in train_samples.iter().zip(seen) {
        let n = seen.logprobs.len();
        sums.add(&sample.loss(0..n, &seen.logprobs, &seen.entropy, sample.weight(&by), config).sums);
    }
    sums
}

/// Returns how rows are divided into micro-batches for `model`.
fn cut(model: &Decoder, config: &RlConfig) -> MicroBatchLimit {
    let share = config.algorithm.share_prompts && !model.spec().rope.varies_with_length();
    MicroBatchLimit { tokens: config.algorithm.micro_batch_tokens, share }
}

/// Accumulates the gradient of a mini-batch's loss. Returns log-probabilities and entropies of its tokens under the policy, and
/// the work. `seed` seeds dropout and must differ between mini-batches.
///
/// # Errors
/// If memory cannot be allocated.
pub fn accumulate(
    trainable: &TrainableModel,
    train_samples: &[TrainSample<'_>],
    config: &RlConfig,
    seed: u64,
) -> Result<(Vec<TokenLogprobs>, ComputeWork), TrainError> {
    let by = normalizer(train_samples, config);
    let rows: Vec<PromptAndResponse<'_>> = train_samples.iter().map(|sample| sample.row).collect();
    let gradient = Gradient {
        trained: trainable.trained(seed),
        recompute: ActivationCheckpointing::every(config.train.activation_checkpointing_every),
        temperature: config.rollout.temperature,
        whole: config.algorithm.ratio == Ratio::Sequence,
        entropy: config.algorithm.entropy_coefficient > 0.0,
    };
    let (seen, mut work) = micro_batches::forward_backward(
        &trainable.context,
        &trainable.model.decoder,
        &rows,
        cut(&trainable.model.decoder, config),
        &gradient,
        |row, range, logprobs| {
            let sample = &train_samples[row];
            let weight = sample.weight(&by);
            // The loss is linear in the entropies, so their values do not affect the slopes.
            let found = sample.loss(range, logprobs, &vec![0.0; logprobs.len()], weight, config);
            (found.derivative, found.entropy_derivative)
        },
    )?;
    work.trains_weights = trainable.trains_weights();
    Ok((seen, work))
}

/// Computes log-probabilities of the samples at `places` under the current policy, without dropout.
///
/// # Errors
/// If memory cannot be allocated.
pub fn policy_logprobs(
    trainable: &TrainableModel,
    groups: &[Group],
    places: &[(usize, usize)],
    config: &RlConfig,
) -> Result<(Vec<TokenLogprobs>, ComputeWork), TrainError> {
    let model = &trainable.model.decoder;
    let forward = |packed: &lm::Packed| model.forward_with(packed, trainable.measured());
    micro_batches::compute_logprobs(
        &trainable.context,
        model,
        &rows_at(groups, places),
        cut(&trainable.model.decoder, config),
        config.rollout.temperature,
        forward,
    )
}

/// Computes log-probabilities of the samples at `places` under the reference.
///
/// # Errors
/// If memory cannot be allocated.
pub fn reference_logprobs(
    reference: &super::reference::Reference,
    trainable: &TrainableModel,
    groups: &[Group],
    places: &[(usize, usize)],
    config: &RlConfig,
) -> Result<(Vec<TokenLogprobs>, ComputeWork), TrainError> {
    let forward = |packed: &lm::Packed| reference.forward(trainable, packed);
    let rows = rows_at(groups, places);
    micro_batches::compute_logprobs(
        &trainable.context,
        reference.decoder(trainable),
        &rows,
        cut(reference.decoder(trainable), config),
        config.rollout.temperature,
        forward,
    )
}

fn rows_at<'a>(groups: &'a [Group], places: &[(usize, usize)]) -> Vec<PromptAndResponse<'a>> {
    let row = |&(group, sample): &(usize, usize)| {
        let of: &Group = &groups[group];
        PromptAndResponse { group, sample, prompt: &of.prompt, response: &of.samples[sample].ids }
    };
    places.iter().map(row).collect()
}

/// An optimizer update and its mini-batch.
#[derive(Clone, Debug)]
pub struct MiniBatch {
    /// The samples, as (group, index in the group).
    pub places: Vec<(usize, usize)>,
    /// The loss and its statistics.
    pub sums: LossStats,
    /// The result of the optimizer update.
    pub update: Update,
    /// Log-probabilities and entropies of the tokens under the policy when the gradient was computed, one entry per sample.
    pub seen: Vec<TokenLogprobs>,
    /// The work from which FLOPs are computed.
    pub work: ComputeWork,
}

/// Divides a step's samples into the mini-batches of one iteration, as `algorithm.minibatches` configures. None is empty.
pub fn mini_batches(
    groups: &[Group],
    advantages: &StepAdvantages,
    config: &RlConfig,
    iteration: (u64, u64),
) -> Vec<Vec<(usize, usize)>> {
    match config.algorithm.minibatches {
        Minibatches::Groups => whole_groups(groups, advantages, config, iteration),
        Minibatches::Published => as_published(groups, advantages, config),
    }
}

/// Divides a step into whole groups, in an order shuffled per iteration.
fn whole_groups(
    groups: &[Group],
    advantages: &StepAdvantages,
    config: &RlConfig,
    (step, epoch): (u64, u64),
) -> Vec<Vec<(usize, usize)>> {
    let of_group = |g: usize| -> Vec<(usize, usize)> {
        let samples = groups[g].samples.iter().enumerate();
        let kept = samples.filter(|(_, s)| is_trained(s, advantages.zero_variance[g], &config.algorithm));
        kept.map(|(i, _)| (g, i)).collect()
    };
    let draw = Draw::new(config.seed).text("mini-batches").with(step).with(epoch);
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by_cached_key(|&g| draw.with(g as u64).bits());
    let live: Vec<Vec<(usize, usize)>> = order.into_iter().map(of_group).filter(|g| !g.is_empty()).collect();
    let updates = config.algorithm.num_minibatches.min(live.len());
    (0..updates).map(|u| live[live.len() * u / updates..live.len() * (u + 1) / updates].concat()).collect()
}

/// Divides a step by the published slots. Samples of a group stay adjacent, so that execution can share their prompt.
fn as_published(groups: &[Group], advantages: &StepAdvantages, config: &RlConfig) -> Vec<Vec<(usize, usize)>> {
    let algorithm = &config.algorithm;
    let slots = published_batches::slots(groups, algorithm, &config.rollout);
    let updates = slots.iter().flatten().map(|slot| slot.mini_batch + 1).max().unwrap_or(0);
    let mut found = vec![Vec::new(); updates];
    for (g, slots) in slots.iter().enumerate() {
        for (i, slot) in slots.iter().enumerate() {
            if is_trained(&groups[g].samples[i], advantages.zero_variance[g], algorithm) {
                found[slot.mini_batch].push((g, i));
            }
        }
    }
    found.retain(|places| !places.is_empty());
    found
}

/// Returns the index of the micro-batch that each response of a mini-batch is averaged in: the published one, or else that of
/// the next `micro_batch_sequences` responses.
fn micro_batches_of(groups: &[Group], places: &[(usize, usize)], config: &RlConfig) -> Vec<usize> {
    let algorithm = &config.algorithm;
    match (algorithm.aggregation, algorithm.minibatches) {
        (Aggregation::MicroBatchTokenMean, Minibatches::Published) => {
            let slots = published_batches::slots(groups, algorithm, &config.rollout);
            let layout = Layout::new(algorithm, &config.rollout);
            places.iter().map(|&(g, i)| layout.micro_batch_of(slots[g][i])).collect()
        }
        (Aggregation::MicroBatchTokenMean, Minibatches::Groups) => {
            (0..places.len()).map(|at| at / algorithm.micro_batch_sequences).collect()
        }
        _ => vec![0; places.len()],
    }
}

/// Returns the training samples of a mini-batch.
pub fn train_samples<'a>(
    groups: &'a [Group],
    advantages: &StepAdvantages,
    places: &[(usize, usize)],
    config: &RlConfig,
) -> Vec<TrainSample<'a>> {
    let one = |(&(g, i), micro_batch): (&(usize, usize), usize)| {
        let advantage = advantages.advantages[g][i];
        let sample = TrainSample::new(&groups[g], &groups[g].samples[i], (g, i), advantage, config);
        TrainSample { micro_batch, ..sample }
    };
    places.iter().zip(micro_batches_of(groups, places, config)).map(one).collect()
}

/// Makes all updates of a step.
///
/// # Errors
/// If memory cannot be allocated, or too many consecutive gradients are not finite.
pub fn update(
    trainable: &mut TrainableModel,
    optimizer: &mut Optimizer,
    groups: &[Group],
    advantages: &StepAdvantages,
    config: &RlConfig,
    (step, steps): (u64, u64),
) -> Result<Vec<MiniBatch>, TrainError> {
    let mut done = Vec::new();
    for epoch in 0..config.algorithm.num_iterations as u64 {
        for places in mini_batches(groups, advantages, config, (step, epoch)) {
            let train_samples = train_samples(groups, advantages, &places, config);
            let seed = Draw::new(config.seed).text("dropout").with(step).with(done.len() as u64).bits();
            let (seen, work) = accumulate(trainable, &train_samples, config, seed)?;
            let sums = measure(&train_samples, &seen, config);
            let update = trainable.update(optimizer, ScheduleStep { done: step, total: steps })?;
            trainable.context.assert_same_step(step + 1, &[sums.loss, update.grad_norm])?;
            done.push(MiniBatch { places, sums, update, seen, work });
        }
    }
    Ok(done)
}
