//! Judges and rewards of sampled groups.
//!
//! The questions of a stage, those about the targets and those of the reward terms, form one batch of requests ([`StageRequests`]).

use configs::rl::RlConfig;
use configs::rl::reward::FormatGate;
use rewards::{
    Composition, ExternalScores, JudgeQuery, JudgeRequest, JudgeStats, PanelRequest, PanelVerdict, RewardResponse, gate,
};

use super::group::Group;
use crate::TrainError;

/// Asks the run's judges; returns one verdict per request, in order.
pub type AskFn<'a> = dyn Fn(&[PanelRequest]) -> Result<Vec<PanelVerdict>, TrainError> + 'a;

/// Sends requests that will be asked to judges that can answer meanwhile, and returns at once.
pub type SubmitFn<'a> = dyn Fn(&[PanelRequest]) -> Result<(), TrainError> + 'a;

/// Returns what each judge did since the last call.
pub type StatsFn<'a> = dyn Fn() -> Vec<JudgeStats> + 'a;

/// Returns whether a response is well-formed.
pub type GateFn<'a> = dyn Fn(&str) -> bool + 'a;

/// Asks the judges all requests of a stage; returns one verdict per request, in order.
pub type AskStageFn<'a> = dyn Fn(&StageRequests) -> Result<Vec<PanelVerdict>, TrainError> + 'a;

/// The requests of a stage to the run's judges.
#[derive(Clone, Debug, Default)]
pub struct StageRequests {
    /// The requests about the targets of all well-formed samples, then those of the reward terms.
    pub requests: Vec<PanelRequest>,
    /// For each request the sample that it is about, counted over all groups.
    pub samples: Vec<usize>,
    /// The number of requests of each reward term.
    of_terms: Vec<usize>,
}

impl StageRequests {
    /// Collects the requests about `groups`.
    ///
    /// # Errors
    /// Those of the reward terms; [`TrainError::Judge`] if a target has no rejected item.
    pub fn of(
        groups: &[Group],
        composition: &Composition,
        (step, config): (u64, &RlConfig),
    ) -> Result<Self, TrainError> {
        let mut asked = Self::default();
        let samples = groups.iter().flat_map(|group| group.samples.iter().map(move |sample| (group, sample)));
        for (index, (group, sample)) in samples.enumerate().filter(|(_, (_, sample))| sample.reward.well_formed) {
            let requests = gate::target_requests(config.reward.gate, &sample.text, &group.input.targets)?;
            asked.samples.extend(requests.iter().map(|_| index));
            asked.requests.extend(requests);
        }
        for requests in composition.judgments(step, &responses(groups, config, false))? {
            asked.of_terms.push(requests.len());
            for JudgeRequest { response, request } in requests {
                asked.samples.push(response);
                asked.requests.push(request);
            }
        }
        Ok(asked)
    }

    /// Returns the relative cost of each request.
    pub fn costs(&self) -> Vec<f64> {
        costs(&self.requests)
    }
}

/// Returns the relative cost of each request.
pub(super) fn costs(requests: &[PanelRequest]) -> Vec<f64> {
    let length = |request: &PanelRequest| match &request.query {
        JudgeQuery::Choice(question) => question.preference.len(),
        JudgeQuery::Answer { messages, .. } | JudgeQuery::Likelihood { messages, .. } => {
            messages.iter().map(|message| message.content.len()).sum()
        }
    };
    requests.iter().map(|request| 1.0 + length(request) as f64).collect()
}

/// Sets whether each sample is well-formed, by the format gate.
pub fn apply_gate(groups: &mut [Group], gate: FormatGate) {
    for sample in groups.iter_mut().flat_map(|group| &mut group.samples) {
        sample.reward.well_formed = gate::split(gate, &sample.text).is_some();
    }
}

/// Judges the samples of `groups`, and computes the reward of each, without credit. `ask` answers all requests in one call. Returns
/// the metrics of the reward terms.
///
/// # Errors
/// Those of the reward terms and of `ask`.
pub fn judge_and_reward(
    groups: &mut [Group],
    composition: &Composition,
    (step, config): (u64, &RlConfig),
    ask: &AskStageFn<'_>,
) -> Result<Vec<(String, f64)>, TrainError> {
    let of_terms = judge(groups, composition, (step, config), ask)?;
    set_rewards(groups, composition, (step, config), &of_terms)
}

/// Judges the samples of `groups`. `ask` answers all requests in one call. Returns the answers to the requests of each reward term.
///
/// # Errors
/// Those of the reward terms and of `ask`.
pub fn judge(
    groups: &mut [Group],
    composition: &Composition,
    (step, config): (u64, &RlConfig),
    ask: &AskStageFn<'_>,
) -> Result<Vec<Vec<PanelVerdict>>, TrainError> {
    let asked = StageRequests::of(groups, composition, (step, config))?;
    let mut verdicts = ask(&asked)?.into_iter();
    for group in groups.iter_mut() {
        let targets = group.input.targets.len();
        for sample in &mut group.samples {
            let of_sample = if sample.reward.well_formed { targets } else { 0 };
            sample.verdicts = verdicts.by_ref().take(of_sample).collect();
            let mean = |of: fn(&PanelVerdict) -> f64| {
                let judged = !sample.verdicts.is_empty();
                judged.then(|| sample.verdicts.iter().map(of).sum::<f64>() / sample.verdicts.len() as f64)
            };
            let silent = mean(|verdict| f64::from(u8::from(verdict.malformed)));
            (sample.p_chosen, sample.no_answer) = (mean(|verdict| verdict.p_chosen), silent.unwrap_or(0.0));
        }
    }
    Ok(asked.of_terms.iter().map(|count| verdicts.by_ref().take(*count).collect()).collect())
}

/// Computes the reward of each judged sample, without credit. `of_terms` holds the answers to the requests of each reward term.
/// External terms are asked. Returns the metrics of the terms.
///
/// # Errors
/// Those of the reward terms.
pub fn set_rewards(
    groups: &mut [Group],
    composition: &Composition,
    (step, config): (u64, &RlConfig),
    of_terms: &[Vec<PanelVerdict>],
) -> Result<Vec<(String, f64)>, TrainError> {
    let external = composition.ask_external(step, &responses(groups, config, true))?;
    set_rewards_with(groups, composition, (step, config), of_terms, &external)
}

/// Does the same as [`set_rewards`], with the scores of external terms.
///
/// # Errors
/// Those of the other reward terms.
pub fn set_rewards_with(
    groups: &mut [Group],
    composition: &Composition,
    (step, config): (u64, &RlConfig),
    of_terms: &[Vec<PanelVerdict>],
    external: &[ExternalScores],
) -> Result<Vec<(String, f64)>, TrainError> {
    let scored = composition.score_with(step, &responses(groups, config, true), of_terms, external)?;
    let mut rewards = scored.rewards.into_iter();
    for sample in groups.iter_mut().flat_map(|g| &mut g.samples) {
        sample.reward = rewards.next().expect("one reward a sample");
    }
    Ok(scored.metrics)
}

/// Returns what reward terms see of each sample; with the verdicts on it if it was `judged`.
pub fn responses<'a>(groups: &'a [Group], config: &RlConfig, judged: bool) -> Vec<RewardResponse<'a>> {
    let (token_limit, gate) = (config.rollout.max_new_tokens, config.reward.gate);
    let of_group = |(index, group): (usize, &'a Group)| {
        let target = group.input.targets.first();
        group.samples.iter().map(move |s| RewardResponse {
            text: &s.text,
            tokens: s.ids.len(),
            token_limit,
            stage: group.stage,
            group: index,
            uid: &group.uid,
            domain: target.and_then(|target| target.domain.as_deref()),
            task: target.and_then(|target| target.task.as_deref()),
            history: &group.input.history,
            messages: &group.input.messages,
            past_summary: group.input.past_summary.as_deref(),
            targets: &group.input.targets,
            verdicts: if judged { &s.verdicts } else { &[] },
            transfer: &group.input.transfer,
            past_targets: &group.input.past_targets,
            reference: group.input.reference.as_deref(),
            gate,
            well_formed: s.reward.well_formed,
            p_chosen: s.p_chosen.filter(|_| judged),
        })
    };
    groups.iter().enumerate().flat_map(of_group).collect()
}
