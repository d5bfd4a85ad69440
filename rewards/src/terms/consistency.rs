//! Reward term `consistency`.

use chat::PromptSet;
use serde::Deserialize;

use crate::batch::{JudgeRequest, RewardBatch, RewardResponse};
use crate::error::RewardError;
use crate::query::{JudgeQuery, PanelRequest};
use crate::terms::{RewardTerm, TermInput, asking};

const NAME: &str = "consistency";

/// The probability that the judges' models find no contradiction between the summary and the past summary: P("no") relative to "no"
/// and "yes" after the template `contradict` of the prompt set `prompts` (plain by default). `judge` names one judge to ask in place
/// of the panel.
///
/// Range: 0 to 1. A malformed response gets 0. An empty summary contradicts nothing and gets 1, and so do all responses without a
/// past summary, such as those of the first stage; neither is asked about. Source: consistency of summaries by a model of entailment,
/// as in SummaC (Laban et al., arXiv 2111.09525).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consistency {
    #[serde(default)]
    judge: Option<String>,
    #[serde(default = "asking::default_prompts", deserialize_with = "asking::prompt_set")]
    prompts: PromptSet,
}

/// Returns the two summaries to compare, if neither is empty.
fn summaries<'a>(response: &RewardResponse<'a>) -> Option<(&'a str, &'a str)> {
    let (past, summary) = (response.past_summary?, response.summary()?);
    (!past.trim().is_empty() && !summary.is_empty()).then_some((past, summary))
}

impl RewardTerm for Consistency {
    fn judgments(&self, batch: &RewardBatch<'_>) -> Result<Vec<JudgeRequest>, RewardError> {
        let failed = |e: chat::prompts::PromptError| RewardError::Failed { term: NAME.into(), message: e.to_string() };
        let mut requests = Vec::new();
        for (index, response) in batch.responses.iter().enumerate() {
            let Some((past, summary)) = summaries(response) else { continue };
            let messages = self.prompts.contradict(past, summary).map_err(failed)?;
            let query = JudgeQuery::Answer { messages, choices: ["no".into(), "yes".into()] };
            let request = PanelRequest::new(query).of_task(response.task);
            requests.push(JudgeRequest::new(index, asking::to(self.judge.as_deref(), request)));
        }
        Ok(requests)
    }

    fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError> {
        let answers = asking::means(NAME, batch, &self.judgments(batch)?)?;
        let score = |(r, answer): (&RewardResponse<'_>, Option<f64>)| match answer {
            Some(p) => p,
            None if r.summary().is_some() => 1.0,
            None => 0.0,
        };
        Ok(batch.responses.iter().zip(answers).map(score).collect())
    }

    fn needs(&self) -> &'static [TermInput] {
        &[TermInput::PastSummary]
    }

    fn judge(&self) -> Option<&str> {
        self.judge.as_deref()
    }
}
