//! Asks a model for the summaries of all users.

use chat::prompts::PromptError;
use chat::reasoning;
use chat::records::RowDefect;
use chat::{Completer, CompletionRequest, HistoryItems, PromptSet};
use rewards::Draw;

use crate::evaluation::SummaryRecord;
use crate::fit::{Fitted, PromptLimit, fit};
use crate::plan::{EvalPlan, EvalProgress};
use crate::{EvalError, EvalUser, HistorySplit, Setting};

/// A model with everything that its requests depend on.
pub(crate) struct Summarizer<'a> {
    pub name: &'a str,
    pub model: &'a dyn Completer,
    pub limit: Option<PromptLimit<'a>>,
    pub prompts: &'a PromptSet,
    pub plan: &'a EvalPlan,
}

/// Returns as many of the latest interactions or messages as fit a summary prompt, or `None` if not even the last one does.
pub(crate) fn fitted<'h>(
    prompts: &PromptSet,
    past: Option<&str>,
    items: HistoryItems<'h>,
    limit: Option<PromptLimit<'_>>,
) -> Result<Option<Fitted<'h>>, PromptError> {
    fit(items, limit, |kept| prompts.summarize(past, kept))
}

/// Returns a model's summary of each user, in order, as an evaluation of the model in `setting` reads it. There are none in
/// [`Setting::Direct`].
///
/// # Errors
/// Returns [`EvalError`] if a history is too short for the setting, a prompt does not render, or the model fails.
pub fn model_summaries(
    (name, model): (&str, &dyn Completer),
    prompts: &PromptSet,
    (setting, users): (Setting, &[EvalUser]),
    plan: &EvalPlan,
    progress: EvalProgress<'_>,
) -> Result<Vec<SummaryRecord>, EvalError> {
    let divided = setting == Setting::Streaming || plan.split == HistorySplit::Thirds;
    for user in users {
        if let Some(RowDefect { field, message }) = plan.split.defect(user.items()).filter(|_| divided) {
            return Err(EvalError::User { uid: user.uid.clone(), field, message });
        }
    }
    Summarizer { name, model, limit: None, prompts, plan }.summaries(setting, users, progress)
}

/// The input of one user's summary.
struct Input<'p> {
    uid: &'p str,
    past: Option<String>,
    dropped_before: usize,
    items: HistoryItems<'p>,
}

impl Summarizer<'_> {
    /// Returns one summary per user; none for `Direct`.
    pub fn summaries<'u>(
        &self,
        setting: Setting,
        users: &'u [EvalUser],
        progress: EvalProgress<'_>,
    ) -> Result<Vec<SummaryRecord>, EvalError> {
        let rounds = |user: &'u EvalUser| self.plan.split.rounds(setting, user.items());
        if setting == Setting::Direct {
            return Ok(Vec::new());
        }
        let fresh =
            |user: &'u EvalUser| Input { uid: &user.uid, past: None, dropped_before: 0, items: rounds(user)[0] };
        let first = self.stage(setting, 0, users.iter().map(fresh).collect(), progress)?;
        if setting == Setting::Full {
            return Ok(first);
        }
        let next = |(user, summary): (&'u EvalUser, SummaryRecord)| Input {
            uid: &user.uid,
            past: Some(summary.summary),
            dropped_before: summary.dropped,
            items: rounds(user)[1],
        };
        self.stage(setting, 1, users.iter().zip(first).map(next).collect(), progress)
    }

    fn stage(
        &self,
        setting: Setting,
        stage: u64,
        inputs: Vec<Input<'_>>,
        progress: EvalProgress<'_>,
    ) -> Result<Vec<SummaryRecord>, EvalError> {
        let what = match (setting, stage) {
            (Setting::Streaming, stage) => format!("{} summarizes, {setting}, part {}", self.name, stage + 1),
            _ => format!("{} summarizes, {setting}", self.name),
        };
        let mut summaries = Vec::with_capacity(inputs.len());
        let total = inputs.len();
        progress(&what, 0, total);
        for inputs in inputs.chunks(self.plan.requests_per_call.max(1)) {
            let asked = inputs.iter().map(|i| self.request(setting, stage, i)).collect::<Result<Vec<_>, _>>()?;
            let (requests, dropped): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
            let model = || self.name.to_owned();
            let completions =
                self.model.complete(&requests).map_err(|source| EvalError::Model { model: model(), source })?;
            if completions.len() != requests.len() {
                let (asked, answered) = (requests.len(), completions.len());
                return Err(EvalError::Answers { model: model(), asked, answered });
            }
            for ((input, completion), dropped) in inputs.iter().zip(completions).zip(dropped) {
                summaries.push(SummaryRecord {
                    model: model(),
                    setting,
                    uid: input.uid.into(),
                    past: input.past.clone(),
                    summary: reasoning::summary_leniently(&completion.text).into(),
                    well_formed: reasoning::split(&completion.text).is_some(),
                    dropped: input.dropped_before + dropped,
                    response: completion.text,
                });
            }
            progress(&what, summaries.len(), total);
        }
        Ok(summaries)
    }

    /// Returns the request, and the number of interactions or messages it leaves out because they do not fit.
    fn request(
        &self,
        setting: Setting,
        stage: u64,
        input: &Input<'_>,
    ) -> Result<(CompletionRequest, usize), EvalError> {
        let fitted = fitted(self.prompts, input.past.as_deref(), input.items, self.limit)?;
        let fitted = fitted.ok_or_else(|| EvalError::TooLong {
            uid: input.uid.into(),
            reader: self.name.into(),
            tokens: self.limit.map_or(0, |l| l.tokens),
        })?;
        // The seed does not depend on the model's name, so compared models sample with the same random numbers.
        let seed = Draw::new(self.plan.seed).text("summary").text(input.uid).text(&setting.to_string()).with(stage);
        let request = CompletionRequest {
            seed: seed.bits(),
            ..CompletionRequest::new(fitted.messages, self.plan.sampling.clone())
        };
        Ok((request, input.items.len() - fitted.kept.len()))
    }
}
