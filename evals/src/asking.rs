//! Asks a judge about all targets of users, and measures what that costs.

use std::time::Instant;

use chat::completer::Usage;
use chat::records::Checked;
use chat::{Completer, Question};
use configs::judge::JudgePrices;
use rewards::{Judge, Verdict};
use serde::{Deserialize, Serialize};

use crate::evaluate::unique;
use crate::judging::about;
use crate::plan::EvalProgress;
use crate::{EvalError, EvalUser, TargetKind};

/// A judge with its name in tables, its model, which counts tokens, and its prices.
#[derive(Clone, Copy)]
pub struct MeteredJudge<'a> {
    /// The name.
    pub name: &'a str,
    /// The judge.
    pub judge: &'a Judge<'a>,
    /// The model that the judge prompts.
    pub model: &'a dyn Completer,
    /// The prices per million tokens.
    pub prices: JudgePrices,
}

/// What the answers of a judge cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JudgeCost {
    /// The number of questions; each is asked in one or two orders of the items.
    pub questions: usize,
    /// The number of tokens of all prompts, as the model counts them.
    pub prompt_tokens: u64,
    /// The number of generated tokens.
    pub completion_tokens: u64,
    /// The time from the first request to the last answer.
    pub seconds: f64,
    /// The cost by the judge's prices; `None` without prices.
    pub cost: Option<f64>,
}

impl MeteredJudge<'_> {
    /// Returns one verdict per question, in order, and the cost of all of them.
    pub(crate) fn ask(
        &self,
        questions: &[Question],
        per_call: usize,
        what: &str,
        progress: EvalProgress<'_>,
    ) -> Result<(Vec<Verdict>, JudgeCost), EvalError> {
        let (before, begin) = (self.model.usage(), Instant::now());
        let mut verdicts = Vec::with_capacity(questions.len());
        progress(what, 0, questions.len());
        for part in questions.chunks(per_call.max(1)) {
            verdicts.extend(self.judge.score(part)?);
            progress(what, verdicts.len(), questions.len());
        }
        let seconds = begin.elapsed().as_secs_f64();
        let Usage { prompt_tokens, completion_tokens } = self.model.usage().since(before);
        let JudgePrices { prompt, completion } = self.prices;
        let cost = (prompt_tokens as f64 * prompt + completion_tokens as f64 * completion) / 1e6;
        let cost = self.prices.are_given().then_some(cost);
        let cost = JudgeCost { questions: questions.len(), prompt_tokens, completion_tokens, seconds, cost };
        Ok((verdicts, cost))
    }
}

/// Checks that there are valid users with unique ids, and `judges` judges.
pub(crate) fn check(users: &[EvalUser], judges: usize) -> Result<(), EvalError> {
    for (given, what) in [(users.len(), "users"), (judges, "judges")] {
        if given == 0 {
            return Err(EvalError::Nothing(what));
        }
    }
    unique("users", users.iter().map(|user| user.uid.as_str()))?;
    match users.iter().find_map(|user| Some((user, user.defect()?))) {
        None => Ok(()),
        Some((user, defect)) => {
            Err(EvalError::User { uid: user.uid.clone(), field: defect.field, message: defect.message })
        }
    }
}

/// Checks that there is one summary per user.
pub(crate) fn check_summaries(users: &[EvalUser], summaries: &[String]) -> Result<(), EvalError> {
    let (users, summaries) = (users.len(), summaries.len());
    if users == summaries { Ok(()) } else { Err(EvalError::Summaries { users, summaries }) }
}

/// Returns the questions about all targets of a user, given a text about them: those of the history's domain, then the others.
pub(crate) fn target_questions(user: &EvalUser, preference: &str) -> Result<Vec<Question>, EvalError> {
    let targets = TargetKind::ALL.into_iter().flat_map(|kind| user.targets_of(kind));
    targets.map(|target| about(target, preference)).collect()
}

/// Returns the mean over each user's targets of values in the order of [`target_questions`].
pub(crate) fn means_by_user(users: &[EvalUser], values: &[f64]) -> Vec<f64> {
    let mut rest = values;
    let mean = |user: &EvalUser| {
        let (own, others) = rest.split_at(user.targets.len() + user.transfer.len());
        rest = others;
        own.iter().sum::<f64>() / own.len() as f64
    };
    users.iter().map(mean).collect()
}
