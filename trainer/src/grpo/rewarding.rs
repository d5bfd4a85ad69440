//! Judges and rewards of sampled groups.

use chat::Question;
use configs::rl::RlConfig;
use configs::rl::reward::FormatGate;
use rewards::{Composition, JudgeRequest, Response, RewardResponse, Verdict};

use super::group::Group;
use crate::TrainError;

/// Returns, for each response, the judge's verdict on the user's choice given its summary; `None` for a response that fails the
/// format gate.
pub type JudgeFn<'a> = dyn Fn(&[Response<'_>]) -> Result<Vec<Option<Verdict>>, TrainError> + 'a;

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
    (step, config): (u64, &RlConfig),
    ask: &AskFn<'_>,
) -> Result<Vec<(String, f64)>, TrainError> {
    fn of_group(
        index: usize,
        group: &Group,
        (token_limit, gate): (usize, FormatGate),
    ) -> impl Iterator<Item = RewardResponse<'_>> {
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
            gate,
            p_chosen: s.p_chosen,
        })
    }
    let rules = (config.rollout.max_new_tokens, config.reward.gate);
    let responses: Vec<RewardResponse<'_>> =
        groups.iter().enumerate().flat_map(|(index, group)| of_group(index, group, rules)).collect();
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
