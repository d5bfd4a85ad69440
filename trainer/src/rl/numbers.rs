//! The numbers of a step for metrics.jsonl; docs/reinforcement.md says what each is.

use lm::Decoder;
use rewards::Composition;

use super::correction::Mismatch;
use super::credited::Credited;
use super::rollout::{Group, Sample, Spent};
use super::update::MiniBatch;
use crate::flops::{self, Work};
use crate::memory;

type Numbers = Vec<(String, f64)>;

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0.0), |(sum, n), v| (sum + v, n + 1.0));
    sum / n
}

fn share(values: impl Iterator<Item = bool>) -> f64 {
    mean(values.map(|v| f64::from(u8::from(v))))
}

/// What was sampled and what it is worth, over all stages and, where there are several, of each.
pub fn of_samples(groups: &[Group], credited: &Credited, composition: &Composition) -> Numbers {
    let names = composition.names();
    let mut numbers = of_stage(groups, credited, &names, "", |_| true);
    let stages = groups.iter().map(|g| g.stage + 1).max().unwrap_or(0);
    for stage in (0..stages).filter(|_| stages > 1) {
        let prefix = format!("stage{}/", stage + 1);
        numbers.extend(of_stage(groups, credited, &names, &prefix, |g| g.stage == stage));
    }
    numbers
}

fn of_stage(
    groups: &[Group],
    credited: &Credited,
    names: &[&str],
    prefix: &str,
    wanted: impl Fn(&Group) -> bool,
) -> Numbers {
    let places: Vec<(usize, usize)> = (0..groups.len())
        .filter(|&g| wanted(&groups[g]))
        .flat_map(|g| (0..groups[g].samples.len()).map(move |i| (g, i)))
        .collect();
    let samples = || places.iter().map(|&(g, i)| -> &Sample { &groups[g].samples[i] });
    let of = |rows: &[Vec<f64>]| mean(places.iter().map(|&(g, i)| rows[g][i]));
    let mut numbers = vec![("reward/total".to_owned(), mean(samples().map(|s| s.reward.total)))];
    for (i, name) in names.iter().enumerate() {
        numbers.push((format!("reward/{name}"), mean(samples().map(|s| s.reward.scores[i]))));
    }
    let lengths = || samples().map(|s| s.ids.len() as f64);
    let prompts = groups.iter().filter(|g| wanted(g)).map(|g| g.prompt.len() as f64);
    let flat = groups.iter().zip(&credited.flat).filter(|(g, _)| wanted(g)).map(|(_, flat)| *flat);
    let rest = [
        ("reward/credited", of(&credited.rewards)),
        ("credit/carried", of(&credited.carried)),
        ("pass_rate", share(samples().map(Sample::right))),
        ("well_formed", share(samples().map(|s| s.reward.well_formed))),
        ("length/mean", mean(lengths())),
        ("length/max", lengths().fold(0.0, f64::max)),
        ("length/prompt", mean(prompts)),
        ("truncated", share(samples().map(|s| s.truncated))),
        ("zero_variance", share(flat)),
    ];
    numbers.extend(rest.map(|(key, value)| (key.to_owned(), value)));
    numbers.into_iter().map(|(key, value)| (format!("{prefix}{key}"), value)).collect()
}

/// What the updates did. Means over tokens, but for the loss and the norm, which are means over updates.
pub fn of_updates(updates: &[MiniBatch]) -> Numbers {
    let tokens: f64 = updates.iter().map(|u| u.sums.tokens).sum();
    let per_token = |of: fn(&MiniBatch) -> f64| updates.iter().map(of).sum::<f64>() / tokens;
    let most = |of: fn(&MiniBatch) -> f64| updates.iter().map(of).fold(f64::NAN, f64::max);
    let per_update = |of: fn(&MiniBatch) -> f64| mean(updates.iter().map(of));
    let first = updates.first();
    let numbers = [
        ("loss", per_update(|u| u.sums.loss)),
        ("loss/policy", per_update(|u| u.sums.policy)),
        ("entropy", per_token(|u| u.sums.entropy)),
        ("clip/high", per_token(|u| u.sums.high)),
        ("clip/low", per_token(|u| u.sums.low)),
        ("clip/dual", per_token(|u| u.sums.dual)),
        ("ratio/mean", per_token(|u| u.sums.ratio)),
        ("ratio/max", most(|u| u.sums.ratio_max)),
        // Before the first update the policy is the one that sampled: the ratio should be 1.
        ("ratio/first_error", first.map_or(f64::NAN, |u| u.sums.ratio_error)),
        ("kl/old", per_token(|u| u.sums.kl_old)),
        ("kl/reference", per_token(|u| u.sums.kl_reference)),
        ("correction/mean", per_token(|u| u.sums.correction)),
        ("grad_norm", per_update(|u| u.update.grad_norm)),
        ("grad_norm/max", most(|u| u.update.grad_norm)),
        ("lr", updates.last().map_or(f64::NAN, |u| u.update.lr)),
        ("updates", updates.len() as f64),
        ("skipped", updates.iter().filter(|u| u.update.skipped).count() as f64),
        ("responses/updated", updates.iter().map(|u| u.places.len() as f64).sum()),
    ];
    numbers.map(|(key, value)| (key.to_owned(), value)).into()
}

/// How far rollout and training numerics are apart.
pub fn of_mismatch(mismatch: &Mismatch) -> Numbers {
    vec![("mismatch/kl".into(), mismatch.kl()), ("mismatch/max_ratio".into(), mismatch.max_ratio())]
}

/// What a step cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Costs {
    /// Seconds of sampling and judging.
    pub spent: Spent,
    /// Seconds of log-probabilities before the update.
    pub looking: f64,
    /// Seconds of updates.
    pub updating: f64,
    /// Seconds of the whole step.
    pub step: f64,
    /// Tokens that were looked at before the update.
    pub looked: usize,
    /// What the updates computed.
    pub work: Work,
}

/// Times, tokens a second by phase, model FLOP utilisation of the updates, and memory.
pub fn of_costs(costs: &Costs, groups: &[Group], model: &Decoder, peak: Option<f64>) -> Numbers {
    let (spec, device) = (model.spec(), model.device());
    let new: usize = groups.iter().flat_map(|g| &g.samples).map(|s| s.ids.len()).sum();
    let judged = groups.iter().flat_map(|g| &g.samples).filter(|s| s.p_chosen.is_some()).count();
    let flops = flops::of(spec, costs.work);
    let numbers = [
        ("time/rollout", costs.spent.rollout),
        ("time/judge", costs.spent.judge),
        ("time/logprobs", costs.looking),
        ("time/update", costs.updating),
        ("time/step", costs.step),
        ("tokens_per_second/rollout", new as f64 / costs.spent.rollout),
        ("tokens_per_second/logprobs", costs.looked as f64 / costs.looking),
        ("tokens_per_second/update", costs.work.tokens as f64 / costs.updating),
        ("judgements_per_second", judged as f64 / costs.spent.judge),
        ("mfu", peak.map_or(f64::NAN, |peak| flops / costs.updating / peak)),
        ("memory/peak_gib", memory::peak_gib().unwrap_or(f64::NAN)),
        ("memory/device_peak_gib", memory::device_peak_gib(device).unwrap_or(f64::NAN)),
    ];
    numbers.map(|(key, value)| (key.to_owned(), value)).into()
}
