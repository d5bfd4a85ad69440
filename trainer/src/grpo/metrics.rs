//! Metrics of a step for metrics.jsonl; docs/reinforcement.md defines each.

use std::collections::BTreeMap;

use lm::Decoder;
use rewards::{Composition, JudgeStats};

use super::advantages::StepAdvantages;
use super::group::{Group, Sample};
use super::importance_sampling::Mismatch;
use super::rollout::{PhaseTimes, RolloutOutput};
use super::update::MiniBatch;
use crate::flops::{self, ComputeWork};
use crate::memory;

type Metrics = Vec<(String, f64)>;

/// Returns the mean; NaN without values.
pub(super) fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0.0), |(sum, n), v| (sum + v, n + 1.0));
    sum / n
}

fn share(values: impl Iterator<Item = bool>) -> f64 {
    mean(values.map(|v| f64::from(u8::from(v))))
}

/// Returns the metrics of the samples, their rewards and advantages, over all stages and, with several stages, for each stage.
pub fn of_samples(groups: &[Group], advantages: &StepAdvantages, composition: &Composition) -> Metrics {
    let names = composition.names();
    let mut metrics = of_stage(groups, advantages, &names, "", |_| true);
    let stages = groups.iter().map(|g| g.stage + 1).max().unwrap_or(0);
    for stage in (0..stages).filter(|_| stages > 1) {
        let prefix = format!("stage{}/", stage + 1);
        metrics.extend(of_stage(groups, advantages, &names, &prefix, |g| g.stage == stage));
    }
    metrics
}

fn of_stage(
    groups: &[Group],
    advantages: &StepAdvantages,
    names: &[&str],
    prefix: &str,
    wanted: impl Fn(&Group) -> bool,
) -> Metrics {
    let places: Vec<(usize, usize)> = (0..groups.len())
        .filter(|&g| wanted(&groups[g]))
        .flat_map(|g| (0..groups[g].samples.len()).map(move |i| (g, i)))
        .collect();
    let samples = || places.iter().map(|&(g, i)| -> &Sample { &groups[g].samples[i] });
    let of = |rows: &[Vec<f64>]| mean(places.iter().map(|&(g, i)| rows[g][i]));
    let mut metrics = vec![("reward/total".to_owned(), mean(samples().map(|s| s.reward.total)))];
    for (i, name) in names.iter().enumerate() {
        metrics.push((format!("reward/{name}"), mean(samples().map(|s| s.reward.scores[i]))));
    }
    let judged = || samples().filter(|s| s.p_chosen.is_some()).map(|s| s.no_answer);
    let lengths = || samples().map(|s| s.ids.len() as f64);
    let prompts = groups.iter().filter(|g| wanted(g)).map(|g| g.prompt.len() as f64);
    let zero_variance = groups.iter().zip(&advantages.zero_variance).filter(|(g, _)| wanted(g)).map(|(_, zero)| *zero);
    let rest = [
        ("reward/credited", of(&advantages.rewards)),
        ("credit/carried", of(&advantages.carried)),
        ("pass_rate", share(samples().map(Sample::right))),
        ("well_formed", share(samples().map(|s| s.reward.well_formed))),
        ("no_answer", if judged().next().is_some() { mean(judged()) } else { 0.0 }),
        ("length/mean", mean(lengths())),
        ("length/max", lengths().fold(0.0, f64::max)),
        ("length/prompt", mean(prompts)),
        ("truncated", share(samples().map(|s| s.truncated))),
        ("zero_variance", share(zero_variance)),
    ];
    metrics.extend(rest.map(|(key, value)| (key.to_owned(), value)));
    metrics.into_iter().map(|(key, value)| (format!("{prefix}{key}"), value)).collect()
}

/// Returns the metrics of the updates: means over tokens, except for the loss and the gradient norm, which are means over
/// updates.
pub fn of_updates(updates: &[MiniBatch]) -> Metrics {
    let tokens: f64 = updates.iter().map(|u| u.sums.tokens).sum();
    let per_token = |of: fn(&MiniBatch) -> f64| updates.iter().map(of).sum::<f64>() / tokens;
    let most = |of: fn(&MiniBatch) -> f64| updates.iter().map(of).fold(f64::NAN, f64::max);
    let per_update = |of: fn(&MiniBatch) -> f64| mean(updates.iter().map(of));
    let first = updates.first();
    let metrics = [
        ("loss", per_update(|u| u.sums.loss)),
        ("loss/policy", per_update(|u| u.sums.policy)),
        ("entropy", per_token(|u| u.sums.entropy)),
        ("clip/high", per_token(|u| u.sums.high)),
        ("clip/low", per_token(|u| u.sums.low)),
        ("clip/dual", per_token(|u| u.sums.dual)),
        ("ratio/mean", per_token(|u| u.sums.ratio)),
        ("ratio/max", most(|u| u.sums.ratio_max)),
        // Before the first update the policy is the one that sampled, so the ratio should be 1.
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
    metrics.map(|(key, value)| (key.to_owned(), value)).into()
}

/// Returns what each judge did in a step.
pub fn of_judges(stats: &[JudgeStats]) -> Metrics {
    let of_judge = |stats: &JudgeStats| {
        let JudgeStats { judge, requests, hits, tokens, seconds, cost } = stats;
        let counts = [("requests", *requests as f64), ("hits", *hits as f64), ("tokens", *tokens as f64)];
        let all = counts.into_iter().chain([("seconds", *seconds)]).chain(cost.map(|cost| ("cost", cost)));
        all.map(|(key, value)| (format!("judge/{judge}/{key}"), value)).collect::<Metrics>()
    };
    stats.iter().flat_map(of_judge).collect()
}

/// Returns the mismatch between the numerics of rollout and training.
pub fn of_mismatch(mismatch: &Mismatch) -> Metrics {
    vec![("mismatch/kl".into(), mismatch.kl()), ("mismatch/max_ratio".into(), mismatch.max_ratio())]
}

/// Time and compute that a step takes.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    /// Seconds of sampling and judging.
    pub times: PhaseTimes,
    /// Seconds of computing log-probabilities before the update.
    pub logprob_seconds: f64,
    /// Seconds of the updates.
    pub update_seconds: f64,
    /// Seconds of the whole step.
    pub step_seconds: f64,
    /// The number of tokens whose log-probabilities were computed before the update.
    pub logprob_tokens: usize,
    /// The work of the updates.
    pub work: ComputeWork,
    /// Metrics of the reward terms: the sum over stages and rounds, and the number of values.
    pub term_metrics: BTreeMap<String, (f64, usize)>,
}

impl Costs {
    /// Adds the costs of a rollout.
    pub fn add(&mut self, output: &RolloutOutput) {
        self.times.rollout += output.times.rollout;
        self.times.judge += output.times.judge;
        for (key, value) in &output.term_metrics {
            let (sum, count) = self.term_metrics.entry(key.clone()).or_default();
            *sum += value;
            *count += 1;
        }
    }

    /// Returns the metrics of the reward terms, as means over stages and rounds.
    pub fn of_terms(&self) -> Metrics {
        self.term_metrics.iter().map(|(key, (sum, count))| (key.clone(), sum / *count as f64)).collect()
    }
}

/// Returns times, tokens and tokens per second by phase, model FLOP utilization of the updates, and memory.
pub fn of_costs(costs: &Costs, groups: &[Group], model: &Decoder, peak: Option<f64>) -> Metrics {
    let (spec, device) = (model.spec(), model.device());
    let new: usize = groups.iter().flat_map(|g| &g.samples).map(|s| s.ids.len()).sum();
    let judged = groups.iter().flat_map(|g| &g.samples).filter(|s| s.p_chosen.is_some()).count();
    let flops = flops::of(spec, costs.work);
    let metrics = [
        ("time/rollout", costs.times.rollout),
        ("time/judge", costs.times.judge),
        ("time/logprobs", costs.logprob_seconds),
        ("time/update", costs.update_seconds),
        ("time/step", costs.step_seconds),
        ("tokens/rollout", new as f64),
        ("tokens/update", costs.work.tokens as f64),
        ("judgments", judged as f64),
        ("tokens_per_second/rollout", new as f64 / costs.times.rollout),
        ("tokens_per_second/logprobs", costs.logprob_tokens as f64 / costs.logprob_seconds),
        ("tokens_per_second/update", costs.work.tokens as f64 / costs.update_seconds),
        ("judgments_per_second", judged as f64 / costs.times.judge),
        ("mfu", peak.map_or(f64::NAN, |peak| flops / costs.update_seconds / peak)),
        ("memory/peak_gib", memory::peak_gib().unwrap_or(f64::NAN)),
        ("memory/device_peak_gib", memory::device_peak_gib(device).unwrap_or(f64::NAN)),
    ];
    metrics.map(|(key, value)| (key.to_owned(), value)).into()
}
