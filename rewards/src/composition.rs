//! The reward of a run: a weighted sum of terms, gated by the response format.

use std::collections::HashMap;

use configs::rl::reward::MalformedReward;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::batch::{JudgeRequest, RewardBatch, RewardResponse};
use crate::error::RewardError;
use crate::judge::Verdict;
use crate::registry::Registry;
use crate::terms::RewardTerm;

/// Specification of a reward term in a config.
#[derive(Clone, Debug, PartialEq)]
pub struct TermSpec {
    /// Name under which the term is registered.
    pub name: String,
    /// Factor of the term in the sum; negative for a penalty.
    pub weight: f64,
    /// Parameters of the term: a JSON object, empty if the term takes none.
    pub params: Value,
}

impl TermSpec {
    /// Returns a specification without parameters.
    pub fn new(name: &str, weight: f64) -> Self {
        Self { name: name.into(), weight, params: Value::Object(serde_json::Map::new()) }
    }
}

/// The reward of one response, with its breakdown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reward {
    /// Σ weight · score; for a response that failed the format gate, the reward of malformed responses, regardless of the scores.
    pub total: f64,
    /// Unweighted scores of the terms, in the order of [`Composition::names`].
    pub scores: Vec<f64>,
    /// Whether the response passed the format gate.
    pub well_formed: bool,
}

/// Rewards of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewards {
    /// One reward per response, in order.
    pub rewards: Vec<Reward>,
    /// Metrics of the terms, under the key `reward/TERM/KEY`.
    pub metrics: Vec<(String, f64)>,
}

struct Term {
    name: String,
    weight: f64,
    term: Box<dyn RewardTerm>,
}

/// A weighted sum of reward terms.
pub struct Composition {
    terms: Vec<Term>,
    malformed: MalformedReward,
}

impl Composition {
    /// Builds the terms of `specs`. A malformed response has reward 0.
    ///
    /// # Errors
    /// Returns a [`RewardError`] for an unknown or repeated name, parameters that a term does not accept, a non-finite weight, or
    /// an empty `specs`.
    pub fn new(registry: &Registry, specs: &[TermSpec]) -> Result<Self, RewardError> {
        let mut terms: Vec<Term> = Vec::new();
        for TermSpec { name, weight, params } in specs {
            let term = registry.build(name, params)?;
            if terms.iter().any(|t| t.name == *name) {
                return Err(RewardError::Twice(name.clone()));
            }
            if !weight.is_finite() {
                return Err(RewardError::Weight { term: name.clone(), weight: *weight });
            }
            terms.push(Term { name: name.clone(), weight: *weight, term });
        }
        if terms.is_empty() {
            return Err(RewardError::Empty);
        }
        Ok(Self { terms, malformed: MalformedReward::default() })
    }

    /// Sets the reward of malformed responses.
    #[must_use]
    pub fn with_malformed(self, malformed: MalformedReward) -> Self {
        Self { malformed, ..self }
    }

    /// Returns the names of the terms, in the order of the specifications.
    pub fn names(&self) -> Vec<&str> {
        self.terms.iter().map(|t| t.name.as_str()).collect()
    }

    /// Returns the requests of each term to the judge.
    ///
    /// # Errors
    /// Returns the errors of the terms.
    pub fn judgments(
        &self,
        step: u64,
        responses: &[RewardResponse<'_>],
    ) -> Result<Vec<Vec<JudgeRequest>>, RewardError> {
        let batch = RewardBatch { step, responses, verdicts: &[] };
        self.terms.iter().map(|t| t.term.judgments(&batch)).collect()
    }

    /// Computes the rewards of `responses`. `verdicts` holds the answers to [`Self::judgments`], term by term.
    ///
    /// # Errors
    /// Returns the errors of the terms, [`RewardError::Count`] for a wrong number of scores, and [`RewardError::NotFinite`] for a
    /// non-finite score.
    pub fn score(
        &self,
        step: u64,
        responses: &[RewardResponse<'_>],
        verdicts: &[Vec<Verdict>],
    ) -> Result<Rewards, RewardError> {
        let (mut columns, mut metrics) = (Vec::new(), Vec::new());
        for (i, term) in self.terms.iter().enumerate() {
            let verdicts = verdicts.get(i).map_or(&[][..], Vec::as_slice);
            let batch = RewardBatch { step, responses, verdicts };
            let scores = term.term.score(&batch)?;
            check(&term.name, responses, &scores)?;
            let own = term.term.metrics(&batch, &scores).into_iter();
            metrics.extend(own.map(|(key, value)| (format!("reward/{}/{key}", term.name), value)));
            columns.push((scores, term.weight));
        }
        let reward = |(i, response): (usize, &RewardResponse<'_>)| Reward {
            total: columns.iter().map(|(scores, w)| w * scores[i]).sum(),
            scores: columns.iter().map(|(scores, _)| scores[i]).collect(),
            well_formed: response.well_formed(),
        };
        let mut rewards: Vec<Reward> = responses.iter().enumerate().map(reward).collect();
        self.reward_malformed(responses, &mut rewards);
        Ok(Rewards { rewards, metrics })
    }

    /// Sets the totals of malformed responses.
    fn reward_malformed(&self, responses: &[RewardResponse<'_>], rewards: &mut [Reward]) {
        let mut minima: HashMap<usize, f64> = HashMap::new();
        for (response, reward) in responses.iter().zip(&*rewards).filter(|(_, reward)| reward.well_formed) {
            let minimum = minima.entry(response.group).or_insert(f64::INFINITY);
            *minimum = minimum.min(reward.total);
        }
        for (response, reward) in responses.iter().zip(rewards).filter(|(_, reward)| !reward.well_formed) {
            reward.total = match self.malformed {
                MalformedReward::Value(value) => value,
                MalformedReward::Minimum => minima.get(&response.group).copied().unwrap_or(0.0),
            };
        }
    }
}

fn check(term: &str, responses: &[RewardResponse<'_>], scores: &[f64]) -> Result<(), RewardError> {
    let term = || term.to_owned();
    if scores.len() != responses.len() {
        return Err(RewardError::Count { term: term(), expected: responses.len(), got: scores.len() });
    }
    match scores.iter().position(|score| !score.is_finite()) {
        Some(response) => {
            let (uid, score) = (responses[response].uid.into(), scores[response]);
            Err(RewardError::NotFinite { term: term(), response, uid, score })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use chat::Question;
    use serde::Deserialize;
    use serde_json::json;
    use tolerance::assert_within;

    use super::*;
    use crate::testing::response;

    fn composed(terms: &[(&str, f64)]) -> Result<Composition, RewardError> {
        let specs: Vec<TermSpec> = terms.iter().map(|(name, weight)| TermSpec::new(name, *weight)).collect();
        Composition::new(&Registry::default(), &specs)
    }

    fn rewards(terms: &[(&str, f64)], responses: &[RewardResponse<'_>]) -> Vec<Reward> {
        composed(terms).unwrap().score(0, responses, &[]).unwrap().rewards
    }

    #[test]
    fn the_total_is_the_weighted_sum_and_the_breakdown_unweighted() {
        let terms = [("judge", 1.0), ("brevity", 0.5), ("format", 0.1)];
        assert_eq!(composed(&terms).unwrap().names(), ["judge", "brevity", "format"]);
        let rows = rewards(&terms, &[response(Some(0.8), 40), response(Some(0.25), 120)]);
        // 0.8 + 0.5 · (1 − 40/100) + 0.1 = 1.2. Over the limit, brevity is 0: 0.25 + 0.1 = 0.35.
        assert_eq!(rows[0].scores, [0.8, 0.6, 1.0]);
        assert_within!(rows[0].total - 1.2, 1e-12);
        assert_eq!(rows[1].scores, [0.25, 0.0, 1.0]);
        assert_within!(rows[1].total - 0.35, 1e-12);
    }

    #[test]
    fn a_malformed_response_earns_nothing_by_any_term() {
        let row = &rewards(&[("judge", 1.0), ("brevity", 1.0)], &[response(None, 10)])[0];
        assert_eq!((row.total, row.well_formed), (0.0, false));
        assert_eq!(row.scores, [0.0, 0.9]);
    }

    #[test]
    fn a_malformed_response_has_the_set_reward_or_the_minimum_of_its_group() {
        let of = |malformed: MalformedReward, responses: &[RewardResponse<'_>]| -> Vec<f64> {
            let composition = composed(&[("judge", 1.0), ("brevity", -2.0)]).unwrap().with_malformed(malformed);
            composition.score(0, responses, &[]).unwrap().rewards.iter().map(|r| r.total).collect()
        };
        let at = |group: usize, p_chosen, tokens| RewardResponse { group, ..response(p_chosen, tokens) };
        // 0.5 − 2 · (1 − 50/100) = −0.5; 0.75 − 2 · (1 − 75/100) = 0.25; 1 − 2 · (1 − 100/100) = 1.
        let responses = [
            at(3, Some(0.5), 50),
            at(3, None, 10),
            at(3, Some(0.75), 75),
            at(5, None, 10),
            at(5, Some(1.0), 100),
            at(7, None, 10),
            at(7, None, 20),
        ];
        // By default, a malformed response has more than the first one.
        assert_eq!(of(MalformedReward::default(), &responses), [-0.5, 0.0, 0.25, 0.0, 1.0, 0.0, 0.0]);
        assert_eq!(of(MalformedReward::Value(-3.5), &responses), [-0.5, -3.5, 0.25, -3.5, 1.0, -3.5, -3.5]);
        // A group without a well-formed response has no minimum.
        assert_eq!(of(MalformedReward::Minimum, &responses), [-0.5, -0.5, 0.25, 1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn bad_compositions_are_refused() {
        let refusal = |terms: &[(&str, f64)]| composed(terms).err();
        assert_eq!(refusal(&[]), Some(RewardError::Empty));
        assert_eq!(refusal(&[("judge", 1.0), ("judge", 1.0)]), Some(RewardError::Twice("judge".into())));
        assert!(matches!(refusal(&[("judge", f64::NAN)]), Some(RewardError::Weight { .. })));
        assert!(matches!(refusal(&[("jugde", 1.0)]), Some(RewardError::Unknown { .. })));
    }

    /// A term that asks the judge about each well-formed response. Its scores are the verdicts, followed by `scores`.
    #[derive(Deserialize)]
    struct Asks {
        scores: Vec<f64>,
    }

    impl RewardTerm for Asks {
        fn judgments(&self, batch: &RewardBatch<'_>) -> Result<Vec<JudgeRequest>, RewardError> {
            let summaries = batch.responses.iter().enumerate().filter_map(|(i, r)| Some((i, r.summary()?)));
            let question = |summary: &str| Question {
                query: None,
                preference: summary.into(),
                chosen: "a".into(),
                rejected: "b".into(),
            };
            Ok(summaries.map(|(response, s)| JudgeRequest { response, question: question(s) }).collect())
        }

        fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError> {
            let failed = |message: String| Err(RewardError::Failed { term: "asks".into(), message });
            let verdicts: Vec<f64> = batch.verdicts.iter().map(|v| v.p_chosen).collect();
            if verdicts.is_empty() {
                failed("no verdicts".into())
            } else {
                Ok([verdicts, self.scores.clone()].concat())
            }
        }

        fn metrics(&self, batch: &RewardBatch<'_>, scores: &[f64]) -> Vec<(String, f64)> {
            vec![("count".into(), scores.len() as f64), ("step".into(), batch.step as f64)]
        }
    }

    #[test]
    fn a_registered_term_asks_the_judge_takes_params_adds_metrics_and_may_fail() {
        let mut registry = Registry::default();
        registry.register::<Asks>("asks").unwrap();
        let composed = |scores: Value| {
            let asks = TermSpec { params: json!({"scores": scores}), ..TermSpec::new("asks", 2.0) };
            Composition::new(&registry, &[TermSpec::new("judge", 1.0), asks]).unwrap()
        };
        let verdict = |p_chosen| Verdict { p_chosen, orders: vec![], malformed: false };
        let responses = [response(Some(0.5), 1), response(Some(0.25), 1)];
        let asked = composed(json!([])).judgments(7, &responses).unwrap();
        assert_eq!(asked.iter().map(Vec::len).collect::<Vec<_>>(), [0, 2]);
        assert_eq!((asked[1][1].response, asked[1][1].question.preference.as_str()), (1, "s"));
        let score = |scores, answers: &[f64]| {
            let verdicts = [vec![], answers.iter().map(|p| verdict(*p)).collect()];
            composed(scores).score(7, &responses, &verdicts)
        };
        let scored = score(json!([]), &[0.75, 1.0]).unwrap();
        assert_eq!(scored.rewards.iter().map(|r| r.total).collect::<Vec<_>>(), [0.5 + 1.5, 0.25 + 2.0]);
        assert_eq!(scored.metrics, [("reward/asks/count".to_owned(), 2.0), ("reward/asks/step".to_owned(), 7.0)]);
        assert!(matches!(score(json!([]), &[]), Err(RewardError::Failed { .. })));
        assert!(matches!(score(json!([]), &[0.5]), Err(RewardError::Count { expected: 2, got: 1, .. })));
        assert!(matches!(score(json!([]), &[0.5, f64::NAN]), Err(RewardError::NotFinite { response: 1, .. })));
    }
}
