//! Asks a model for the summaries of all users.

use chat::reasoning;
use chat::{Completer, CompletionRequest, Interaction, PromptSet};
use rewards::Draw;

use crate::evaluation::SummaryRecord;
use crate::fit::{PromptLimit, fit};
use crate::plan::{EvalPlan, EvalProgress};
use crate::{EvalError, EvalUser, Setting};

/// A model with everything that its requests depend on.
pub(crate) struct Summarizer<'a> {
    pub name: &'a str,
    pub model: &'a dyn Completer,
    pub limit: Option<PromptLimit<'a>>,
    pub prompts: &'a PromptSet,
    pub plan: &'a EvalPlan,
}

/// The input of one user's summary.
struct Input<'p> {
    uid: &'p str,
    past: Option<String>,
    dropped_before: usize,
    interactions: &'p [Interaction],
}

impl Summarizer<'_> {
    /// Returns one summary per user; none for `Direct`.
    pub fn summaries(
        &self,
        setting: Setting,
        users: &[EvalUser],
        progress: EvalProgress<'_>,
    ) -> Result<Vec<SummaryRecord>, EvalError> {
        let split = self.plan.split;
        let fresh = |uid, interactions| Input { uid, past: None, dropped_before: 0, interactions };
        match setting {
            Setting::Direct => Ok(Vec::new()),
            Setting::Full => {
                let inputs = users.iter().map(|p| fresh(&p.uid, split.full(&p.history)));
                self.stage(setting, 0, inputs.collect(), progress)
            }
            Setting::Streaming => {
                let inputs = users.iter().map(|p| fresh(&p.uid, split.stages(&p.history)[0]));
                let first = self.stage(setting, 0, inputs.collect(), progress)?;
                let inputs = users.iter().zip(first).map(|(p, s)| Input {
                    uid: &p.uid,
                    past: Some(s.summary),
                    dropped_before: s.dropped,
                    interactions: split.stages(&p.history)[1],
                });
                self.stage(setting, 1, inputs.collect(), progress)
            }
        }
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

    /// Returns the request, and the number of interactions it leaves out because they do not fit.
    fn request(
        &self,
        setting: Setting,
        stage: u64,
        input: &Input<'_>,
    ) -> Result<(CompletionRequest, usize), EvalError> {
        let prompt = |kept: &[Interaction]| self.prompts.summarize(input.past.as_deref(), kept);
        let fitted = fit(input.interactions, self.limit, prompt)?.ok_or_else(|| EvalError::TooLong {
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
        Ok((request, input.interactions.len() - fitted.kept.len()))
    }
}
