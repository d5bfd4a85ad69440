//! Asking a judge about everybody's targets.

use chat::{Interaction, PromptSet, Question};
use rewards::judge::question;
use rewards::{Judge, JudgeError, Verdict};

use crate::evaluate::Progress;
use crate::fit::fit;
use crate::{EvalError, EvalJudge, Person, PersonScore, Setting, Targets};

/// What the judges read about everybody.
pub(crate) enum Preferences {
    /// One text a person.
    Texts(Vec<String>),
    /// The raw history, as much of it as fits the judge.
    Histories,
}

/// Puts every target of everybody to a judge; one score a person and kind of targets.
pub(crate) fn judged(
    people: &[Person],
    preferences: &Preferences,
    judge: &EvalJudge<'_>,
    prompts: &PromptSet,
    (model, setting): (&str, Setting),
    per_call: usize,
    progress: Progress<'_>,
) -> Result<Vec<PersonScore>, EvalError> {
    let what = format!("judge {} reads {model}, {setting}", judge.name);
    let asked = questions(people, preferences, judge, prompts)?;
    let verdicts = ask(judge.judge, &asked, per_call, &what, progress)?;
    Ok(by_person(people, &asked, &verdicts, (model, setting), judge.name))
}

/// A question with the person and the kind of target it is about.
struct Asked {
    person: usize,
    targets: Targets,
    question: Question,
}

fn questions(
    people: &[Person],
    preferences: &Preferences,
    judge: &EvalJudge<'_>,
    prompts: &PromptSet,
) -> Result<Vec<Asked>, EvalError> {
    let mut asked = Vec::new();
    for (index, person) in people.iter().enumerate() {
        for targets in Targets::ALL {
            for target in person.targets_of(targets) {
                let question = match preferences {
                    Preferences::Texts(texts) => about(target, &texts[index])?,
                    Preferences::Histories => about_history(target, person, judge, prompts)?,
                };
                asked.push(Asked { person: index, targets, question });
            }
        }
    }
    Ok(asked)
}

fn about(target: &Interaction, preference: &str) -> Result<Question, EvalError> {
    // People were checked to have rejected items in all targets; the index has no meaning here.
    Ok(question(target, preference).ok_or(JudgeError::NoRejected { index: 0 })?)
}

/// The question with as much of the raw history as the judge can read beside it.
fn about_history(
    target: &Interaction,
    person: &Person,
    judge: &EvalJudge<'_>,
    prompts: &PromptSet,
) -> Result<Question, EvalError> {
    let with = |kept: &[Interaction]| about(target, &prompts.history(kept)?);
    let prompt = |kept: &[Interaction]| Ok::<_, EvalError>(judge.judge.messages(&with(kept)?, true)?);
    let fitted = fit(&person.history, judge.limit, prompt)?.ok_or_else(|| EvalError::TooLong {
        uid: person.uid.clone(),
        reader: judge.name.into(),
        tokens: judge.limit.map_or(0, |l| l.tokens),
    })?;
    with(fitted.kept)
}

fn ask(
    judge: &Judge<'_>,
    asked: &[Asked],
    per_call: usize,
    what: &str,
    progress: Progress<'_>,
) -> Result<Vec<Verdict>, EvalError> {
    let mut verdicts = Vec::with_capacity(asked.len());
    progress(what, 0, asked.len());
    for part in asked.chunks(per_call.max(1)) {
        let questions: Vec<Question> = part.iter().map(|a| a.question.clone()).collect();
        verdicts.extend(judge.score(&questions)?);
        progress(what, verdicts.len(), asked.len());
    }
    Ok(verdicts)
}

/// A person's targets of a kind stand together in `asked`.
fn by_person(
    people: &[Person],
    asked: &[Asked],
    verdicts: &[Verdict],
    (model, setting): (&str, Setting),
    judge: &str,
) -> Vec<PersonScore> {
    let mut scores = Vec::new();
    let mut start = 0;
    for group in asked.chunk_by(|a, b| (a.person, a.targets) == (b.person, b.targets)) {
        let verdicts = &verdicts[start..start + group.len()];
        start += group.len();
        scores.push(PersonScore {
            model: model.into(),
            setting,
            targets: group[0].targets,
            judge: judge.into(),
            uid: people[group[0].person].uid.clone(),
            accuracy: verdicts.iter().map(correct).sum::<f64>() / verdicts.len() as f64,
            targets_judged: verdicts.len(),
            malformed: verdicts.iter().filter(|v| v.malformed).count(),
        });
    }
    scores
}

/// 1 if the judge picks the person's choice, 0 if the other item, a half if neither. Log-probabilities come in single
/// precision, so a judge of position alone, asked in both orders, is within 1e-6 of a half.
fn correct(verdict: &Verdict) -> f64 {
    match verdict.p_chosen - 0.5 {
        d if d.abs() < 1e-6 => 0.5,
        d if d > 0.0 => 1.0,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_undecided_judge_is_half_right() {
        let verdict = |p_chosen| Verdict { p_chosen, orders: vec![], malformed: false };
        let got = [0.50001, 0.49999, 0.5, 0.5 - 1e-8].map(|p| correct(&verdict(p)));
        assert_eq!(got, [1.0, 0.0, 0.5, 0.5]);
    }
}
