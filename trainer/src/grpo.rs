//! GRPO over streaming stages: rollout, judge, credit, advantages, update.
//!
//! Streaming is not a separate trainer; it is GRPO with more than one stage ([`stages`]). A step runs these modules in order:
//!
//! - [`curriculum_sampler`]: selects the users of the step.
//! - [`rollout`]: samples the summaries of all stages (`generate_on_ranks`), judges and rewards them ([`rewarding`]), and carries
//!   some into the next stage.
//! - [`advantages`]: assigns credit and penalties, and computes advantages.
//! - [`micro_batches`]: computes log-probabilities and gradients in packed micro-batches; `reference` and
//!   [`importance_sampling`] provide what they are compared with.
//! - [`policy_loss`]: the loss of a response; [`update`]: mini-batches ([`published_batches`] if configured) and optimizer
//!   updates.
//! - [`metrics`], `record`, [`replay`]: log, write, and replay a step.
//! - [`alarm`]: tests for reward hacking by a held-out judge. [`term_gradients`]: the cosine similarity of the terms'
//!   gradients.

pub mod advantages;
pub mod alarm;
pub mod curriculum_sampler;
mod generate_on_ranks;
pub mod group;
pub mod importance_sampling;
pub mod metrics;
pub mod micro_batches;
pub mod policy_loss;
pub mod published_batches;
mod record;
mod reference;
pub mod replay;
mod reward_state;
pub mod rewarding;
pub mod rollout;
pub mod stages;
pub mod term_gradients;
pub mod update;

use std::path::{Path, PathBuf};
use std::time::Instant;

use chat::RlRow;
use configs::RunConfig;
use configs::rl::RlConfig;
use configs::rl::alarm::AlarmConfig;
use configs::rl::algorithm::{KlPlace, OldLogprobs, ZeroVariance};
use lm::LmError;
use rewards::{CompositionState, PanelRequest};

use self::advantages::{StepAdvantages, is_trained};
use self::alarm::Alarm;
use self::curriculum_sampler::CurriculumSampler;
use self::group::{Group, Sample};
use self::importance_sampling::Mismatch;
use self::metrics::Costs;
pub use self::record::path as rollout_file;
pub use self::reference::Reference;
use self::rollout::Rollouts;
use self::update::MiniBatch;
use crate::optimizer::Optimizer;
use crate::train_loop::{Algorithm, Halt, Numbers, TrainLoop};
use crate::trainable_model::{Measure, TrainableModel};
use crate::{Output, TrainError};

/// Returns the number of steps of a run over `users` users.
pub fn steps(config: &RlConfig, users: usize) -> u64 {
    let (epochs, of_step) = (config.train.epochs as u64, config.rollout.users_per_step);
    match config.train.steps as u64 {
        0 if config.train.drop_last => (users / of_step) as u64 * epochs,
        0 => (users as u64 * epochs).div_ceil(of_step.min(users) as u64),
        steps => steps,
    }
}

/// Trains on `rows`, resuming from the checkpoint `from` if one is given. `measure` is called as `validation` configures;
/// `peak_flops` is the peak of the device, FLOP/s.
///
/// # Errors
/// If no row is long enough for the stages, the judge fails, a file cannot be written, or too many consecutive gradients are
/// not finite.
pub fn train(
    trainable: &mut TrainableModel,
    rows: &[RlRow],
    rollouts: Rollouts<'_>,
    peak_flops: Option<f64>,
    from: Option<PathBuf>,
    measure: Option<&mut Measure<'_>>,
    output: &mut Output<'_>,
) -> Result<(), TrainError> {
    let config = rollouts.config;
    let users = CurriculumSampler::new(rows, config)?;
    let steps = steps(config, users.len());
    // The reference is the policy at the start of the run, so it is created before a checkpoint is restored.
    let reference = Reference::new(trainable, config)?;
    let train_loop = TrainLoop {
        steps,
        optimizer: &config.optimizer,
        validation: &config.validation,
        checkpoint: &config.checkpoint,
        from: from.as_deref(),
    };
    let alarm = alarm_of(config, steps, trainable.context.world.is_rank_zero());
    let mut grpo = Grpo { rollouts, users, reference, steps, peak_flops, last: None, alarm, halt: None };
    train_loop.run(trainable, &mut grpo, measure, output)
}

/// Returns the alarm of a run of `steps` steps. Logs a warning, if `logs`, for a run that ends before the alarm can test anything.
fn alarm_of(config: &RlConfig, steps: u64, logs: bool) -> Option<Alarm<'_>> {
    let settings = config.alarm.as_ref()?;
    let looks = AlarmConfig::looks(steps, config.validation.every as u64);
    if logs && looks < settings.window as u64 {
        tracing::warn!(
            "[alarm] tests nothing: the run has {looks} looks ({steps} steps, validation.every = {}), fewer than alarm.window ({}); \
             lower validation.every or alarm.window",
            config.validation.every,
            settings.window
        );
    }
    Some(Alarm::new(settings, looks))
}

/// A GRPO run in progress.
struct Grpo<'a> {
    rollouts: Rollouts<'a>,
    users: CurriculumSampler<'a>,
    reference: Option<Reference>,
    steps: u64,
    peak_flops: Option<f64>,
    /// The last step, until it is recorded.
    last: Option<StepResult>,
    alarm: Option<Alarm<'a>>,
    /// Why the run has to end, until the loop knows it.
    halt: Option<Halt>,
}

/// A finished step.
struct StepResult {
    /// The state of the reward before the step.
    reward_state: CompositionState,
    groups: Vec<Group>,
    advantages: StepAdvantages,
    updates: Vec<MiniBatch>,
}

impl Algorithm for Grpo<'_> {
    fn step(
        &mut self,
        trainable: &mut TrainableModel,
        optimizer: &mut Optimizer,
        step: u64,
    ) -> Result<Numbers, TrainError> {
        let begin = Instant::now();
        let config = self.rollouts.config;
        let reward_state = self.rollouts.composition.save();
        let mut costs = Costs::default();
        let (mut groups, advantages, rounds) = self.roll_out(trainable, step, &mut costs)?;
        let judges = self.rollouts.judge_stats(&trainable.context)?;
        let mut mismatch = self.compute_old_and_ref_logprobs(trainable, &mut groups, &advantages, &mut costs)?;
        let update_begin = Instant::now();
        let updates = update::update(trainable, optimizer, &groups, &advantages, config, (step, self.steps))?;
        costs.update_seconds = update_begin.elapsed().as_secs_f64();
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
        self.users.learn(&groups);
        costs.step_seconds = begin.elapsed().as_secs_f64();
        let mut metrics = metrics::of_updates(&updates);
        metrics.extend(metrics::of_mismatch(&mismatch));
        metrics.extend(metrics::of_samples(&groups, &advantages, self.rollouts.composition));
        metrics.extend(costs.of_terms());
        metrics.extend(metrics::of_judges(&judges));
        metrics.push(("epoch".into(), self.users.epochs()));
        metrics.push(("rollout_rounds".into(), rounds as f64));
        let model = &trainable.model.decoder;
        metrics.extend(metrics::of_costs(&costs, &groups, model, self.peak_flops));
        self.last = Some(StepResult { reward_state, groups, advantages, updates });
        Ok(metrics)
    }

    /// Writes the rollouts of the step, if they are due.
    fn record(&mut self, trainable: &TrainableModel, done: u64, output: &Output<'_>) -> Result<(), TrainError> {
        let config = self.rollouts.config;
        let every = config.log.rollouts_every as u64;
        let due = output.run.writes() && every > 0 && done.is_multiple_of(every);
        let Some(StepResult { reward_state, groups, advantages, updates }) = self.last.take().filter(|_| due) else {
            return Ok(());
        };
        let run = output.run.folder();
        let decode = |ids: &[u32]| Ok(trainable.model.tokenizer.decode(ids)?);
        let names = self.rollouts.composition.names();
        record::write(run, done, (&groups, &advantages), &names, decode, config.log.rollouts_max)?;
        if config.log.replay {
            let resolved = config.resolved().map_err(|e| TrainError::Data(e.to_string()))?;
            let path = record::path(run, done, "safetensors");
            replay::RecordedStep::new(done, resolved, reward_state, groups, updates).write(&path)?;
        }
        Ok(())
    }

    /// Looks at the summaries of the last step, if there is an alarm.
    fn validate(&mut self, trainable: &TrainableModel, done: u64) -> Result<Numbers, TrainError> {
        let (Some(alarm), Some(last)) = (&mut self.alarm, &self.last) else { return Ok(Numbers::new()) };
        let rollouts = &self.rollouts;
        let ask = |requests: &[PanelRequest]| rollouts.ask_on_ranks(&trainable.context, requests);
        let Some(look) = alarm::look(&last.groups, done, (alarm.config(), rollouts.config), ask)? else {
            return Ok(Numbers::new());
        };
        let (numbers, halt) = alarm.record(look, trainable.context.world.is_rank_zero());
        self.halt = halt;
        Ok(numbers)
    }

    fn halt(&mut self) -> Option<Halt> {
        self.halt.take()
    }

    fn write_state(&self, checkpoint: &Path) -> Result<(), LmError> {
        let written = self.users.write(checkpoint);
        let written = written.and_then(|()| self.alarm.as_ref().map_or(Ok(()), |alarm| alarm.write(checkpoint)));
        let written = written.and_then(|()| reward_state::write(self.rollouts.composition, checkpoint));
        written.map_err(|e| LmError::Write { path: checkpoint.into(), message: e.to_string() })
    }

    fn restore_state(&mut self, checkpoint: &Path) -> Result<(), TrainError> {
        reward_state::restore(self.rollouts.composition, checkpoint)?;
        self.alarm.as_mut().map_or(Ok(()), |alarm| alarm.restore(checkpoint))?;
        self.users.restore(checkpoint)
    }
}

impl Grpo<'_> {
    /// Rolls out the users of a step. If configured, further users replace those whose groups have zero variance. Returns the
    /// number of rounds too.
    fn roll_out(
        &mut self,
        trainable: &TrainableModel,
        step: u64,
        costs: &mut Costs,
    ) -> Result<(Vec<Group>, StepAdvantages, u64), TrainError> {
        let config = self.rollouts.config;
        let algorithm = &config.algorithm;
        let refills = algorithm.zero_variance == ZeroVariance::Refill;
        let rounds = if refills { 1 + algorithm.refill_rounds as u64 } else { 1 };
        let per_user = config.rollout.groups_per_user();
        let mut wanted = config.rollout.users_per_step.min(self.users.len()) * per_user;
        let (mut groups, mut users): (Vec<Group>, usize) = (Vec::new(), 0);
        let mut live = 0;
        for round in 0..rounds {
            let next = self.users.next((wanted - live).div_ceil(per_user), (step, round));
            let rolled_out =
                trainable.as_one(|model| self.rollouts.roll_out((model, &trainable.context), &next, (step, users)))?;
            costs.add(&rolled_out);
            let mut more = rolled_out.groups;
            for parent in more.iter_mut().filter_map(|g| g.parent.as_mut()) {
                parent.group += groups.len();
            }
            users += next.len();
            let before = groups.len();
            groups.extend(more);
            if round == 0 {
                // Less than planned if malformed summaries are not carried.
                wanted = groups.len();
            }
            if algorithm.needs_reference() && algorithm.kl.place == KlPlace::Reward {
                self.refer(trainable, &mut groups, |g, _| g >= before, costs)?;
            }
            let advantages = advantages::credit(&groups, config)?;
            live = groups.len() - advantages.num_zero_variance();
            if live >= wanted || round + 1 == rounds {
                return Ok((groups, advantages, round + 1));
            }
        }
        unreachable!("the last round returns")
    }

    /// Computes the old and reference log-probabilities of the samples that take part in the update.
    fn compute_old_and_ref_logprobs(
        &self,
        trainable: &TrainableModel,
        groups: &mut [Group],
        advantages: &StepAdvantages,
        costs: &mut Costs,
    ) -> Result<Mismatch, TrainError> {
        let algorithm = &self.rollouts.config.algorithm;
        let zero_variance = &advantages.zero_variance;
        let mut mismatch = Mismatch::default();
        if algorithm.needs_reference() && algorithm.kl.place == KlPlace::Loss {
            self.refer(trainable, groups, |g, s| is_trained(s, zero_variance[g], algorithm), costs)?;
        }
        if algorithm.old_logprobs == OldLogprobs::Recompute {
            let begin = Instant::now();
            let places = places(groups, |g, s| is_trained(s, zero_variance[g], algorithm));
            let (seen, work) = update::policy_logprobs(trainable, groups, &places, self.rollouts.config)?;
            for ((g, i), seen) in places.into_iter().zip(seen) {
                let sample = &mut groups[g].samples[i];
                mismatch.add(&seen.logprobs, &sample.rollout);
                sample.old = seen.logprobs;
            }
            costs.logprob_seconds += begin.elapsed().as_secs_f64();
            costs.logprob_tokens += work.tokens;
        }
        Ok(mismatch)
    }

    /// Computes the log-probabilities of the `wanted` samples under the reference.
    fn refer(
        &self,
        trainable: &TrainableModel,
        groups: &mut [Group],
        wanted: impl Fn(usize, &Sample) -> bool,
        costs: &mut Costs,
    ) -> Result<(), TrainError> {
        let Some(reference) = &self.reference else { return Ok(()) };
        let begin = Instant::now();
        let places = places(groups, |g, s| wanted(g, s) && !s.ids.is_empty());
        let (seen, work) = update::reference_logprobs(reference, trainable, groups, &places, self.rollouts.config)?;
        for ((g, i), seen) in places.into_iter().zip(seen) {
            groups[g].samples[i].reference = seen.logprobs;
        }
        costs.logprob_seconds += begin.elapsed().as_secs_f64();
        costs.logprob_tokens += work.tokens;
        Ok(())
    }
}

fn places(groups: &[Group], wanted: impl Fn(usize, &Sample) -> bool) -> Vec<(usize, usize)> {
    let all =
        groups.iter().enumerate().flat_map(|(g, group)| group.samples.iter().enumerate().map(move |(i, s)| (g, i, s)));
    all.filter(|(g, _, s)| wanted(*g, s)).map(|(g, i, _)| (g, i)).collect()
}
