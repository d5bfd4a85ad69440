//! Evaluates every contender in every setting with every judge.

use std::collections::HashSet;

use chat::PromptSet;
use chat::prompts::NO_PAST;
use chat::records::Checked;
use rewards::Draw;

use crate::evaluation::{Evaluation, SummaryRecord};
use crate::judging::{Preferences, judged};
use crate::plan::{EvalPlan, EvalProgress, NamedJudge};
use crate::summarize::Summarizer;
use crate::{Contender, EvalError, EvalUser, HistorySplit, Setting, SummarySource};

/// Evaluates every contender in every applicable setting of the plan, with every judge, on every target.
///
/// Models are evaluated in the settings `full` and `streaming`. The bounds (no summary, random user, oracle) do not
/// read the history, so each is evaluated once and listed under `full`, whatever the plan's settings. `direct`, if
/// planned, is listed under the contender without a summary, with the raw history in its place. `direct` reads the
/// whole history, whatever the split. Users without transfer targets are excluded from the rows on transfer.
///
/// `prompts` words the raw histories, and the summaries of models without a set of their own.
///
/// # Errors
/// Returns [`EvalError`]. Invalid input is rejected before any model is called.
pub fn evaluate(
    users: &[EvalUser],
    contenders: &[Contender<'_>],
    judges: &[NamedJudge<'_>],
    prompts: &PromptSet,
    plan: &EvalPlan,
    progress: EvalProgress<'_>,
) -> Result<Evaluation, EvalError> {
    check(users, contenders, judges, plan)?;
    let (mut scores, mut summaries) = (Vec::new(), Vec::new());
    for contender in contenders {
        for setting in settings_of(contender, plan) {
            let preferences = match contender.source {
                SummarySource::None if setting == Setting::Direct => Preferences::Histories,
                SummarySource::None => Preferences::Texts(vec![NO_PAST.into(); users.len()]),
                SummarySource::Oracle => Preferences::Texts(users.iter().map(truth).collect::<Result<_, _>>()?),
                SummarySource::Random => {
                    let others = derangement(plan.seed, users.len());
                    Preferences::Texts(others.into_iter().map(|i| truth(&users[i])).collect::<Result<_, _>>()?)
                }
                SummarySource::Model { model, limit, prompts: own } => {
                    let prompts = own.unwrap_or(prompts);
                    let summarizer = Summarizer { name: &contender.name, model, limit, prompts, plan };
                    let written = summarizer.summaries(setting, users, progress)?;
                    let texts = written.iter().map(|s: &SummaryRecord| s.summary.clone()).collect();
                    summaries.extend(written);
                    Preferences::Texts(texts)
                }
            };
            for judge in judges {
                let read = (contender.name.as_str(), setting);
                scores.extend(judged(users, &preferences, judge, prompts, read, plan.requests_per_call, progress)?);
            }
        }
    }
    Ok(Evaluation { scores, summaries })
}

fn settings_of(contender: &Contender<'_>, plan: &EvalPlan) -> Vec<Setting> {
    let planned = |wanted: &[Setting]| plan.settings.iter().copied().filter(|s| wanted.contains(s)).collect::<Vec<_>>();
    match contender.source {
        SummarySource::Model { .. } => planned(&[Setting::Full, Setting::Streaming]),
        SummarySource::None => [planned(&[Setting::Direct]), vec![Setting::Full]].concat(),
        SummarySource::Random | SummarySource::Oracle => vec![Setting::Full],
    }
}

fn check(
    users: &[EvalUser],
    contenders: &[Contender<'_>],
    judges: &[NamedJudge<'_>],
    plan: &EvalPlan,
) -> Result<(), EvalError> {
    for (given, what) in [(users.len(), "users"), (contenders.len(), "models"), (judges.len(), "judges")] {
        if given == 0 {
            return Err(EvalError::Nothing(what));
        }
    }
    unique("users", users.iter().map(|p| p.uid.as_str()))?;
    unique("models", contenders.iter().map(|c| c.name.as_str()))?;
    unique("judges", judges.iter().map(|j| j.name))?;
    let summarized = contenders.iter().any(|c| matches!(c.source, SummarySource::Model { .. }));
    let divided = summarized && (plan.settings.contains(&Setting::Streaming) || plan.split == HistorySplit::Thirds);
    let bounds = |c: &Contender<'_>| matches!(c.source, SummarySource::Random | SummarySource::Oracle);
    for user in users {
        let refuse = |field, message| Err(EvalError::User { uid: user.uid.clone(), field, message });
        if let Some(defect) = user.defect() {
            return refuse(defect.field, defect.message);
        }
        if let Some(defect) = plan.split.defect(user.items()).filter(|_| divided) {
            return refuse(defect.field, defect.message);
        }
        if contenders.iter().any(bounds) {
            truth(user)?;
        }
    }
    let alone = users.len() == 1 && contenders.iter().any(|c| matches!(c.source, SummarySource::Random));
    if alone { Err(EvalError::Alone) } else { Ok(()) }
}

pub(crate) fn unique<'a>(what: &'static str, names: impl Iterator<Item = &'a str>) -> Result<(), EvalError> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(EvalError::Twice { what, name: name.into() });
        }
    }
    Ok(())
}

fn truth(user: &EvalUser) -> Result<String, EvalError> {
    user.truth.clone().ok_or_else(|| EvalError::User {
        uid: user.uid.clone(),
        field: "truth",
        message: "is missing; the bounds `random` and `oracle` need the true preferences of every user: add them or \
                  remove these bounds"
            .into(),
    })
}

/// Assigns another user to every user: a random cyclic permutation (Sattolo's algorithm).
pub(crate) fn derangement(seed: u64, n: usize) -> Vec<usize> {
    let mut others: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        others.swap(i, Draw::new(seed).text("random person").with(i as u64).below(i));
    }
    others
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_their_own_summary() {
        for (seed, n) in [(0, 2), (0, 3), (1, 50), (2, 51)] {
            let others = derangement(seed, n);
            assert!(others.iter().enumerate().all(|(i, &other)| i != other));
            let mut sorted = others.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..n).collect::<Vec<_>>());
            assert_eq!(others, derangement(seed, n));
        }
        assert_ne!(derangement(1, 50), derangement(2, 50));
    }
}
