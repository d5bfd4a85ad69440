//! What the runs of an ablation left: scores, costs and logs.

use std::fs;
use std::path::Path;

use evals::UserScore;
use evals::ablation::{AblationResults, Comparison, RunScores, compare};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};

use super::plan::{AblatePlan, POLICY, PlannedRun};
use super::state;
use crate::error::Error;
use crate::eval::USER_SCORES;

/// What a run cost, in units that two equal runs share.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Tokens that the policy generated in training.
    pub generated_tokens: u64,
    /// Tokens of the policy updates.
    pub trained_tokens: u64,
    /// Responses that were judged in training.
    pub judged_responses: u64,
    /// Questions to the judges in training. Those whose verdict was known count too.
    pub judge_requests: u64,
    /// Mean reward over the first tenth of the steps.
    pub first_reward: f64,
    /// Mean reward over the last tenth of the steps.
    pub last_reward: f64,
}

/// Seconds of a run, and what its judges processed, which depends on the verdicts that were known.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MeasuredCost {
    /// All steps.
    pub training: f64,
    /// The part of `training` that generated responses.
    pub rollout: f64,
    /// The part of `training` that judged them.
    pub judge: f64,
    /// The part of `training` that updated the policy.
    pub update: f64,
    /// The evaluation.
    pub evaluation: f64,
    /// Tokens that the judges processed in training.
    pub judge_tokens: u64,
    /// Cost of the judges in training by their prices; `None` if none has prices.
    pub judge_cost: Option<f64>,
}

/// The cost of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunCost<T> {
    /// The name of the variant.
    pub variant: String,
    /// The seed.
    pub seed: u64,
    /// The cost.
    #[serde(flatten)]
    pub cost: T,
}

/// The results of the finished runs.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    /// The comparison of the variants.
    pub results: AblationResults,
    /// The costs of the trained runs.
    pub costs: Vec<RunCost<Cost>>,
    /// What differs between two equal runs: durations, also of the evaluations, and what the judges processed.
    pub measured: Vec<RunCost<MeasuredCost>>,
    /// Labels of the runs that are not finished.
    pub unfinished: Vec<String>,
}

/// Reads what the finished runs left, and compares the variants.
///
/// # Errors
/// Returns an error if a file of a finished run cannot be read.
pub fn collect(plan: &AblatePlan) -> Result<Collected, Error> {
    let mut collected = Collected::default();
    let mut scores = Vec::new();
    for run in in_report_order(plan) {
        let Some(marker) = state::finished(run)? else {
            collected.unfinished.push(run.label());
            continue;
        };
        scores.push(scores_of(run)?);
        let (variant, seed) = (run.variant.clone(), run.seed);
        let mut measured = MeasuredCost::default();
        if let Some(rl) = &run.rl {
            let steps = lines::<Map<String, Json>>(&run.metrics())?;
            let steps: Vec<_> =
                steps.into_iter().filter(|line| line.get("phase").and_then(Json::as_str) == Some("rl")).collect();
            let cost = cost(&steps, rl.train.steps);
            collected.costs.push(RunCost { variant: variant.clone(), seed, cost });
            measured = measured_cost(&steps);
        }
        measured.evaluation = marker.eval_seconds;
        collected.measured.push(RunCost { variant, seed, cost: measured });
    }
    let by = Comparison {
        baseline: &plan.variants[plan.baseline].name,
        start: configs::ablate::START,
        training_judges: &plan.config.training_judges,
    };
    collected.results = compare(&scores, by);
    Ok(collected)
}

/// Returns the runs by variant, the model before the training first.
fn in_report_order(plan: &AblatePlan) -> impl Iterator<Item = &PlannedRun> {
    let names = plan.names();
    let (variants, start) = names.split_at(plan.variants.len());
    let ordered = [start, variants].concat();
    ordered.into_iter().flat_map(move |name| plan.runs.iter().filter(move |run| run.variant == name))
}

/// Reads the scores of the model of a run.
fn scores_of(run: &PlannedRun) -> Result<RunScores, Error> {
    let mut scores: Vec<UserScore> = lines(&run.eval.folder().join(USER_SCORES))?;
    scores.retain(|score| score.model == POLICY);
    Ok(RunScores { variant: run.variant.clone(), seed: run.seed, scores })
}

fn lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, Error> {
    let text = fs::read_to_string(path).map_err(|e| Error::data(format!("{}: {e}", path.display())))?;
    let parse = |(index, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| Error::data(format!("{}:{}: {e}", path.display(), index + 1)))
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(parse).collect()
}

/// Returns a metric of a step; 0 if it was not measured.
fn number(step: &Map<String, Json>, key: &str) -> f64 {
    step.get(key).and_then(Json::as_f64).unwrap_or(0.0)
}

fn sum(lines: &[Map<String, Json>], key: &str) -> f64 {
    lines.iter().map(|step| number(step, key)).sum()
}

/// Returns the sum of a metric over steps and judges; `None` if no step has it.
fn sum_of_judges(lines: &[Map<String, Json>], metric: &str) -> Option<f64> {
    let is_wanted = |key: &str| {
        let of_judge = key.strip_prefix("judge/").and_then(|rest| rest.rsplit_once('/'));
        of_judge.is_some_and(|(_, last)| last == metric)
    };
    let values = lines.iter().flatten().filter(|(key, _)| is_wanted(key)).filter_map(|(_, value)| value.as_f64());
    values.reduce(|sum, value| sum + value)
}

fn measured_cost(lines: &[Map<String, Json>]) -> MeasuredCost {
    MeasuredCost {
        training: sum(lines, "time/step"),
        rollout: sum(lines, "time/rollout"),
        judge: sum(lines, "time/judge"),
        update: sum(lines, "time/update"),
        evaluation: 0.0,
        judge_tokens: sum_of_judges(lines, "tokens").unwrap_or(0.0) as u64,
        judge_cost: sum_of_judges(lines, "cost"),
    }
}

fn cost(lines: &[Map<String, Json>], steps: usize) -> Cost {
    // A line before the first step has a validation only.
    let rewards: Vec<f64> = lines.iter().filter_map(|step| step.get("reward/total")?.as_f64()).collect();
    let tenth = (steps / 10).max(1).min(rewards.len());
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    Cost {
        generated_tokens: sum(lines, "tokens/rollout") as u64,
        trained_tokens: sum(lines, "tokens/update") as u64,
        judged_responses: sum(lines, "judgments") as u64,
        judge_requests: sum_of_judges(lines, "requests").unwrap_or(0.0) as u64,
        first_reward: mean(&rewards[..tenth]),
        last_reward: mean(&rewards[rewards.len() - tenth..]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counts_are_sums_over_steps_and_judges_whatever_the_time_and_the_known_verdicts() {
        let log = |time: f64, tokens: u32| -> Vec<Map<String, Json>> {
            let step = |index: u32| {
                let line = json!({
                    "time/rollout": time, "tokens/rollout": 1000 + index, "tokens/update": 7, "judgments": 4.0,
                    "judge/near/requests": 8, "judge/far/requests": 2, "judge/near/tokens": tokens, "judge/far/tokens": 5,
                    "judge/far/cost": 0.5, "reward/total": f64::from(index) / 10.0,
                });
                line.as_object().unwrap().clone()
            };
            (0..20).map(step).collect()
        };
        let found = cost(&log(0.37, 10), 20);
        assert_eq!(found, cost(&log(0.1, 0), 20));
        let counts = (found.generated_tokens, found.trained_tokens, found.judged_responses, found.judge_requests);
        assert_eq!(counts, (20_190, 140, 80, 200));
        assert!((found.first_reward - 0.05).abs() < 1e-12 && (found.last_reward - 1.85).abs() < 1e-12, "{found:?}");
        assert_eq!(cost(&[], 20), Cost::default());
        let measured = measured_cost(&log(0.5, 10));
        assert_eq!((measured.rollout, measured.judge_tokens, measured.judge_cost), (10.0, 300, Some(10.0)));
        assert_eq!(measured_cost(&[]), MeasuredCost::default());
    }
}
