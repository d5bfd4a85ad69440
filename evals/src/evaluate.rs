//! Every contender in every setting, before every judge.

use std::collections::HashSet;

use chat::prompts::NO_PAST;
use chat::records::Checked;
use chat::{PromptSet, Sampling};
use rewards::{Draw, Judge};

use crate::evaluation::{Evaluation, Summary};
use crate::fit::PromptLimit;
use crate::judging::{Preferences, judged};
use crate::summarize::Summarizer;
use crate::{Contender, EvalError, Person, Setting, Source, Split};

/// Called with what is being done, how much of it is done, and how much there is.
pub type Progress<'a> = &'a mut dyn FnMut(&str, usize, usize);

/// What an evaluation does.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The settings, in the order of the results.
    pub settings: Vec<Setting>,
    /// How histories are divided.
    pub split: Split,
    /// How models draw their summaries.
    pub sampling: Sampling,
    /// Seed of the summaries and of who is whose random other person.
    pub seed: u64,
    /// How many chats go to a model in one call: a trade of memory and progress reports against speed, without effect
    /// on the results.
    pub requests_per_call: usize,
}

/// A judge under the name it has in tables.
#[derive(Clone, Copy)]
pub struct EvalJudge<'a> {
    /// The name.
    pub name: &'a str,
    /// The judge.
    pub judge: &'a Judge<'a>,
    /// The longest prompt it takes; in the setting `direct`, histories that exceed it lose their oldest interactions.
    pub limit: Option<PromptLimit<'a>>,
}

/// Evaluates every contender in every setting of the plan that concerns it, by every judge, on every target.
///
/// Models are evaluated in the settings `full` and `streaming`. The bounds (no summary, random person, oracle) do not
/// read the history, so each is evaluated once and stands under `full`, whatever the plan's settings; `direct`, where
/// planned, stands under the contender without a summary, with the raw history in its place. Direct reads the whole
/// history, whatever the split. People without transfer targets are left out of the rows on transfer.
///
/// # Errors
/// [`EvalError`]; what can be seen from the input alone is refused before any model is asked.
pub fn evaluate(
    people: &[Person],
    contenders: &[Contender<'_>],
    judges: &[EvalJudge<'_>],
    prompts: &PromptSet,
    plan: &Plan,
    progress: Progress<'_>,
) -> Result<Evaluation, EvalError> {
    check(people, contenders, judges, plan)?;
    let (mut scores, mut summaries) = (Vec::new(), Vec::new());
    for contender in contenders {
        for setting in settings_of(contender, plan) {
            let preferences = match contender.source {
                Source::None if setting == Setting::Direct => Preferences::Histories,
                Source::None => Preferences::Texts(vec![NO_PAST.into(); people.len()]),
                Source::Oracle => Preferences::Texts(people.iter().map(truth).collect::<Result<_, _>>()?),
                Source::Random => {
                    let others = derangement(plan.seed, people.len());
                    Preferences::Texts(others.into_iter().map(|i| truth(&people[i])).collect::<Result<_, _>>()?)
                }
                Source::Model { model, limit } => {
                    let summarizer = Summarizer { name: &contender.name, model, limit, prompts, plan };
                    let written = summarizer.summaries(setting, people, progress)?;
                    let texts = written.iter().map(|s: &Summary| s.summary.clone()).collect();
                    summaries.extend(written);
                    Preferences::Texts(texts)
                }
            };
            for judge in judges {
                let read = (contender.name.as_str(), setting);
                scores.extend(judged(people, &preferences, judge, prompts, read, plan.requests_per_call, progress)?);
            }
        }
    }
    Ok(Evaluation { scores, summaries })
}

fn settings_of(contender: &Contender<'_>, plan: &Plan) -> Vec<Setting> {
    let planned = |wanted: &[Setting]| plan.settings.iter().copied().filter(|s| wanted.contains(s)).collect::<Vec<_>>();
    match contender.source {
        Source::Model { .. } => planned(&[Setting::Full, Setting::Streaming]),
        Source::None => [planned(&[Setting::Direct]), vec![Setting::Full]].concat(),
        Source::Random | Source::Oracle => vec![Setting::Full],
    }
}

fn check(
    people: &[Person],
    contenders: &[Contender<'_>],
    judges: &[EvalJudge<'_>],
    plan: &Plan,
) -> Result<(), EvalError> {
    for (given, what) in [(people.len(), "people"), (contenders.len(), "models"), (judges.len(), "judges")] {
        if given == 0 {
            return Err(EvalError::Nothing(what));
        }
    }
    unique("people", people.iter().map(|p| p.uid.as_str()))?;
    unique("models", contenders.iter().map(|c| c.name.as_str()))?;
    unique("judges", judges.iter().map(|j| j.name))?;
    let summarized = contenders.iter().any(|c| matches!(c.source, Source::Model { .. }));
    let divided = summarized && (plan.settings.contains(&Setting::Streaming) || plan.split == Split::Thirds);
    let bounds = |c: &Contender<'_>| matches!(c.source, Source::Random | Source::Oracle);
    for person in people {
        let refuse = |field, message| Err(EvalError::Person { uid: person.uid.clone(), field, message });
        if let Some(defect) = person.defect() {
            return refuse(defect.field, defect.message);
        }
        let (n, least) = (person.history.len(), plan.split.least());
        if divided && n < least {
            let split = plan.split;
            return refuse("history", format!("has {n} interactions; dividing it ({split:?}) needs at least {least}"));
        }
        if contenders.iter().any(bounds) {
            truth(person)?;
        }
    }
    let alone = people.len() == 1 && contenders.iter().any(|c| matches!(c.source, Source::Random));
    if alone { Err(EvalError::Alone) } else { Ok(()) }
}

fn unique<'a>(what: &'static str, names: impl Iterator<Item = &'a str>) -> Result<(), EvalError> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(EvalError::Twice { what, name: name.into() });
        }
    }
    Ok(())
}

fn truth(person: &Person) -> Result<String, EvalError> {
    person.truth.clone().ok_or_else(|| EvalError::Person {
        uid: person.uid.clone(),
        field: "truth",
        message:
            "is absent; the bounds `random` and `oracle` need everybody's true preferences: add them or leave these \
                  bounds out"
                .into(),
    })
}

/// Somebody else for everybody: a random cyclic permutation (Sattolo's algorithm).
fn derangement(seed: u64, n: usize) -> Vec<usize> {
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
