//! The tables of the report.

use configs::ablate::Variant;
use evals::ablation::AblationResults;
use evals::crossed::{CrossedMean, Range};
use report::ReportTable;

use crate::ablate::plan::AblatePlan;
use crate::ablate::results::{Cost, MeasuredCost, RunCost};

const INTERVALS: &str = "Intervals are 95 %: over users for these seeds, over seeds for these users, and over both.";

fn table(title: &str, note: &str, header: &[&str], rows: Vec<Vec<String>>) -> ReportTable {
    let header = header.iter().map(ToString::to_string).collect();
    ReportTable { title: title.into(), note: note.into(), header, rows }
}

/// Formats a difference of shares in percentage points, with its sign.
pub(super) fn points(share: f64) -> String {
    // Adding 0 makes −0 positive.
    format!("{:+.1}", (1000.0 * share).round() / 10.0 + 0.0).replace('-', "−")
}

/// Formats a p-value.
pub(super) fn p_value(p: f64) -> String {
    if p < 0.001 { "p < 0.001".into() } else { format!("p = {p:.3}") }
}

fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

fn range(range: Option<Range>, format: fn(f64) -> String) -> String {
    range.map_or_else(|| "–".into(), |Range { low, high }| format!("{} to {}", format(low), format(high)))
}

/// Returns the cells of a mean and its three intervals.
fn cells(mean: &CrossedMean, format: fn(f64) -> String) -> [String; 4] {
    let CrossedMean { over_users, over_seeds, over_both, .. } = mean;
    [format(mean.mean), range(*over_users, format), range(*over_seeds, format), range(*over_both, format)]
}

fn judge(name: &str, held_out: bool) -> String {
    format!("{name} ({})", if held_out { "held out" } else { "training" })
}

pub(super) fn variants(plan: &AblatePlan) -> ReportTable {
    let row = |Variant { name, set, .. }: &Variant| {
        vec![name.clone(), if set.is_empty() { "the base".into() } else { set.join(", ") }]
    };
    let note = "Each variant differs from the base in these settings only.";
    table("Variants", note, &["variant", "settings"], plan.variants.iter().map(row).collect())
}

pub(super) fn accuracies(results: &AblationResults) -> ReportTable {
    let row = |row: &evals::ablation::AccuracyRow| {
        let place = [row.setting.to_string(), row.targets.to_string(), judge(&row.judge, row.held_out)];
        [&[row.variant.clone()][..], &place, &cells(&row.accuracy, percent)].concat()
    };
    let header = ["variant", "setting", "targets", "judge", "accuracy, %", "over users", "over seeds", "over both"];
    table("Accuracy", INTERVALS, &header, results.accuracies.iter().map(row).collect())
}

pub(super) fn differences(results: &AblationResults) -> ReportTable {
    let row = |row: &evals::ablation::DifferenceRow| {
        let compared = format!("{} − {}", row.variant, row.baseline);
        let place = [row.setting.to_string(), row.targets.to_string(), judge(&row.judge, row.held_out)];
        let p = [row.difference.p, row.p_holm].map(|p| p.map_or_else(|| "–".into(), |p| format!("{p:.4}")));
        [&[compared][..], &place, &cells(&row.difference, points), &p].concat()
    };
    let note = format!(
        "In percentage points, paired by user and seed. {INTERVALS} Holm's correction is for all rows of this table together."
    );
    let header = [
        "difference",
        "setting",
        "targets",
        "judge",
        "points",
        "over users",
        "over seeds",
        "over both",
        "p",
        "p (Holm)",
    ];
    table("Differences", &note, &header, results.differences.iter().map(row).collect())
}

pub(super) fn hacking(results: &AblationResults) -> ReportTable {
    let row = |row: &evals::ablation::HackingRow| {
        let of = |mean: &CrossedMean| format!("{} [{}]", points(mean.mean), range(mean.over_both, points));
        let sign = if row.sign { "yes" } else { "no" }.to_owned();
        vec![
            row.variant.clone(),
            row.setting.to_string(),
            row.targets.to_string(),
            of(&row.training),
            of(&row.held_out),
            of(&row.divergence),
            sign,
        ]
    };
    let note = "Gains over the model before the training, in points with 95 % intervals over seeds and users. A sign of reward hacking: \
                the training judges' gain and its excess over the held-out judges' are above 0, and the held-out judges' is not.";
    let header =
        ["variant", "setting", "targets", "training judges", "held-out judges", "difference of the gains", "sign"];
    table("Reward hacking", note, &header, results.hacking.iter().map(row).collect())
}

/// Groups costs by variant, in order.
fn by_variant<T>(costs: &[RunCost<T>]) -> Vec<(&str, Vec<&T>)> {
    let mut groups: Vec<(&str, Vec<&T>)> = Vec::new();
    for RunCost { variant, cost, .. } in costs {
        match groups.iter_mut().find(|(name, _)| name == variant) {
            Some((_, all)) => all.push(cost),
            None => groups.push((variant.as_str(), vec![cost])),
        }
    }
    groups
}

fn mean<T>(all: &[&T], of: impl Fn(&T) -> f64) -> f64 {
    all.iter().map(|cost| of(cost)).sum::<f64>() / all.len() as f64
}

pub(super) fn costs(costs: &[RunCost<Cost>]) -> ReportTable {
    let row = |(name, all): (&str, Vec<&Cost>)| {
        vec![
            name.to_owned(),
            format!("{:.0}", mean(&all, |cost| cost.generated_tokens as f64)),
            format!("{:.0}", mean(&all, |cost| cost.trained_tokens as f64)),
            format!("{:.0}", mean(&all, |cost| cost.judged_responses as f64)),
            format!("{:.0}", mean(&all, |cost| cost.judge_requests as f64)),
            format!("{:.3}", mean(&all, |cost| cost.first_reward)),
            format!("{:.3}", mean(&all, |cost| cost.last_reward)),
        ]
    };
    let note = "Of the training, as means over seeds. Rewards are means over the first and the last tenth of the steps; variants with \
                other terms have other scales.";
    let header = [
        "variant",
        "generated tokens",
        "trained tokens",
        "judged responses",
        "judge requests",
        "reward at first",
        "reward at last",
    ];
    table("Cost", note, &header, by_variant(costs).into_iter().map(row).collect())
}

pub(super) fn times(measured: &[RunCost<MeasuredCost>]) -> ReportTable {
    let row = |(name, all): (&str, Vec<&MeasuredCost>)| {
        let parts: [fn(&MeasuredCost) -> f64; 5] =
            [|s| s.training, |s| s.rollout, |s| s.judge, |s| s.update, |s| s.evaluation];
        let means = parts.map(|part| format!("{:.1}", mean(&all, part)));
        let tokens = format!("{:.0}", mean(&all, |cost| cost.judge_tokens as f64));
        let priced = all.iter().any(|cost| cost.judge_cost.is_some());
        let cost = || format!("{:.4}", mean(&all, |cost| cost.judge_cost.unwrap_or(0.0)));
        [&[name.to_owned()][..], &means, &[tokens, if priced { cost() } else { "–".into() }]].concat()
    };
    let header = ["variant", "training", "rollout", "judge", "update", "evaluation", "judge tokens", "judge cost"];
    let note = "Seconds, and tokens and cost (by the configured prices) of the judges in training, which known verdicts save; means over \
                seeds. Of a training that was resumed, the steps that were repeated count once.";
    table("Time", note, &header, by_variant(measured).into_iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_with_their_sign() {
        assert_eq!([0.0526, -0.018, -0.0001, 0.0].map(points), ["+5.3", "−1.8", "+0.0", "+0.0"]);
        assert_eq!([0.0004, 0.0126].map(p_value), ["p < 0.001", "p = 0.013"]);
    }

    #[test]
    fn costs_are_means_over_the_seeds_of_a_variant() {
        let cost = |variant: &str, seed, generated_tokens| {
            let cost = Cost { generated_tokens, last_reward: 0.5, ..Cost::default() };
            RunCost { variant: variant.into(), seed, cost }
        };
        let table = costs(&[cost("a", 0, 100), cost("a", 1, 300), cost("b", 0, 7)]);
        assert_eq!(table.rows[0][..2], ["a", "200"]);
        assert_eq!(table.rows[1], ["b", "7", "0", "0", "0", "0.000", "0.500"]);
    }

    #[test]
    fn judges_without_prices_have_no_cost() {
        let measured = |variant: &str, judge_cost| {
            let cost = MeasuredCost { training: 2.0, judge_tokens: 40, judge_cost, ..MeasuredCost::default() };
            RunCost { variant: variant.into(), seed: 0, cost }
        };
        let table = times(&[measured("a", None), measured("b", Some(0.25))]);
        assert_eq!(table.rows[0], ["a", "2.0", "0.0", "0.0", "0.0", "0.0", "40", "–"]);
        assert_eq!(table.rows[1][6..], ["40", "0.2500"]);
    }
}
