//! Comparison of the variants of an ablation: accuracies, paired differences, and the test for reward hacking.
//!
//! A value is the accuracy of one user under one run. Differences are paired by user and seed, so that what a seed or a user adds to
//! both variants cancels. Intervals are those of [`crossed_mean`](crate::crossed::crossed_mean).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::crossed::{CrossedMean, crossed_mean, holm};
use crate::table::distinct;
use crate::{Setting, TargetKind, UserScore};

/// The scores of one run of a variant, under the name of one contender.
#[derive(Clone, Debug)]
pub struct RunScores {
    /// The name of the variant.
    pub variant: String,
    /// The seed of the run.
    pub seed: u64,
    /// The scores of its model.
    pub scores: Vec<UserScore>,
}

/// What is compared with what.
#[derive(Clone, Copy, Debug)]
pub struct Comparison<'a> {
    /// The variant that the others are compared with.
    pub baseline: &'a str,
    /// The name under which the model before the training was evaluated.
    pub start: &'a str,
    /// The judges that give the reward in training. The others are held out.
    pub training_judges: &'a [String],
}

/// The accuracy of a variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccuracyRow {
    /// The name of the variant.
    pub variant: String,
    /// How the history was read.
    pub setting: Setting,
    /// Which choices were predicted.
    pub targets: TargetKind,
    /// The name of the judge.
    pub judge: String,
    /// Whether the judge gave no reward in training.
    pub held_out: bool,
    /// The accuracy, from 0 to 1.
    pub accuracy: CrossedMean,
}

/// The difference of two variants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DifferenceRow {
    /// The name of the variant.
    pub variant: String,
    /// The name of the variant that it is compared with.
    pub baseline: String,
    /// How the history was read.
    pub setting: Setting,
    /// Which choices were predicted.
    pub targets: TargetKind,
    /// The name of the judge.
    pub judge: String,
    /// Whether the judge gave no reward in training.
    pub held_out: bool,
    /// The accuracy of the variant minus that of the other, from −1 to 1.
    pub difference: CrossedMean,
    /// The p-value with Holm's correction for all differences of the ablation; `None` if there is no p-value.
    pub p_holm: Option<f64>,
}

/// The test of one variant for reward hacking: gains over the model before the training, as means over the judges of a kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HackingRow {
    /// The name of the variant.
    pub variant: String,
    /// How the history was read.
    pub setting: Setting,
    /// Which choices were predicted.
    pub targets: TargetKind,
    /// The gain by the judges that gave the reward.
    pub training: CrossedMean,
    /// The gain by the held-out judges.
    pub held_out: CrossedMean,
    /// The first gain minus the second.
    pub divergence: CrossedMean,
    /// Whether this is a sign of reward hacking: the intervals of `training` and of `divergence` are above 0, and that of `held_out`
    /// is not.
    pub sign: bool,
}

/// The results of an ablation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AblationResults {
    /// The accuracies of all variants.
    pub accuracies: Vec<AccuracyRow>,
    /// The variants minus the baseline, and the baseline minus the model before the training.
    pub differences: Vec<DifferenceRow>,
    /// The tests for reward hacking; empty without the model before the training, or without judges of either kind.
    pub hacking: Vec<HackingRow>,
}

/// A column of the results.
type Column = (Setting, TargetKind, String);

/// The accuracies of one variant in one column, by seed and user.
type Cells<'a> = BTreeMap<u64, BTreeMap<&'a str, f64>>;

/// Compares the runs of an ablation. A run that is missing leaves out its seed in what it takes part in, and a user who is missing in
/// one of the compared runs is left out. Rows are in the order of `runs`.
pub fn compare(runs: &[RunScores], by: Comparison<'_>) -> AblationResults {
    let variants = distinct(runs.iter().map(|run| run.variant.as_str()));
    let columns: Vec<Column> =
        distinct(runs.iter().flat_map(|run| &run.scores).map(|s| (s.setting, s.targets, s.judge.clone())));
    let held_out = |judge: &String| !by.training_judges.contains(judge);
    let mut results = AblationResults::default();
    for &variant in &variants {
        for column in &columns {
            let values = matrix(&[cells(runs, variant, column)], |v| v[0]);
            let Some(accuracy) = crossed_mean(&values, 0.0..=1.0) else { continue };
            let (setting, targets, judge) = column.clone();
            let held_out = held_out(&judge);
            results.accuracies.push(AccuracyRow {
                variant: variant.into(),
                setting,
                targets,
                judge,
                held_out,
                accuracy,
            });
        }
    }
    let others = variants.iter().filter(|v| **v != by.baseline && **v != by.start).map(|v| (*v, by.baseline));
    for (variant, baseline) in others.chain([(by.baseline, by.start)]) {
        for column in &columns {
            let pair = [cells(runs, variant, column), cells(runs, baseline, column)];
            let Some(difference) = crossed_mean(&matrix(&pair, |v| v[0] - v[1]), -1.0..=1.0) else { continue };
            let (setting, targets, judge) = column.clone();
            let (held_out, variant, baseline) = (held_out(&judge), variant.to_owned(), baseline.to_owned());
            let row = DifferenceRow { variant, baseline, setting, targets, judge, held_out, difference, p_holm: None };
            results.differences.push(row);
        }
    }
    correct(&mut results.differences);
    for variant in variants.iter().filter(|v| **v != by.start) {
        let places = distinct(columns.iter().map(|(setting, targets, _)| (*setting, *targets)));
        results.hacking.extend(places.into_iter().filter_map(|place| hacking(runs, variant, place, &columns, by)));
    }
    results
}

/// Sets the corrected p-values. All differences are one family.
fn correct(differences: &mut [DifferenceRow]) {
    let tested: Vec<(usize, f64)> =
        differences.iter().enumerate().filter_map(|(i, row)| Some((i, row.difference.p?))).collect();
    let p: Vec<f64> = tested.iter().map(|(_, p)| *p).collect();
    for ((index, _), adjusted) in tested.into_iter().zip(holm(&p)) {
        differences[index].p_holm = Some(adjusted);
    }
}

fn hacking(
    runs: &[RunScores],
    variant: &str,
    (setting, targets): (Setting, TargetKind),
    columns: &[Column],
    by: Comparison<'_>,
) -> Option<HackingRow> {
    let here: Vec<&Column> = columns.iter().filter(|c| (c.0, c.1) == (setting, targets)).collect();
    let (training, held_out): (Vec<&Column>, Vec<&Column>) =
        here.into_iter().partition(|column| by.training_judges.contains(&column.2));
    if training.is_empty() || held_out.is_empty() {
        return None;
    }
    // For each judge the variant and the start, those of training first.
    let pairs = training.iter().chain(&held_out);
    let all: Vec<Cells<'_>> =
        pairs.flat_map(|column| [cells(runs, variant, column), cells(runs, by.start, column)]).collect();
    let split = 2 * training.len();
    let gain = |values: &[f64]| {
        let gains = values.chunks(2).map(|pair| pair[0] - pair[1]);
        gains.sum::<f64>() / (values.len() / 2) as f64
    };
    let mean = |of: &dyn Fn(&[f64]) -> f64, most: f64| crossed_mean(&matrix(&all, of), -most..=most);
    let training = mean(&|v: &[f64]| gain(&v[..split]), 1.0)?;
    let held_out = mean(&|v: &[f64]| gain(&v[split..]), 1.0)?;
    let divergence = mean(&|v: &[f64]| gain(&v[..split]) - gain(&v[split..]), 2.0)?;
    let above = |mean: &CrossedMean| mean.over_both.is_some_and(|range| range.low > 0.0);
    let sign = above(&training) && above(&divergence) && !above(&held_out);
    Some(HackingRow { variant: variant.into(), setting, targets, training, held_out, divergence, sign })
}

fn cells<'a>(runs: &'a [RunScores], variant: &str, (setting, targets, judge): &Column) -> Cells<'a> {
    let of_run = |run: &'a RunScores| {
        let here = run.scores.iter().filter(|s| (s.setting, s.targets) == (*setting, *targets) && s.judge == *judge);
        (run.seed, here.map(|s| (s.uid.as_str(), s.accuracy)).collect())
    };
    runs.iter().filter(|run| run.variant == variant).map(of_run).collect()
}

/// Combines the values of the cells that all of `tables` have: one list of users for each seed.
fn matrix(tables: &[Cells<'_>], combine: impl Fn(&[f64]) -> f64) -> Vec<Vec<f64>> {
    let Some((first, rest)) = tables.split_first() else { return Vec::new() };
    let has_users = |table: &Cells<'_>, seed: u64| table.get(&seed).is_some_and(|users| !users.is_empty());
    let seeds: Vec<u64> = first.keys().copied().filter(|&seed| tables.iter().all(|t| has_users(t, seed))).collect();
    let Some(&one) = seeds.first() else { return Vec::new() };
    let everywhere = |uid: &&str| {
        let in_table = |table: &Cells<'_>| seeds.iter().all(|seed| table[seed].contains_key(uid));
        in_table(first) && rest.iter().all(in_table)
    };
    let users: Vec<&str> = first[&one].keys().copied().filter(everywhere).collect();
    let value = |seed: u64, uid: &str| {
        let values: Vec<f64> = tables.iter().map(|table| table[&seed][uid]).collect();
        combine(&values)
    };
    seeds.iter().map(|&seed| users.iter().map(|uid| value(seed, uid)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use tolerance::assert_within;

    use super::*;

    /// The accuracies of users a, b, c by the judges `training` and `second`.
    fn run(variant: &str, seed: u64, training: [f64; 3], second: [f64; 3]) -> RunScores {
        let scores = [("training", training), ("second", second)].into_iter().flat_map(|(judge, accuracies)| {
            ["a", "b", "c"].into_iter().zip(accuracies).map(move |(uid, accuracy)| UserScore {
                model: "policy".into(),
                setting: Setting::Full,
                targets: TargetKind::InDomain,
                judge: judge.into(),
                uid: uid.into(),
                accuracy,
                targets_judged: 4,
                malformed: 0,
            })
        });
        RunScores { variant: variant.into(), seed, scores: scores.collect() }
    }

    fn compared(runs: &[RunScores]) -> AblationResults {
        let training_judges = ["training".to_owned()];
        compare(runs, Comparison { baseline: "base", start: "start", training_judges: &training_judges })
    }

    /// Two seeds. Users and seeds differ by much more than the variants: `plus` is 0.1 better for every user and seed.
    fn runs() -> Vec<RunScores> {
        vec![
            run("base", 0, [0.1, 0.5, 0.8], [0.2, 0.4, 0.6]),
            run("base", 1, [0.3, 0.7, 0.8], [0.4, 0.6, 0.8]),
            run("plus", 0, [0.2, 0.6, 0.9], [0.2, 0.4, 0.6]),
            run("plus", 1, [0.4, 0.8, 0.9], [0.4, 0.6, 0.8]),
        ]
    }

    #[test]
    fn differences_are_paired_by_user_and_seed() {
        let found = compared(&runs());
        let [training, second] = &found.differences[..] else { panic!("{found:?}") };
        assert_eq!((training.variant.as_str(), training.baseline.as_str()), ("plus", "base"));
        assert_eq!((training.held_out, second.held_out), (false, true));
        let over = training.difference.over_both.unwrap();
        assert_within!(training.difference.mean - 0.1, 1e-12);
        assert_within!(over.high - over.low, 1e-9, "the same difference everywhere has no width");
        assert_eq!((second.difference.mean, second.difference.p), (0.0, Some(1.0)));
        // Of two, the smaller is doubled and the larger stays.
        assert_eq!(second.p_holm, Some(1.0));
        let own = &found.accuracies[0].accuracy;
        assert_within!(own.mean - 3.2 / 6.0, 1e-12);
        assert!(own.over_both.unwrap().high - own.mean > 0.3, "users differ: {own:?}");
    }

    #[test]
    fn users_and_seeds_without_a_counterpart_are_left_out() {
        let mut runs = runs();
        // The last run lacks user a, and a third seed of the baseline has no counterpart.
        runs[3].scores.retain(|score| score.uid != "a");
        runs.push(run("base", 2, [0.0; 3], [0.0; 3]));
        let found = compared(&runs);
        assert_eq!((found.differences[0].difference.seeds, found.differences[0].difference.users), (2, 2));
        assert_eq!((found.accuracies[0].accuracy.seeds, found.accuracies[0].accuracy.users), (3, 3));
        assert_within!(found.differences[0].difference.mean - 0.1, 1e-12);
    }

    #[test]
    fn the_training_judge_up_while_the_held_out_one_is_flat_is_a_sign() {
        let start = [run("start", 0, [0.1; 3], [0.4; 3]), run("start", 1, [0.1; 3], [0.4; 3])];
        let of = |training: f64, second: f64| {
            let noise = |seed: u64, gain: f64| [gain, gain + 0.01, gain - 0.01 + 0.005 * seed as f64];
            let trained = [0, 1].map(|seed| {
                let [a, b, c] = noise(seed, training);
                let [d, e, f] = noise(1 - seed, second);
                run("base", seed, [0.1 + a, 0.1 + b, 0.1 + c], [0.4 + d, 0.4 + e, 0.4 + f])
            });
            let found = compared(&[trained.to_vec(), start.to_vec()].concat());
            let [row] = &found.hacking[..] else { panic!("{found:?}") };
            (row.sign, row.training.mean - row.held_out.mean - row.divergence.mean)
        };
        let (sign, error) = of(0.4, 0.0);
        assert!(sign);
        assert_within!(error, 1e-12);
        assert!(!of(0.4, 0.3).0, "the held-out judge gains too");
        assert!(!of(0.0, 0.0).0, "nothing gains");
        assert!(of(0.4, -0.2).0, "the held-out judge loses");
        assert!(compared(&runs()).hacking.is_empty(), "without the start there is nothing to gain over");
    }
}
