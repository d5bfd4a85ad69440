//! Judges and rewards of sampled groups.

use chat::Question;
use rewards::{Composition, JudgeRequest, Response, RewardResponse, Verdict};

use super::group::Group;
use crate::TrainError;

/// Returns, for each response, the probability that the judge picks the user's choice given its summary; `None` for a response
/// that fails the format gate.
pub type JudgeFn<'a> = dyn Fn(&[Response<'_>]) -> Result<Vec<Option<f64>>, TrainError> + 'a;

/// Asks the run's judge; returns one verdict per question, in order.
pub type AskFn<'a> = dyn Fn(&[Question]) -> Result<Vec<Verdict>, TrainError> + 'a;

/// Computes the reward of each sample, without credit. `ask` answers the questions of reward terms. Returns the metrics of the
/// terms.
///
/// # Errors
/// Those of the reward terms and of `ask`.
pub(super) fn set_rewards(
    groups: &mut [Group],
    composition: &Composition,
    (step, token_limit): (u64, usize),
    ask: &AskFn<'_>,
) -> Result<Vec<(String, f64)>, TrainError> {
    fn of_group(index: usize, group: &Group, token_limit: usize) -> impl Iterator<Item = RewardResponse<'_>> {
        group.samples.iter().map(move |s| RewardResponse {
            text: &s.text,
            tokens: s.ids.len(),
            token_limit,
            stage: group.stage,
            group: index,
            uid: &group.uid,
            history: &group.input.history,
            past_summary: group.input.past_summary.as_deref(),
            targets: &group.input.targets,
            p_chosen: s.p_chosen,
        })
    }
    let responses: Vec<RewardResponse<'_>> =
        groups.iter().enumerate().flat_map(|(index, group)| of_group(index, group, token_limit)).collect();
    let requests = composition.judgments(step, &responses)?;
    let questions: Vec<Question> =
        requests.iter().flatten().map(|JudgeRequest { question, .. }| question.clone()).collect();
    let mut verdicts = ask(&questions)?.into_iter();
    let verdicts: Vec<Vec<Verdict>> = requests.iter().map(|of| verdicts.by_ref().take(of.len()).collect()).collect();
    let scored = composition.score(step, &responses, &verdicts)?;
    let mut rewards = scored.rewards.into_iter();
    for sample in groups.iter_mut().flat_map(|g| &mut g.samples) {
        sample.reward = rewards.next().expect("one reward a sample");
    }
    Ok(scored.metrics)
}
