//! Reward term `response_likelihood`.

use chat::{Interaction, Message, PromptSet};
use serde::{Deserialize, Deserializer, de::Error};

use crate::batch::{JudgeRequest, RewardBatch};
use crate::error::RewardError;
use crate::panel::PanelVerdict;
use crate::query::{JudgeQuery, PanelRequest};
use crate::terms::{RewardTerm, TermInput, asking};

const NAME: &str = "response_likelihood";

/// Number of questions about one target: two items, each with and without the summary.
const QUESTIONS: usize = 4;

/// Whether the chosen response becomes likelier with the summary, more than the rejected one does. With ℓ the log-probability of an
/// item as the answer to the query (template `respond` of the prompt set `prompts`, plain by default) under a judge's model,
///
///   Δ = [ℓ(chosen | summary) − ℓ(chosen)] − [ℓ(rejected | summary) − ℓ(rejected)],
///
/// mean over the panel's judges. The score is 1 if Δ > `margin` (0 by default), else 0, or σ((Δ − `margin`) / `temperature`) with a
/// `temperature` above 0 (the default is 0); mean over the targets. ℓ is the mean over the tokens, or their sum with `per_token =
/// false`. `judge` names one judge to ask in place of the panel. It must be a model in this process: endpoints do not return the
/// likelihood of a given text.
///
/// Range: 0 to 1. A malformed response gets 0. For an empty summary Δ is 0, so it gets 0 with the default margin. The metric `gain` is
/// the mean Δ. Source: the generation reward of AlignXplore (arXiv 2505.18071).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResponseLikelihood {
    #[serde(default)]
    judge: Option<String>,
    #[serde(default = "asking::default_prompts", deserialize_with = "asking::prompt_set")]
    prompts: PromptSet,
    #[serde(default)]
    margin: f64,
    #[serde(default, deserialize_with = "not_negative")]
    temperature: f64,
    #[serde(default = "yes")]
    per_token: bool,
}

fn yes() -> bool {
    true
}

fn not_negative<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(from)?;
    if value >= 0.0 && value.is_finite() {
        return Ok(value);
    }
    Err(D::Error::custom(format!("`temperature` is {value}; expected 0 or more")))
}

fn failed(message: String) -> RewardError {
    RewardError::Failed { term: NAME.into(), message }
}

impl ResponseLikelihood {
    /// Returns the questions about one target: chosen and rejected with the summary, then without.
    fn questions(
        &self,
        uid: &str,
        target: &Interaction,
        summary: &str,
    ) -> Result<[PanelRequest; QUESTIONS], RewardError> {
        let rejected = target.rejected.as_ref().ok_or_else(|| {
            failed(format!("user {uid}: a target has no `rejected` item; add one, or remove the target from the row"))
        })?;
        let respond = |preference: Option<&str>| {
            self.prompts.respond(target.query.as_deref(), preference).map_err(|e| failed(e.to_string()))
        };
        let (with, without) = (respond(Some(summary).filter(|s| !s.is_empty()))?, respond(None)?);
        let ask = |messages: &[Message], text: &str| {
            let query = JudgeQuery::Likelihood { messages: messages.to_vec(), text: text.into() };
            asking::to(self.judge.as_deref(), PanelRequest::new(query).of_task(target.task.as_deref()))
        };
        Ok([ask(&with, &target.chosen), ask(&with, rejected), ask(&without, &target.chosen), ask(&without, rejected)])
    }

    /// Returns Δ from the four answers about a target.
    fn gain(&self, answers: &[PanelVerdict]) -> f64 {
        let likelihoods: Vec<Vec<f64>> = answers.iter().map(|answer| self.log_likelihoods(answer)).collect();
        let judges = likelihoods.iter().map(Vec::len).min().unwrap_or(0);
        let of_judge = |j: usize| {
            let at = |question: usize| likelihoods[question][j];
            (at(0) - at(2)) - (at(1) - at(3))
        };
        (0..judges).map(of_judge).sum::<f64>() / judges.max(1) as f64
    }

    /// Returns ℓ under each of the judges that answered.
    fn log_likelihoods(&self, answer: &PanelVerdict) -> Vec<f64> {
        let of = |p: f64, tokens: usize| {
            let per_token = p.max(f64::MIN_POSITIVE).ln();
            if self.per_token { per_token } else { per_token * tokens as f64 }
        };
        match &answer.judges[..] {
            [] => vec![of(answer.p_chosen, 1)],
            judges => judges.iter().map(|j| of(j.verdict.p_chosen, j.verdict.tokens)).collect(),
        }
    }

    /// Returns Δ of each target of each well-formed response.
    fn gains(&self, batch: &RewardBatch<'_>) -> Result<Vec<(usize, f64)>, RewardError> {
        let targets = |(index, r): (usize, &crate::RewardResponse<'_>)| {
            std::iter::repeat_n(index, if r.summary().is_some() { r.targets.len() } else { 0 })
        };
        let asked: Vec<usize> = batch.responses.iter().enumerate().flat_map(targets).collect();
        asking::answered(NAME, batch, QUESTIONS * asked.len())?;
        Ok(asked.into_iter().zip(batch.verdicts.chunks(QUESTIONS).map(|answers| self.gain(answers))).collect())
    }

    fn of(&self, gain: f64) -> f64 {
        let above = gain - self.margin;
        match self.temperature {
            0.0 => f64::from(u8::from(above > 0.0)),
            temperature => 1.0 / (1.0 + (-above / temperature).exp()),
        }
    }
}

impl RewardTerm for ResponseLikelihood {
    fn judgments(&self, batch: &RewardBatch<'_>) -> Result<Vec<JudgeRequest>, RewardError> {
        let mut requests = Vec::new();
        for (index, response) in batch.responses.iter().enumerate() {
            let Some(summary) = response.summary() else { continue };
            for target in response.targets {
                let questions = self.questions(response.uid, target, summary)?;
                requests.extend(questions.map(|request| JudgeRequest::new(index, request)));
            }
        }
        Ok(requests)
    }

    fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError> {
        let mut scores = vec![0.0; batch.responses.len()];
        for (response, gain) in self.gains(batch)? {
            scores[response] += self.of(gain) / batch.responses[response].targets.len() as f64;
        }
        Ok(scores)
    }

    fn metrics(&self, batch: &RewardBatch<'_>, _: &[f64]) -> Vec<(String, f64)> {
        match self.gains(batch).as_deref() {
            Ok([]) | Err(_) => Vec::new(),
            Ok(gains) => vec![("gain".into(), gains.iter().map(|(_, gain)| gain).sum::<f64>() / gains.len() as f64)],
        }
    }

    fn needs(&self) -> &'static [TermInput] {
        &[TermInput::Likelihood]
    }

    fn judge(&self) -> Option<&str> {
        self.judge.as_deref()
    }
}
