//! One model's summaries, judged by several judges in several wordings and both orders of the items: how far an accuracy depends on
//! who asks, and how.

use std::fmt;

use chat::Question;
use rewards::Verdict;
use serde::{Deserialize, Serialize};

use crate::asking::{MeteredJudge, check, check_summaries, means_by_user, target_questions};
use crate::interval::interval;
use crate::judging::accuracy;
use crate::plan::EvalProgress;
use crate::table::distinct;
use crate::{EvalError, EvalUser};

/// A judge in one wording.
#[derive(Clone, Copy)]
pub struct PanelMember<'a> {
    /// The judge.
    pub judge: MeteredJudge<'a>,
    /// The name of its prompt set in tables.
    pub wording: &'a str,
}

/// The order of the items in the questions that a cell is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShownOrder {
    /// Both orders, averaged.
    Both,
    /// The user's choice is shown first.
    ChosenFirst,
    /// The user's choice is shown second.
    ChosenSecond,
}

impl ShownOrder {
    /// All orders.
    pub const ALL: [ShownOrder; 3] = [ShownOrder::Both, ShownOrder::ChosenFirst, ShownOrder::ChosenSecond];

    /// Returns the probability of the user's choice in this order; `None` if the question was not asked in it.
    fn p_chosen(self, verdict: &Verdict) -> Option<f64> {
        let first = match self {
            ShownOrder::Both => return Some(verdict.p_chosen),
            ShownOrder::ChosenFirst => true,
            ShownOrder::ChosenSecond => false,
        };
        verdict.orders.iter().find(|order| order.chosen_first == first).map(|order| order.p_chosen)
    }
}

impl fmt::Display for ShownOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ShownOrder::Both => "both",
            ShownOrder::ChosenFirst => "chosen first",
            ShownOrder::ChosenSecond => "chosen second",
        })
    }
}

/// The accuracy of one judge in one wording and order. Shares are from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PanelCell {
    /// The name of the judge.
    pub judge: String,
    /// The prompt set.
    pub wording: String,
    /// The order of the items.
    pub order: ShownOrder,
    /// The mean of the users' accuracies.
    pub accuracy: f64,
    /// The lower end of the 95 % interval over users.
    pub ci_low: f64,
    /// The upper end of the 95 % interval over users.
    pub ci_high: f64,
    /// The mean over targets of the probability of the user's choice.
    pub p_chosen: f64,
    /// The share of targets for which the judge gave no answer in at least one order of the items.
    pub no_answer: f64,
    /// The number of users.
    pub users: usize,
    /// The number of targets, over all users.
    pub targets_judged: usize,
}

/// The mean accuracy, and its least and greatest value over the levels of one factor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PanelSpan {
    /// The factor: `all` (every judge in every wording), `judge`, `wording` or `order`.
    pub over: String,
    /// The mean over the levels.
    pub mean: f64,
    /// The accuracy of the lowest level.
    pub low: f64,
    /// The accuracy of the highest level.
    pub high: f64,
    /// The lowest level.
    pub lowest: String,
    /// The highest level.
    pub highest: String,
}

/// Asks every member about all targets of all users. `summaries` holds one text per user. The judges should ask in both orders,
/// otherwise the cells of single orders are missing.
///
/// # Errors
/// Returns [`EvalError`] if there are no members or users, a user is invalid or lacks a summary, or a judge fails.
pub fn panel(
    users: &[EvalUser],
    summaries: &[String],
    members: &[PanelMember<'_>],
    requests_per_call: usize,
    progress: EvalProgress<'_>,
) -> Result<Vec<PanelCell>, EvalError> {
    check(users, members.len())?;
    check_summaries(users, summaries)?;
    let asked = users.iter().zip(summaries).map(|(user, summary)| target_questions(user, summary));
    let questions: Vec<Question> = asked.collect::<Result<Vec<_>, _>>()?.concat();
    let mut cells = Vec::new();
    for member in members {
        let what = format!("judge {}, wording {}", member.judge.name, member.wording);
        let (verdicts, _) = member.judge.ask(&questions, requests_per_call, &what, progress)?;
        cells.extend(ShownOrder::ALL.into_iter().filter_map(|order| cell(users, member, order, &verdicts)));
    }
    Ok(cells)
}

/// Returns one cell; `None` if the questions were not asked in this order.
fn cell(users: &[EvalUser], member: &PanelMember<'_>, order: ShownOrder, verdicts: &[Verdict]) -> Option<PanelCell> {
    let p_chosen: Vec<f64> = verdicts.iter().map(|verdict| order.p_chosen(verdict)).collect::<Option<_>>()?;
    let right: Vec<f64> = p_chosen.iter().map(|&p| accuracy(p)).collect();
    let over = interval(&means_by_user(users, &right), 0.0..=1.0)?;
    let count = verdicts.len() as f64;
    Some(PanelCell {
        judge: member.judge.name.into(),
        wording: member.wording.into(),
        order,
        accuracy: over.mean,
        ci_low: over.low,
        ci_high: over.high,
        p_chosen: p_chosen.iter().sum::<f64>() / count,
        no_answer: verdicts.iter().filter(|v| v.malformed).count() as f64 / count,
        users: users.len(),
        targets_judged: verdicts.len(),
    })
}

/// Returns the mean accuracy with its span over everything and over each factor. Judges and wordings are compared with both orders
/// averaged, and only in the wordings that every judge was asked in: otherwise the levels would average different cells. Their spans
/// are missing if there is no such wording. Orders are compared over all judges and wordings.
pub fn spans(cells: &[PanelCell]) -> Vec<PanelSpan> {
    let averaged = || cells.iter().filter(|cell| cell.order == ShownOrder::Both);
    let judges = distinct(averaged().map(|cell| cell.judge.as_str()));
    let asked = |judge: &str, wording: &str| averaged().any(|cell| cell.judge == judge && cell.wording == wording);
    let crossed = || averaged().filter(|cell| judges.iter().all(|judge| asked(judge, &cell.wording)));
    let single = cells.iter().filter(|cell| cell.order != ShownOrder::Both);
    let found = [
        span("all", averaged().map(|cell| (format!("{}, {}", cell.judge, cell.wording), cell.accuracy))),
        span("judge", crossed().map(|cell| (cell.judge.clone(), cell.accuracy))),
        span("wording", crossed().map(|cell| (cell.wording.clone(), cell.accuracy))),
        span("order", single.map(|cell| (cell.order.to_string(), cell.accuracy))),
    ];
    found.into_iter().flatten().collect()
}

/// Averages the values of each level; returns `None` without levels.
fn span(over: &str, values: impl Iterator<Item = (String, f64)>) -> Option<PanelSpan> {
    let mut levels: Vec<(String, Vec<f64>)> = Vec::new();
    for (level, value) in values {
        match levels.iter_mut().find(|(known, _)| *known == level) {
            Some((_, values)) => values.push(value),
            None => levels.push((level, vec![value])),
        }
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let means: Vec<(String, f64)> = levels.into_iter().map(|(level, values)| (level, mean(&values))).collect();
    let (lowest, low) = means.iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
    let (highest, high) = means.iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
    Some(PanelSpan {
        over: over.into(),
        mean: means.iter().map(|(_, value)| value).sum::<f64>() / means.len() as f64,
        low: *low,
        high: *high,
        lowest: lowest.clone(),
        highest: highest.clone(),
    })
}

#[cfg(test)]
mod tests {
    use tolerance::assert_within;

    use super::*;

    fn cell(judge: &str, wording: &str, order: ShownOrder, accuracy: f64) -> PanelCell {
        PanelCell {
            judge: judge.into(),
            wording: wording.into(),
            order,
            accuracy,
            ci_low: 0.0,
            ci_high: 1.0,
            p_chosen: 0.5,
            no_answer: 0.0,
            users: 10,
            targets_judged: 40,
        }
    }

    #[test]
    fn spans_by_hand() {
        let of = |judge, wording, [both, first, second]: [f64; 3]| {
            [
                cell(judge, wording, ShownOrder::Both, both),
                cell(judge, wording, ShownOrder::ChosenFirst, first),
                cell(judge, wording, ShownOrder::ChosenSecond, second),
            ]
        };
        let cells = [
            of("a", "plain", [0.8, 0.9, 0.7]),
            of("a", "compact", [0.7, 0.8, 0.6]),
            of("b", "plain", [0.6, 0.9, 0.5]),
            of("b", "compact", [0.5, 0.8, 0.4]),
        ]
        .concat();
        let found = spans(&cells);
        let of = |over: &str| found.iter().find(|span| span.over == over).unwrap();
        let all = of("all");
        assert_within!(all.mean - 0.65, 1e-12);
        assert_eq!((all.low, all.high), (0.5, 0.8));
        assert_eq!((all.lowest.as_str(), all.highest.as_str()), ("b, compact", "a, plain"));
        for (over, low, high, lowest) in
            [("judge", 0.55, 0.75, "b"), ("wording", 0.6, 0.7, "compact"), ("order", 0.55, 0.85, "chosen second")]
        {
            let found = of(over);
            assert_within!(found.low - low, 1e-12);
            assert_within!(found.high - high, 1e-12);
            assert_eq!(found.lowest, lowest);
        }
        assert!(spans(&[]).is_empty());
    }

    #[test]
    fn judges_and_wordings_are_compared_in_the_wordings_of_all_judges() {
        let both = |judge: &str, wording: &str, accuracy: f64| cell(judge, wording, ShownOrder::Both, accuracy);
        let own = [both("a", "plain", 0.9), both("b", "compact", 0.5)];
        let over = |cells: &[PanelCell]| -> Vec<String> { spans(cells).into_iter().map(|span| span.over).collect() };
        assert_eq!(over(&own), ["all"]);
        // The own wordings do not count: 0.7 against 0.6 in the common one.
        let found = spans(&[&own[..], &[both("a", "other", 0.7), both("b", "other", 0.6)]].concat());
        let [_, judge, wording] = &found[..] else { panic!("{found:?}") };
        assert_eq!((judge.low, judge.high, judge.highest.as_str()), (0.6, 0.7, "a"));
        assert_within!(wording.high - wording.low, 1e-12);
        assert_eq!((wording.lowest.as_str(), wording.highest.as_str()), ("other", "other"));
    }
}
