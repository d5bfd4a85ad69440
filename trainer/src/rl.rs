//! GRPO over streaming stages: roll out, judge, credit, advantages, update.
//!
//! Streaming is not a second trainer; it is the number of stages ([`stages`]).

pub mod policy_loss;
mod record;
pub mod reward;
pub mod rollout;
pub mod stages;
pub mod update;

use std::time::Instant;

use chat::{PromptSet, RlRow};
use configs::rl::RlConfig;
use lm::{LocalModel, Params};
use rewards::{Composition, Draw, Judge};

use self::reward::Scored;
use self::rollout::Group;
use self::stages::Stage;
use crate::checkpoints::{Checkpoints, Keeping};
use crate::optimizer::{self, Optimizer};
use crate::{Output, TrainError};

/// The frozen parts of a run: who judges, in which words, for what.
#[derive(Clone, Copy)]
pub struct Setting<'a> {
    /// The judge.
    pub judge: &'a Judge<'a>,
    /// The policy's prompts.
    pub prompts: &'a PromptSet,
    /// The reward.
    pub composition: &'a Composition,
    /// Everything else.
    pub config: &'a RlConfig,
}

/// Trains `model` on `rows`.
///
/// # Errors
/// If no row is long enough for the stages, the judge fails, a file cannot be written, or the gradient is not finite
/// ten steps in a row.
pub fn train(
    model: &mut LocalModel,
    rows: &[RlRow],
    setting: Setting<'_>,
    output: &mut Output<'_>,
) -> Result<(), TrainError> {
    let config = setting.config;
    let rows = usable(rows, config.rollout.stages)?;
    let per_epoch = rows.len().div_ceil(config.rollout.people_per_step) as u64;
    let steps = match config.train.steps as u64 {
        0 => per_epoch * config.train.epochs as u64,
        steps => steps,
    };
    let params = &model.decoder.params;
    let kind = optimizer::state_kind(&config.optimizer, params.flat.kind());
    let mut grads = Params::zeros(params.spec(), kind, params.flat.device())?;
    let stretches = optimizer::stretches(params, &config.optimizer.no_decay);
    let mut optimizer = Optimizer::new(&params.flat, stretches, config.optimizer.clone())?;
    let mut checkpoints = Checkpoints::new(output.checkpoints.clone(), &config.checkpoint, None);
    for step in 0..steps {
        let people = people_of_step(&rows, config, step, per_epoch);
        let begin = Instant::now();
        let groups = rollout::roll_out(model, setting.prompts, &people, &config.rollout, (config.seed, step))?;
        let rolled_out = begin.elapsed().as_secs_f64();
        let scored = reward::score(
            &groups,
            setting.judge,
            setting.composition,
            &config.reward,
            &config.algorithm,
            config.rollout.max_new_tokens,
        )?;
        let judged = begin.elapsed().as_secs_f64();
        let (update, sums) =
            update::update(model, &groups, &scored.advantages, config, (&mut optimizer, &mut grads), (step, steps))?;
        let updated = begin.elapsed().as_secs_f64();

        let mut numbers = reward_numbers(&groups, &scored, setting.composition);
        let others = sums.means().into_iter().chain(length_numbers(&groups)).chain([
            ("zero_variance", scored.zero_variance as f64 / groups.len() as f64),
            ("grad_norm", update.grad_norm),
            ("lr", update.lr),
            ("skipped", f64::from(u8::from(update.skipped))),
            ("time/rollout", rolled_out),
            ("time/judge", judged - rolled_out),
            ("time/update", updated - judged),
        ]);
        numbers.extend(others.map(|(key, value)| (key.to_owned(), value)));
        output.step(step + 1, steps, numbers)?;
        if (step + 1).is_multiple_of(config.log.rollouts_every.max(1) as u64) {
            let people: Vec<&RlRow> = people.iter().map(|(row, _)| *row).collect();
            let decode = |ids: &[u32]| Ok(model.tokenizer.decode(ids)?);
            let names = setting.composition.names();
            let done =
                record::Step { step: step + 1, people: &people, groups: &groups, scored: &scored, names: &names };
            record::write(output.run.folder(), done, decode, config.log.rollouts_max)?;
        }
        let done = Keeping { step: step + 1, last: step + 1 == steps, numbers: &[] };
        checkpoints.after(done, |folder, _| crate::run::save(folder, model))?;
    }
    Ok(())
}

type Person<'a> = (&'a RlRow, Vec<Stage<'a>>);

fn usable(rows: &[RlRow], stages: usize) -> Result<Vec<Person<'_>>, TrainError> {
    let kept: Vec<Person<'_>> = rows.iter().filter_map(|row| Some((row, stages::cut(row, stages)?))).collect();
    if kept.is_empty() {
        return Err(TrainError::Data(format!(
            "none of the {} RL rows is long enough for {stages} stages; lower rollout.stages or give longer histories",
            rows.len()
        )));
    }
    Ok(kept)
}

/// The people of a step: each epoch visits all in an order that depends on (seed, epoch) alone; the last step of an
/// epoch is filled from the epoch's beginning.
fn people_of_step<'a>(rows: &[Person<'a>], config: &RlConfig, step: u64, per_epoch: u64) -> Vec<Person<'a>> {
    let (epoch, batch) = (step / per_epoch, step % per_epoch);
    let draw = Draw::new(config.seed).text("people").with(epoch);
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_cached_key(|&i| draw.with(i as u64).bits());
    let size = config.rollout.people_per_step.min(rows.len());
    let first = batch as usize * size;
    (first..first + size).map(|i| rows[order[i % rows.len()]].clone()).collect()
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0.0), |(sum, n), v| (sum + v, n + 1.0));
    sum / n
}

fn reward_numbers(groups: &[Group<'_>], scored: &Scored, composition: &Composition) -> Vec<(String, f64)> {
    let all = || scored.rewards.iter().flatten();
    let mut numbers = vec![("reward/total".to_owned(), mean(all().map(|r| r.total)))];
    for (i, name) in composition.names().into_iter().enumerate() {
        numbers.push((format!("reward/{name}"), mean(all().map(|r| r.scores[i]))));
    }
    let stages = groups.iter().map(|g| g.stage + 1).max().unwrap_or(0);
    for stage in 0..stages {
        let of_stage = groups.iter().zip(&scored.rewards).filter(|(g, _)| g.stage == stage);
        let totals = of_stage.flat_map(|(_, r)| r.iter().map(|r| r.total));
        numbers.push((format!("reward/stage{}", stage + 1), mean(totals)));
    }
    numbers.push(("well_formed".to_owned(), mean(all().map(|r| f64::from(u8::from(r.well_formed))))));
    let carried = scored.credited.iter().flatten().zip(all()).map(|(with, r)| with - r.total);
    numbers.push(("credit/carried".to_owned(), mean(carried)));
    numbers
}

fn length_numbers(groups: &[Group<'_>]) -> Vec<(&'static str, f64)> {
    let samples = || groups.iter().flat_map(|g| &g.samples);
    vec![
        ("length/mean", mean(samples().map(|s| s.ids.len() as f64))),
        ("length/max", samples().map(|s| s.ids.len() as f64).fold(0.0, f64::max)),
        ("length/prompt", mean(groups.iter().map(|g| g.prompt.len() as f64))),
        ("truncated", mean(samples().map(|s| f64::from(u8::from(s.truncated))))),
    ]
}
