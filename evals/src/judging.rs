//! Asks a judge about the targets of all users.

use chat::{HistoryItems, Interaction, PromptSet, Question};
use rewards::judge::question;
use rewards::{Judge, JudgeError, Verdict};

use crate::fit::{Fitted, fit};
use crate::plan::EvalProgress;
use crate::{EvalError, EvalUser, NamedJudge, Setting, TargetKind, UserScore};

/// What the judges read about the users.
pub(crate) enum Preferences {
    /// One text per user.
    Texts(Vec<String>),
    /// The raw history, cut to what fits the judge.
    Histories,
}

/// Scores every target of all users with a judge; returns one score per user and kind of targets.
pub(crate) fn judged(
    users: &[EvalUser],
    preferences: &Preferences,
    judge: &NamedJudge<'_>,
    prompts: &PromptSet,
    (model, setting): (&str, Setting),
    per_call: usize,
    progress: EvalProgress<'_>,
) -> Result<Vec<UserScore>, EvalError> {
    let what = format!("judge {} reads {model}, {setting}", judge.name);
    let asked = questions(users, preferences, judge, prompts)?;
    let verdicts = ask(judge.judge, &asked, per_call, &what, progress)?;
    Ok(by_user(users, &asked, &verdicts, (model, setting), judge.name))
}

/// A question, with the user and the kind of target that it is about.
struct Asked {
    user: usize,
    targets: TargetKind,
    question: Question,
}

fn questions(
    users: &[EvalUser],
    preferences: &Preferences,
    judge: &NamedJudge<'_>,
    prompts: &PromptSet,
) -> Result<Vec<Asked>, EvalError> {
    let mut asked = Vec::new();
    for (index, user) in users.iter().enumerate() {
        for targets in TargetKind::ALL {
            for target in user.targets_of(targets) {
                let question = match preferences {
                    Preferences::Texts(texts) => about(target, &texts[index])?,
                    Preferences::Histories => about_history(target, user, judge, prompts)?,
                };
                asked.push(Asked { user: index, targets, question });
            }
        }
    }
    Ok(asked)
}

pub(crate) fn about(target: &Interaction, preference: &str) -> Result<Question, EvalError> {
    // Input validation ensures a rejected item in every target; the index has no meaning here.
    Ok(question(target, preference).ok_or(JudgeError::NoRejected { index: 0 })?)
}

/// Returns the question with as much of the raw history as fits the judge's prompt.
fn about_history(
    target: &Interaction,
    user: &EvalUser,
    judge: &NamedJudge<'_>,
    prompts: &PromptSet,
) -> Result<Question, EvalError> {
    let fitted = fitted_history(target, user.items(), judge, prompts)?.ok_or_else(|| EvalError::TooLong {
        uid: user.uid.clone(),
        reader: judge.name.into(),
        tokens: judge.limit.map_or(0, |l| l.tokens),
    })?;
    about(target, &prompts.history(fitted.kept)?)
}

/// Returns as many of the latest interactions or messages as fit the judge's prompt about a target, or `None` if not even the last one does.
pub(crate) fn fitted_history<'h>(
    target: &Interaction,
    history: HistoryItems<'h>,
    judge: &NamedJudge<'_>,
    prompts: &PromptSet,
) -> Result<Option<Fitted<'h>>, EvalError> {
    let question = |kept: HistoryItems<'h>| about(target, &prompts.history(kept)?);
    fit(history, judge.limit, |kept| Ok::<_, EvalError>(judge.judge.messages(&question(kept)?, true)?))
}

fn ask(
    judge: &Judge<'_>,
    asked: &[Asked],
    per_call: usize,
    what: &str,
    progress: EvalProgress<'_>,
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

/// Groups verdicts by user. The targets of one user and kind are contiguous in `asked`.
fn by_user(
    users: &[EvalUser],
    asked: &[Asked],
    verdicts: &[Verdict],
    (model, setting): (&str, Setting),
    judge: &str,
) -> Vec<UserScore> {
    let mut scores = Vec::new();
    let mut start = 0;
    for group in asked.chunk_by(|a, b| (a.user, a.targets) == (b.user, b.targets)) {
        let verdicts = &verdicts[start..start + group.len()];
        start += group.len();
        scores.push(UserScore {
            model: model.into(),
            setting,
            targets: group[0].targets,
            judge: judge.into(),
            uid: users[group[0].user].uid.clone(),
            accuracy: verdicts.iter().map(|v| accuracy(v.p_chosen)).sum::<f64>() / verdicts.len() as f64,
            targets_judged: verdicts.len(),
            malformed: verdicts.iter().filter(|v| v.malformed).count(),
        });
    }
    scores
}

/// Returns how a verdict counts, given the probability of the user's choice: 1 if the judge picks it, 0 if it picks the other item,
/// and ½ if neither. Log-probabilities are in single precision, so a judge that only looks at position, asked in both orders, is
/// within 1e-6 of ½.
pub fn accuracy(p_chosen: f64) -> f64 {
    match p_chosen - 0.5 {
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
        let got = [0.50001, 0.49999, 0.5, 0.5 - 1e-8].map(accuracy);
        assert_eq!(got, [1.0, 0.0, 0.5, 0.5]);
    }
}
