//! How good a judge is before it rewards anything: accuracy with good, foreign and no summaries, reliability, order bias and cost.

use chat::Question;
use chat::prompts::NO_PAST;
use rewards::Verdict;
use serde::{Deserialize, Serialize};

use crate::asking::{JudgeCost, MeteredJudge, check, means_by_user, target_questions};
use crate::evaluate::derangement;
use crate::interval::interval;
use crate::judging::accuracy;
use crate::plan::EvalProgress;
use crate::reliability::{OrderBias, Reliability, order_bias, reliability};
use crate::{EvalError, EvalUser};

/// How judges are calibrated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CalibrationPlan<'a> {
    /// The seed of the assignment of random other users.
    pub seed: u64,
    /// The number of bins of the reliability curve.
    pub bins: usize,
    /// A text that the judges read in place of every user's summary, such as an order to choose the first item; `None` for none.
    pub injection: Option<&'a str>,
    /// The number of questions per call of a judge. Does not affect the verdicts.
    pub requests_per_call: usize,
}

/// The calibration of one judge with one kind of summaries. Shares are from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationRow {
    /// The name of the judge.
    pub judge: String,
    /// The summaries: `none`, `random` (another user's true preferences), `oracle` (the user's own) or `injection`.
    pub summary: String,
    /// The mean of the users' accuracies.
    pub accuracy: f64,
    /// The lower end of the 95 % interval over users.
    pub ci_low: f64,
    /// The upper end of the 95 % interval over users.
    pub ci_high: f64,
    /// The number of users.
    pub users: usize,
    /// The number of targets, over all users.
    pub targets_judged: usize,
    /// The mean over targets of the probability of the user's choice.
    pub p_chosen: f64,
    /// The share of targets for which the judge gave no answer in at least one order of the items.
    pub no_answer: f64,
    /// The order bias; `None` if no question was answered in both orders.
    pub order_bias: Option<OrderBias>,
    /// The reliability curve over the targets with an answer.
    pub reliability: Reliability,
    /// What the answers cost.
    pub cost: JudgeCost,
}

/// Asks every judge about all targets of all users, with each kind of summaries. Users' true preferences are used if all users have
/// them; `random` needs at least two users. The judges should ask in both orders, otherwise there is no order bias.
///
/// # Errors
/// Returns [`EvalError`] if there are no judges or users, a user is invalid, or a judge fails.
pub fn calibrate(
    users: &[EvalUser],
    judges: &[MeteredJudge<'_>],
    plan: &CalibrationPlan<'_>,
    progress: EvalProgress<'_>,
) -> Result<Vec<CalibrationRow>, EvalError> {
    check(users, judges.len())?;
    let mut rows = Vec::new();
    for judge in judges {
        for (summary, texts) in summaries(users, plan) {
            let asked = users.iter().zip(&texts).map(|(user, text)| target_questions(user, text));
            let questions: Vec<Question> = asked.collect::<Result<Vec<_>, _>>()?.concat();
            let what = format!("judge {} reads {summary}", judge.name);
            let (verdicts, cost) = judge.ask(&questions, plan.requests_per_call, &what, progress)?;
            rows.extend(row(users, (judge.name, summary), &verdicts, plan.bins, cost));
        }
    }
    Ok(rows)
}

/// Returns each kind of summaries with its name, one text per user.
fn summaries(users: &[EvalUser], plan: &CalibrationPlan<'_>) -> Vec<(&'static str, Vec<String>)> {
    let same = |text: &str| vec![text.to_owned(); users.len()];
    let mut kinds = vec![("none", same(NO_PAST))];
    let truths: Option<Vec<String>> = users.iter().map(|user| user.truth.clone()).collect();
    if let Some(truths) = truths {
        if users.len() > 1 {
            let others = derangement(plan.seed, users.len());
            kinds.push(("random", others.into_iter().map(|i| truths[i].clone()).collect()));
        }
        kinds.push(("oracle", truths));
    }
    kinds.extend(plan.injection.map(|text| ("injection", same(text))));
    kinds
}

/// Returns the row of one judge and kind of summaries; `None` without users.
fn row(
    users: &[EvalUser],
    (judge, summary): (&str, &str),
    verdicts: &[Verdict],
    bins: usize,
    cost: JudgeCost,
) -> Option<CalibrationRow> {
    let right: Vec<f64> = verdicts.iter().map(|verdict| accuracy(verdict.p_chosen)).collect();
    let over = interval(&means_by_user(users, &right), 0.0..=1.0)?;
    let answered: Vec<f64> = verdicts.iter().filter(|v| !v.malformed).map(|v| v.p_chosen).collect();
    let count = verdicts.len() as f64;
    Some(CalibrationRow {
        judge: judge.into(),
        summary: summary.into(),
        accuracy: over.mean,
        ci_low: over.low,
        ci_high: over.high,
        users: users.len(),
        targets_judged: verdicts.len(),
        p_chosen: verdicts.iter().map(|v| v.p_chosen).sum::<f64>() / count,
        no_answer: (verdicts.len() - answered.len()) as f64 / count,
        order_bias: order_bias(verdicts),
        reliability: reliability(&answered, bins),
        cost,
    })
}
