//! The policy update on a step's samples.

use chat::Draw;
use configs::rl::RlConfig;
use configs::rl::algorithm::Ratio;
use lm::{Decoder, Recompute};

use super::correction;
use super::credited::{Credited, takes_part};
use super::passes::{self, Cut, Gradient, Row, Seen};
use super::policy_loss::{Normalizer, Response, SequenceLoss, Sums, sequence_loss};
use super::rollout::{Group, Sample};
use crate::TrainError;
use crate::flops::Work;
use crate::optimizer::{Optimizer, Progress, Update};
use crate::trainee::Trainee;

/// A response with all that its loss depends on, but for the policy in training.
#[derive(Clone, Debug)]
pub struct Lesson<'a> {
    /// Its tokens.
    pub row: Row<'a>,
    old: &'a [f32],
    reference: Option<&'a [f32]>,
    correction: Option<Vec<f64>>,
    advantage: f64,
}

impl<'a> Lesson<'a> {
    /// What `sample`, at `place` (group, sample) of the step, teaches.
    pub fn new(group: &'a Group, sample: &'a Sample, place: (usize, usize), advantage: f64, config: &RlConfig) -> Self {
        let row = Row { group: place.0, sample: place.1, prompt: &group.prompt, response: &sample.ids };
        let recomputed = !sample.old.is_empty();
        Self {
            row,
            old: if recomputed { &sample.old } else { &sample.rollout },
            reference: (!sample.reference.is_empty()).then_some(&sample.reference),
            correction: correction::weights(&config.algorithm, &sample.old, &sample.rollout).filter(|_| recomputed),
            advantage,
        }
    }

    /// The loss of the tokens in `range`, of weight `weight` each.
    pub fn loss(
        &self,
        range: std::ops::Range<usize>,
        logprobs: &[f32],
        entropy: &[f32],
        weight: f64,
        config: &RlConfig,
    ) -> SequenceLoss {
        let response = Response {
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

/// What divides the losses of these lessons' tokens.
pub fn normalizer(lessons: &[Lesson<'_>], config: &RlConfig) -> Normalizer {
    let lengths = lessons.iter().map(|lesson| lesson.row.response.len());
    Normalizer::new(&config.algorithm, config.rollout.max_new_tokens, lengths)
}

/// The loss of a mini-batch, and everything summed beside it, from what its tokens have under the policy. A function of its
/// arguments' bits alone: [`super::replay`] gets the same.
pub fn measure(lessons: &[Lesson<'_>], seen: &[Seen], config: &RlConfig) -> Sums {
    let by = normalizer(lessons, config);
    let mut sums = Sums::default();
    for (lesson, seen) in lessons.iter().zip(seen) {
        let n = seen.logprobs.len();
        sums.add(&lesson.loss(0..n, &seen.logprobs, &seen.entropy, by.weight(n), config).sums);
    }
    sums
}

/// How passes are cut and made.
fn cut(model: &Decoder, config: &RlConfig) -> Cut {
    let share = config.algorithm.share_prompts && !model.spec().rope.varies_with_length();
    Cut { tokens: config.algorithm.tokens_per_microbatch, share }
}

/// Adds the gradient of a mini-batch's loss; returns what its tokens have under the policy. `seed` differs from mini-batch
/// to mini-batch; dropout draws from it.
///
/// # Errors
/// If memory does not suffice.
pub fn accumulate(
    trainee: &Trainee,
    lessons: &[Lesson<'_>],
    config: &RlConfig,
    seed: u64,
) -> Result<(Vec<Seen>, Work), TrainError> {
    let by = normalizer(lessons, config);
    let rows: Vec<Row<'_>> = lessons.iter().map(|lesson| lesson.row).collect();
    let gradient = Gradient {
        trained: trainee.trained(seed),
        recompute: Recompute::every(config.train.recompute_every),
        temperature: config.rollout.temperature,
        whole: config.algorithm.ratio == Ratio::Sequence,
        entropy: config.algorithm.entropy_coefficient > 0.0,
    };
    let (seen, mut work) = passes::learn(
        &trainee.team,
        &trainee.model.decoder,
        &rows,
        cut(&trainee.model.decoder, config),
        &gradient,
        |row, range, logprobs| {
            let lesson = &lessons[row];
            let weight = by.weight(lesson.row.response.len());
            // Entropies move the loss in a straight line: their values do not matter for the slopes.
            let found = lesson.loss(range, logprobs, &vec![0.0; logprobs.len()], weight, config);
            (found.derivative, found.entropy_derivative)
        },
    )?;
    work.trains_weights = trainee.trains_weights();
    Ok((seen, work))
}

/// Log-probabilities of the samples at `places` under the policy as it is (its dropout off).
///
/// # Errors
/// If memory does not suffice.
pub fn look_at(
    trainee: &Trainee,
    groups: &[Group],
    places: &[(usize, usize)],
    config: &RlConfig,
) -> Result<(Vec<Seen>, Work), TrainError> {
    let model = &trainee.model.decoder;
    let forward = |packed: &lm::Packed| model.forward_with(packed, trainee.measured());
    passes::look(
        &trainee.team,
        model,
        &rows_at(groups, places),
        cut(&trainee.model.decoder, config),
        config.rollout.temperature,
        forward,
    )
}

/// The same under the reference.
///
/// # Errors
/// If memory does not suffice.
pub fn refer_to(
    reference: &super::Reference,
    trainee: &Trainee,
    groups: &[Group],
    places: &[(usize, usize)],
    config: &RlConfig,
) -> Result<(Vec<Seen>, Work), TrainError> {
    let forward = |packed: &lm::Packed| reference.forward(trainee, packed);
    let rows = rows_at(groups, places);
    passes::look(
        &trainee.team,
        reference.decoder(trainee),
        &rows,
        cut(reference.decoder(trainee), config),
        config.rollout.temperature,
        forward,
    )
}

fn rows_at<'a>(groups: &'a [Group], places: &[(usize, usize)]) -> Vec<Row<'a>> {
    let row = |&(group, sample): &(usize, usize)| {
        let of: &Group = &groups[group];
        Row { group, sample, prompt: &of.prompt, response: &of.samples[sample].ids }
    };
    places.iter().map(row).collect()
}

/// One optimizer update, and what it was made of.
#[derive(Clone, Debug)]
pub struct MiniBatch {
    /// The samples: group and place in it.
    pub places: Vec<(usize, usize)>,
    /// Loss and what was summed beside it.
    pub sums: Sums,
    /// What the optimizer did.
    pub update: Update,
    /// What the tokens had under the policy when the gradient was taken, one entry a sample.
    pub seen: Vec<Seen>,
    /// FLOPs' ingredients.
    pub work: Work,
}

/// The mini-batches of one pass over a step's samples: whole groups, in an order drawn for the pass.
pub fn mini_batches(
    groups: &[Group],
    credited: &Credited,
    config: &RlConfig,
    (step, epoch): (u64, u64),
) -> Vec<Vec<(usize, usize)>> {
    let of_group = |g: usize| -> Vec<(usize, usize)> {
        let samples = groups[g].samples.iter().enumerate();
        let kept = samples.filter(|(_, s)| takes_part(s, credited.flat[g], &config.algorithm));
        kept.map(|(i, _)| (g, i)).collect()
    };
    let draw = Draw::new(config.seed).text("mini-batches").with(step).with(epoch);
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by_cached_key(|&g| draw.with(g as u64).bits());
    let live: Vec<Vec<(usize, usize)>> = order.into_iter().map(of_group).filter(|g| !g.is_empty()).collect();
    let updates = config.algorithm.updates_per_step.min(live.len());
    (0..updates).map(|u| live[live.len() * u / updates..live.len() * (u + 1) / updates].concat()).collect()
}

/// The lessons of a mini-batch.
pub fn lessons<'a>(
    groups: &'a [Group],
    credited: &Credited,
    places: &[(usize, usize)],
    config: &RlConfig,
) -> Vec<Lesson<'a>> {
    let one = |&(g, i): &(usize, usize)| {
        let advantage = credited.advantages[g][i];
        Lesson::new(&groups[g], &groups[g].samples[i], (g, i), advantage, config)
    };
    places.iter().map(one).collect()
}

/// Makes all updates of a step.
///
/// # Errors
/// If memory does not suffice, or the gradient is not finite too often in a row.
pub fn update(
    trainee: &mut Trainee,
    optimizer: &mut Optimizer,
    groups: &[Group],
    credited: &Credited,
    config: &RlConfig,
    (step, steps): (u64, u64),
) -> Result<Vec<MiniBatch>, TrainError> {
    let mut done = Vec::new();
    for epoch in 0..config.algorithm.epochs_per_step as u64 {
        for places in mini_batches(groups, credited, config, (step, epoch)) {
            let lessons = lessons(groups, credited, &places, config);
            let seed = Draw::new(config.seed).text("dropout").with(step).with(done.len() as u64).bits();
            let (seen, work) = accumulate(trainee, &lessons, config, seed)?;
            let sums = measure(&lessons, &seen, config);
            let update = trainee.update(optimizer, Progress { done: step, total: steps })?;
            trainee.team.same_step(step + 1, &[sums.loss, update.grad_norm])?;
            done.push(MiniBatch { places, sums, update, seen, work });
        }
    }
    Ok(done)
}
