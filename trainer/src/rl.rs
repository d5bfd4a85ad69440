//! GRPO over streaming stages: roll out, judge, credit, advantages, update.
//!
//! Streaming is not a second trainer; it is the number of stages ([`stages`]). A step, in order:
//!
//! - [`people`]: whose turn it is.
//! - [`rollout`]: summaries of all stages, judged as they come, some carried into the next stage.
//! - [`credited`]: credit carried back, punishments, advantages.
//! - [`passes`]: log-probabilities and gradients in packed passes; [`reference`], [`correction`]: what they are compared to.
//! - [`policy_loss`]: the loss of a response; [`update`]: mini-batches and updates.
//! - [`numbers`], [`record`], [`replay`]: what is told, written, and worked out again.

pub mod correction;
pub mod credited;
pub mod numbers;
pub mod passes;
pub mod people;
pub mod policy_loss;
mod record;
mod reference;
pub mod replay;
pub mod rollout;
pub mod stages;
pub mod update;

use std::path::PathBuf;
use std::time::Instant;

use chat::RlRow;
use configs::RunConfig;
use configs::rl::RlConfig;
use configs::rl::algorithm::{KlPlace, OldLogprobs, ZeroVariance};

use self::correction::Mismatch;
use self::credited::{Credited, takes_part};
use self::numbers::Costs;
use self::people::People;
pub use self::record::path as rollout_file;
pub use self::reference::Reference;
use self::rollout::{Group, Rollouts};
use self::update::MiniBatch;
use crate::checkpoints::{Checkpoints, Keeping};
use crate::optimizer::Optimizer;
use crate::parallel::held::Held;
use crate::resume::{self, Reached};
use crate::trainee::{Measure, Trainee};
use crate::{Output, TrainError};

/// Steps of a run over `people` people.
pub fn steps(config: &RlConfig, people: usize) -> u64 {
    match config.train.steps as u64 {
        0 => (people as u64 * config.train.epochs as u64).div_ceil(config.rollout.people_per_step.min(people) as u64),
        steps => steps,
    }
}

/// Trains on `rows`, from the checkpoint `from` on if one is given. `measure` is asked wherever `validation` says so;
/// `peak_flops` is what the device can do at best.
///
/// # Errors
/// If no row is long enough for the stages, the judge fails, a file cannot be written, or the gradient is not finite
/// too often in a row.
pub fn train(
    trainee: &mut Trainee,
    rows: &[RlRow],
    rollouts: Rollouts<'_>,
    peak_flops: Option<f64>,
    from: Option<PathBuf>,
    mut measure: Option<&mut Measure<'_>>,
    output: &mut Output<'_>,
) -> Result<(), TrainError> {
    let config = rollouts.config;
    let people = People::new(rows, config)?;
    let steps = steps(config, people.len());
    // The reference is the policy at the run's start, so it is taken before a checkpoint is.
    let reference = Reference::new(trainee, config)?;
    let optimizer = trainee.optimizer(&config.optimizer)?;
    Held::write(&trainee.team, output.run, Held::now(trainee, &optimizer))?;
    let mut tuning = Tuning { rollouts, people, reference, optimizer, steps, peak_flops };
    let reached = match &from {
        Some(folder) => tuning.restore(trainee, folder)?,
        None => Reached::default(),
    };
    let mut checkpoints =
        Checkpoints::new(trainee.team.world.clone(), output.checkpoints.clone(), &config.checkpoint, reached.best);
    if reached.step == 0
        && config.validation.at_start
        && let Some(measure) = &mut measure
    {
        output.step(0, steps, trainee.measured_by(measure)?)?;
    }
    for step in reached.step..steps {
        let done = tuning.step(trainee, step)?;
        let mut numbers = done.numbers;
        if step + 1 == steps {
            trainee.apply_ema(&tuning.optimizer)?;
        }
        let every = config.validation.every as u64;
        if every > 0
            && ((step + 1).is_multiple_of(every) || step + 1 == steps)
            && let Some(measure) = &mut measure
        {
            numbers.extend(trainee.measured_by(measure)?);
        }
        output.step(step + 1, steps, numbers.clone())?;
        if output.run.writes()
            && config.log.rollouts_every > 0
            && (step + 1).is_multiple_of(config.log.rollouts_every as u64)
        {
            tuning.write(trainee, step + 1, done.groups, &done.credited, done.updates, output)?;
        }
        let keeping = Keeping { step: step + 1, last: step + 1 == steps, numbers: &numbers };
        checkpoints.after(keeping, |folder, best| {
            let state = config.checkpoint.state.then_some(&tuning.optimizer);
            trainee.save(folder, |inside| {
                resume::write(inside, trainee, state, Reached { step: step + 1, best })?;
                if !trainee.team.world.leads() {
                    return Ok(());
                }
                let written = tuning.people.write(inside);
                written.map_err(|e| lm::LmError::Write { path: inside.into(), message: e.to_string() })
            })
        })?;
    }
    Ok(())
}

/// A run under way.
struct Tuning<'a> {
    rollouts: Rollouts<'a>,
    people: People<'a>,
    reference: Option<Reference>,
    optimizer: Optimizer,
    steps: u64,
    peak_flops: Option<f64>,
}

/// A step, done.
struct Done {
    groups: Vec<Group>,
    credited: Credited,
    updates: Vec<MiniBatch>,
    numbers: Vec<(String, f64)>,
}

impl Tuning<'_> {
    fn restore(&mut self, trainee: &mut Trainee, checkpoint: &std::path::Path) -> Result<Reached, TrainError> {
        let reached = resume::restore(checkpoint, trainee, &mut self.optimizer)?;
        self.people.restore(checkpoint)?;
        Ok(reached)
    }

    fn step(&mut self, trainee: &mut Trainee, step: u64) -> Result<Done, TrainError> {
        let begin = Instant::now();
        let config = self.rollouts.config;
        let mut costs = Costs::default();
        let (mut groups, credited, rounds) = self.roll_out(trainee, step, &mut costs)?;
        let mut mismatch = self.look_before(trainee, &mut groups, &credited, &mut costs)?;
        let updating = Instant::now();
        let updates = update::update(trainee, &mut self.optimizer, &groups, &credited, config, (step, self.steps))?;
        costs.updating = updating.elapsed().as_secs_f64();
        if let (OldLogprobs::Rollout, Some(first)) = (config.algorithm.old_logprobs, updates.first()) {
            for (&(g, i), seen) in first.places.iter().zip(&first.seen) {
                mismatch.add(&seen.logprobs, &groups[g].samples[i].rollout);
            }
        }
        for update in &updates {
            costs.work.tokens += update.work.tokens;
            costs.work.trained += update.work.trained;
            costs.work.squares += update.work.squares;
            costs.work.trains_weights = update.work.trains_weights;
        }
        self.people.learn(&groups);
        costs.step = begin.elapsed().as_secs_f64();
        let mut numbers = numbers::of_updates(&updates);
        numbers.extend(numbers::of_mismatch(&mismatch));
        numbers.extend(numbers::of_samples(&groups, &credited, self.rollouts.composition));
        numbers.push(("epoch".into(), self.people.epochs()));
        numbers.push(("rollout_rounds".into(), rounds as f64));
        let model = &trainee.model.decoder;
        numbers.extend(numbers::of_costs(&costs, &groups, model, self.peak_flops));
        Ok(Done { groups, credited, updates, numbers })
    }

    /// Rolls out a step's people, and further ones in place of those whose groups teach nothing, if so configured. Also
    /// returns the rounds it took.
    fn roll_out(
        &mut self,
        trainee: &Trainee,
        step: u64,
        costs: &mut Costs,
    ) -> Result<(Vec<Group>, Credited, u64), TrainError> {
        let config = self.rollouts.config;
        let algorithm = &config.algorithm;
        let refills = algorithm.zero_variance == ZeroVariance::Refill;
        let rounds = if refills { 1 + algorithm.refill_rounds as u64 } else { 1 };
        let per_person = config.rollout.groups_per_person();
        let mut wanted = config.rollout.people_per_step.min(self.people.len()) * per_person;
        let (mut groups, mut people): (Vec<Group>, usize) = (Vec::new(), 0);
        let mut live = 0;
        for round in 0..rounds {
            let next = self.people.next((wanted - live).div_ceil(per_person), (step, round));
            let mut more = trainee.as_one(|model| {
                self.rollouts.roll_out((model, &trainee.team), &next, (step, people), &mut costs.spent)
            })?;
            for parent in more.iter_mut().filter_map(|g| g.parent.as_mut()) {
                parent.group += groups.len();
            }
            people += next.len();
            let before = groups.len();
            groups.extend(more);
            if round == 0 {
                // Less than the plan's where malformed summaries were not carried.
                wanted = groups.len();
            }
            if algorithm.needs_reference() && algorithm.kl.place == KlPlace::Reward {
                self.refer(trainee, &mut groups, |g, _| g >= before, costs)?;
            }
            let credited = credited::credit(&groups, config)?;
            live = groups.len() - credited.zero_variance();
            if live >= wanted || round + 1 == rounds {
                return Ok((groups, credited, round + 1));
            }
        }
        unreachable!("the last round returns")
    }

    /// Log-probabilities that the update compares with, of the samples that take part.
    fn look_before(
        &self,
        trainee: &Trainee,
        groups: &mut [Group],
        credited: &Credited,
        costs: &mut Costs,
    ) -> Result<Mismatch, TrainError> {
        let algorithm = &self.rollouts.config.algorithm;
        let flat = &credited.flat;
        let mut mismatch = Mismatch::default();
        if algorithm.needs_reference() && algorithm.kl.place == KlPlace::Loss {
            self.refer(trainee, groups, |g, s| takes_part(s, flat[g], algorithm), costs)?;
        }
        if algorithm.old_logprobs == OldLogprobs::Recompute {
            let begin = Instant::now();
            let places = places(groups, |g, s| takes_part(s, flat[g], algorithm));
            let (seen, work) = update::look_at(trainee, groups, &places, self.rollouts.config)?;
            for ((g, i), seen) in places.into_iter().zip(seen) {
                let sample = &mut groups[g].samples[i];
                mismatch.add(&seen.logprobs, &sample.rollout);
                sample.old = seen.logprobs;
            }
            costs.looking += begin.elapsed().as_secs_f64();
            costs.looked += work.tokens;
        }
        Ok(mismatch)
    }

    /// Log-probabilities of the `wanted` samples under the reference.
    fn refer(
        &self,
        trainee: &Trainee,
        groups: &mut [Group],
        wanted: impl Fn(usize, &rollout::Sample) -> bool,
        costs: &mut Costs,
    ) -> Result<(), TrainError> {
        let Some(reference) = &self.reference else { return Ok(()) };
        let begin = Instant::now();
        let places = places(groups, |g, s| wanted(g, s) && !s.ids.is_empty());
        let (seen, work) = update::refer_to(reference, trainee, groups, &places, self.rollouts.config)?;
        for ((g, i), seen) in places.into_iter().zip(seen) {
            groups[g].samples[i].reference = seen.logprobs;
        }
        costs.looking += begin.elapsed().as_secs_f64();
        costs.looked += work.tokens;
        Ok(())
    }

    /// Writes what was rolled out at `step`.
    fn write(
        &self,
        trainee: &Trainee,
        step: u64,
        groups: Vec<Group>,
        credited: &Credited,
        updates: Vec<MiniBatch>,
        output: &Output<'_>,
    ) -> Result<(), TrainError> {
        let config = self.rollouts.config;
        let run = output.run.folder();
        let decode = |ids: &[u32]| Ok(trainee.model.tokenizer.decode(ids)?);
        let names = self.rollouts.composition.names();
        record::write(run, step, (&groups, credited), &names, decode, config.log.rollouts_max)?;
        if config.log.replay {
            let resolved = config.resolved().map_err(|e| TrainError::Data(e.to_string()))?;
            let path = record::path(run, step, "safetensors");
            replay::RecordedStep::new(step, resolved, groups, updates).write(&path)?;
        }
        Ok(())
    }
}

fn places(groups: &[Group], wanted: impl Fn(usize, &rollout::Sample) -> bool) -> Vec<(usize, usize)> {
    let all =
        groups.iter().enumerate().flat_map(|(g, group)| group.samples.iter().enumerate().map(move |(i, s)| (g, i, s)));
    all.filter(|(g, _, s)| wanted(*g, s)).map(|(g, i, _)| (g, i)).collect()
}
