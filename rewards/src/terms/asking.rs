//! Questions of terms to the judges.

use chat::{Interaction, PromptSet};
use serde::de::{Deserialize, Deserializer, Error};

use crate::batch::{JudgeRequest, RewardBatch, RewardResponse};
use crate::error::RewardError;
use crate::query::PanelRequest;

/// Returns the question whether the user picks what they picked at `target`, given `preference`; to the panel without `judge`.
pub(super) fn choice(
    term: &str,
    response: &RewardResponse<'_>,
    target: &Interaction,
    preference: &str,
    judge: Option<&str>,
) -> Result<PanelRequest, RewardError> {
    let request = PanelRequest::choice(target, preference).ok_or_else(|| RewardError::Failed {
        term: term.into(),
        message: format!(
            "user {}: a choice that the judge is asked about has no `rejected` item; add one, or remove the choice from the row",
            response.uid
        ),
    })?;
    Ok(to(judge, request))
}

/// Directs a request to a judge; to the panel without one.
pub(super) fn to(judge: Option<&str>, request: PanelRequest) -> PanelRequest {
    match judge {
        Some(judge) => request.of_judge(judge),
        None => request,
    }
}

/// Returns the questions about the `targets` of each well-formed response, given its summary.
pub(super) fn about_summaries<'a>(
    (term, judge): (&str, Option<&str>),
    batch: &RewardBatch<'a>,
    targets: impl Fn(&RewardResponse<'a>) -> &'a [Interaction],
) -> Result<Vec<JudgeRequest>, RewardError> {
    let mut requests = Vec::new();
    for (index, response) in batch.responses.iter().enumerate() {
        let Some(summary) = response.summary() else { continue };
        for target in targets(response) {
            requests.push(JudgeRequest::new(index, choice(term, response, target, summary, judge)?));
        }
    }
    Ok(requests)
}

/// Returns the mean verdict on each response's `requests`; `None` for a response without any.
pub(super) fn means(
    term: &str,
    batch: &RewardBatch<'_>,
    requests: &[JudgeRequest],
) -> Result<Vec<Option<f64>>, RewardError> {
    answered(term, batch, requests.len())?;
    let mut sums = vec![(0.0, 0.0); batch.responses.len()];
    for (request, verdict) in requests.iter().zip(batch.verdicts) {
        let (sum, count) = &mut sums[request.response];
        *sum += verdict.p_chosen;
        *count += 1.0;
    }
    Ok(sums.into_iter().map(|(sum, count)| (count > 0.0).then(|| sum / count)).collect())
}

/// Checks that each of `asked` requests was answered.
pub(super) fn answered(term: &str, batch: &RewardBatch<'_>, asked: usize) -> Result<(), RewardError> {
    if batch.verdicts.len() == asked {
        return Ok(());
    }
    let message = format!("asked the judges {asked} questions and got {} answers", batch.verdicts.len());
    Err(RewardError::Failed { term: term.into(), message })
}

/// Reads a prompt set from its built-in name or the path of its folder.
pub(super) fn prompt_set<'de, D: Deserializer<'de>>(from: D) -> Result<PromptSet, D::Error> {
    let name = String::deserialize(from)?;
    let sources = configs::prompts::sources(&name).map_err(D::Error::custom)?;
    PromptSet::new(&name, &sources).map_err(D::Error::custom)
}

/// Returns the prompt set of terms whose `prompts` are not set.
pub(super) fn default_prompts() -> PromptSet {
    let sources = configs::prompts::sources(configs::prompts::DEFAULT).expect("the default set is built in");
    PromptSet::new(configs::prompts::DEFAULT, &sources).expect("a test compiles the built-in templates")
}
