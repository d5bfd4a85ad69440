//! Tests of the composition, with values worked by hand.

mod advice;

use std::f64::consts::FRAC_1_SQRT_2;

use configs::rl::reward::TermConfig;
use configs::rl::{ScheduleKind, WeightSchedule};
use serde::Deserialize;
use serde_json::{Value, json};
use tolerance::assert_within;

use super::*;
use crate::query::PanelRequest;
use crate::testing::response;

fn composed(terms: &[(&str, f64)]) -> Result<Composition, RewardError> {
    let specs: Vec<TermSpec> = terms.iter().map(|(name, weight)| TermSpec::new(name, *weight)).collect();
    Composition::new(&Registry::default(), &specs)
}

fn from(terms: Vec<TermConfig>) -> Composition {
    let config = RewardConfig { terms, normalize_eps: 0.0, warn_after: 2, ..RewardConfig::default() };
    Composition::from_config(&Registry::default(), &config).unwrap()
}

fn term(name: &str, weight: f64) -> TermConfig {
    TermConfig { name: name.into(), weight, ..TermConfig::default() }
}

fn rewards(terms: &[(&str, f64)], responses: &[RewardResponse<'_>]) -> Vec<Reward> {
    composed(terms).unwrap().score(0, responses, &[]).unwrap().rewards
}

fn totals(composition: &Composition, step: u64, responses: &[RewardResponse<'_>]) -> Vec<f64> {
    composition.score(step, responses, &[]).unwrap().rewards.iter().map(|r| r.total).collect()
}

#[track_caller]
fn close(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{got:?} is not {want:?}");
    for (g, w) in got.iter().zip(want) {
        assert_within!(g - w, 1e-6, "{got:?} is not {want:?}");
    }
}

/// Returns a well-formed response that the judge gives `p`, in a group.
fn at(group: usize, p: f64) -> RewardResponse<'static> {
    RewardResponse { group, ..response(Some(p), 50) }
}

#[test]
fn the_total_is_the_weighted_sum_and_the_breakdown_unweighted() {
    let terms = [("judge", 1.0), ("brevity", 0.5), ("format", 0.1)];
    assert_eq!(composed(&terms).unwrap().names(), ["judge", "brevity", "format"]);
    let rows = rewards(&terms, &[response(Some(0.8), 40), response(Some(0.25), 120)]);
    // 0.8 + 0.5 · (1 − 40/100) + 0.1 = 1.2. Over the limit, brevity is 0: 0.25 + 0.1 = 0.35.
    assert_eq!(rows[0].scores, [0.8, 0.6, 1.0]);
    close(&rows[0].parts, &[0.8, 0.3, 0.1]);
    assert_within!(rows[0].total - 1.2, 1e-12);
    assert_eq!(rows[1].scores, [0.25, 0.0, 1.0]);
    assert_within!(rows[1].total - 0.35, 1e-12);
}

#[test]
fn a_malformed_response_earns_nothing_by_any_term() {
    let row = &rewards(&[("judge", 1.0), ("brevity", 1.0)], &[response(None, 10)])[0];
    assert_eq!((row.total, row.well_formed), (0.0, false));
    assert_eq!((&row.scores, &row.parts), (&vec![0.0, 0.9], &vec![0.0, 0.0]));
}

#[test]
fn a_malformed_response_has_the_set_reward_or_the_minimum_of_its_group() {
    let of = |malformed: MalformedReward, responses: &[RewardResponse<'_>]| -> Vec<f64> {
        let composition = composed(&[("judge", 1.0), ("brevity", -2.0)]).unwrap().with_malformed(malformed);
        totals(&composition, 0, responses)
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
    for required in ["fromat", "judge"] {
        let gate = Some(TermGate { term: required.into(), above: 0.0 });
        let specs = [TermSpec { gate, ..TermSpec::new("judge", 1.0) }, TermSpec::new("format", 1.0)];
        let error = Composition::new(&Registry::default(), &specs).err().unwrap().to_string();
        assert_eq!(
            error,
            format!("reward term `judge` requires `{required}`; expected another listed term: judge, format")
        );
    }
}

#[test]
fn a_term_may_be_listed_twice_under_other_names() {
    let composition = from(vec![
        TermConfig { name: "short".into(), term: "brevity".into(), weight: 1.0, ..TermConfig::default() },
        TermConfig { name: "shorter".into(), term: "brevity".into(), weight: 2.0, ..TermConfig::default() },
    ]);
    assert_eq!(composition.names(), ["short", "shorter"]);
    assert_eq!(totals(&composition, 0, &[response(Some(0.1), 75)]), [0.75]);
}

#[test]
fn a_closed_gate_makes_the_score_0() {
    let gated = |above: f64| {
        let gate = TermConfig { requires: "judge".into(), requires_above: above, ..term("brevity", 1.0) };
        from(vec![term("judge", 0.0), gate])
    };
    let responses = [at(0, 0.25), at(0, 0.5), at(0, 0.75), response(None, 50)];
    // Brevity is 0.5 for each. A score equal to the threshold does not open the gate; a malformed response has reward 0 anyhow.
    assert_eq!(totals(&gated(0.5), 0, &responses), [0.0, 0.0, 0.5, 0.0]);
    assert_eq!(totals(&gated(0.0), 0, &responses), [0.5, 0.5, 0.5, 0.0]);
}

#[test]
fn limits_apply_before_the_gate_and_the_weight() {
    let clipped = TermConfig { clip: Some([0.3, 0.6]), ..term("judge", 2.0) };
    assert_eq!(totals(&from(vec![clipped.clone()]), 0, &[at(0, 0.0), at(0, 0.5), at(0, 1.0)]), [0.6, 1.0, 1.2]);
    // Brevity is never above 0.5, so the gate is closed, and the score is 0, not the lower limit.
    let gated = TermConfig { requires: "brevity".into(), requires_above: 0.5, ..clipped };
    assert_eq!(totals(&from(vec![gated, term("brevity", 0.0)]), 0, &[at(0, 1.0)]), [0.0]);
}

#[test]
fn weights_depend_on_step_stage_and_task() {
    let scheduled = TermConfig {
        schedule: WeightSchedule { kind: ScheduleKind::Linear, steps: 4, ..WeightSchedule::default() },
        stage_weights: vec![1.0, 0.5],
        task_weights: [("news".to_owned(), 3.0)].into(),
        ..term("judge", 2.0)
    };
    let composition = from(vec![scheduled]);
    let of = |stage: usize, task: Option<&'static str>| RewardResponse { stage, task, ..at(0, 0.5) };
    let responses = [of(0, None), of(1, None), of(0, Some("news")), of(1, Some("news")), of(0, Some("shop"))];
    // 2 · 0.5 = 1, times 0, ¼ and 1 at steps 0, 1 and 4; half of it in stage 2; three times for news.
    assert_eq!(totals(&composition, 0, &responses), [0.0; 5]);
    assert_eq!(totals(&composition, 1, &responses), [0.25, 0.125, 0.75, 0.375, 0.25]);
    assert_eq!(totals(&composition, 4, &responses), [1.0, 0.5, 3.0, 1.5, 1.0]);
}

/// GDPO: each term is normalized within the group, so a term on a small scale counts as much as one on a large scale.
#[test]
fn group_normalization_as_worked_by_hand() {
    let terms = |normalize| {
        let of = |name, weight| TermConfig { normalize, ..term(name, weight) };
        from(vec![of("judge", 1.0), of("brevity", 1.0)])
    };
    let with = |group, p, tokens| RewardResponse { group, ..response(Some(p), tokens) };
    // Judge 0.1, 0.2, 0.3: mean 0.2, std 0.1, so −1, 0, 1. Brevity 0.9, 0.9, 0.3: mean 0.7, std √0.12 = 0.346410, so 0.577350,
    // 0.577350, −1.154701. The malformed response is in no mean. Group 4 has equal brevities.
    let malformed = RewardResponse { group: 2, ..response(None, 99) };
    let responses =
        [with(2, 0.1, 10), with(2, 0.2, 10), malformed, with(2, 0.3, 70), with(4, 0.25, 50), with(4, 0.75, 50)];
    let normalized = terms(Normalization::Group);
    let want = [-1.0 + 0.577_350_3, 0.577_350_3, 0.0, 1.0 - 1.154_700_5, -FRAC_1_SQRT_2, FRAC_1_SQRT_2];
    close(&totals(&normalized, 0, &responses), &want);
    // It does not depend on the step or on what was scored before.
    close(&totals(&normalized, 5, &responses), &want);
    close(&totals(&terms(Normalization::None), 0, &responses), &[1.0, 1.1, 0.0, 0.6, 0.75, 1.25]);
    // With "minimum", the malformed response has the lowest total of its group.
    let minimum = terms(Normalization::Group).with_malformed(MalformedReward::Minimum);
    close(&totals(&minimum, 0, &responses)[2..3], &[-1.0 + 0.577_350_3]);
    // ε is added to the deviation: 0.1 / (0.1 + 0.1).
    let config = RewardConfig {
        terms: vec![TermConfig { normalize: Normalization::Group, ..term("judge", 1.0) }],
        normalize_eps: 0.1,
        ..RewardConfig::default()
    };
    let composition = Composition::from_config(&Registry::default(), &config).unwrap();
    close(&totals(&composition, 0, &responses)[..2], &[-0.5, 0.0]);
}

fn running() -> Composition {
    from(vec![TermConfig { normalize: Normalization::Running, ..term("judge", 2.0) }])
}

#[test]
fn running_normalization_as_worked_by_hand() {
    let composition = running();
    // The first step has no statistics. A malformed response is not part of them.
    let first = [at(0, 0.1), at(0, 0.2), response(None, 10), at(1, 0.3)];
    close(&totals(&composition, 0, &first), &[0.2, 0.4, 0.0, 0.6]);
    // Mean 0.2, std 0.1, during the whole second step, whatever is scored in it.
    for responses in [[at(0, 0.4), at(0, 0.0)], [at(0, 0.4), at(0, 0.0)]] {
        close(&totals(&composition, 1, &responses), &[2.0 * 2.0, -2.0 * 2.0]);
    }
    // 0.1, 0.2, 0.3, 0.4, 0, 0.4, 0: mean 0.2, squared deviations 0.01 + 0.01 + 4 · 0.04 = 0.18, std √0.03 = 0.173205.
    close(&totals(&composition, 2, &[at(0, 0.4)]), &[2.0 * 1.154_700_5]);
}

#[test]
fn a_restored_state_gives_the_same_rewards_bit_for_bit() {
    let step = |composition: &Composition, step: u64| {
        let p = |i: u64| ((7 * step + 3 * i + 1) % 11) as f64 / 11.0;
        // Two stages of a step.
        let first = totals(composition, step, &[at(0, p(0)), at(0, p(1))]);
        [first, totals(composition, step, &[at(0, p(2)), at(1, p(3)), at(1, p(4))])].concat()
    };
    let whole = running();
    let expected: Vec<Vec<f64>> = (0..6).map(|i| step(&whole, i)).collect();
    for stop in 1..6 {
        let before = running();
        (0..stop).for_each(|i| drop(step(&before, i)));
        let written = serde_json::to_string(&before.save()).unwrap();
        let resumed = running();
        resumed.restore(serde_json::from_str(&written).unwrap());
        let rest: Vec<Vec<f64>> = (stop..6).map(|i| step(&resumed, i)).collect();
        assert_eq!(rest, expected[stop as usize..], "stopped after {stop}");
    }
}

#[test]
fn a_run_warns_once_of_what_had_no_effect() {
    let gate = |above: f64| TermConfig { requires: "judge".into(), requires_above: above, ..term("brevity", 1.0) };
    let run = |terms: Vec<TermConfig>, responses: &[RewardResponse<'_>]| -> Vec<Vec<String>> {
        let composition = from(terms);
        assert!(composition.take_warnings().is_empty(), "no step was made");
        (0..4).map(|step| (totals(&composition, step, responses), composition.take_warnings()).1).collect()
    };
    let different = [at(0, 0.2), RewardResponse { tokens: 10, ..at(0, 0.6) }, at(1, 0.9)];
    // Nothing to say.
    let quiet = run(vec![term("judge", 1.0), gate(0.5)], &different);
    assert!(quiet.iter().all(Vec::is_empty), "{quiet:?}");
    // After `warn_after` steps, which is 2, and once.
    let said = run(vec![term("judge", 1.0), gate(0.9), term("copying", -1.0), term("accuracy", 0.0)], &different);
    assert_eq!(said.iter().map(Vec::len).collect::<Vec<_>>(), [0, 2, 0, 0], "{said:?}");
    assert!(said[1][0].contains("`brevity`: its gate never opened in 2 steps"), "{said:?}");
    assert!(said[1][1].contains("`copying`: its score was the same for all well-formed responses"), "{said:?}");
    // What malformed responses have does not count.
    let gated = TermConfig { requires: "brevity".into(), requires_above: 0.6, ..term("format", 1.0) };
    let terms = vec![term("log_odds", 1.0), term("brevity", 0.0), gated];
    let said = run(terms, &[at(0, 0.6), response(None, 10)]);
    assert_eq!(said[1].len(), 2, "{said:?}");
    assert!(said[1][0].contains("`log_odds`: its score was the same"), "{said:?}");
    assert!(said[1][1].contains("`format`: its gate never opened"), "{said:?}");
    // The score of `format` is the same for all of them anyhow.
    assert!(run(vec![term("judge", 1.0), term("format", 1.0)], &different).iter().all(Vec::is_empty));
    let weighted = TermConfig { task_weights: [("news".to_owned(), 2.0)].into(), ..term("judge", 1.0) };
    let said = run(vec![weighted.clone()], &different);
    assert!(said[1][0].contains("task_weights.news had no effect"), "{said:?}");
    let of_task = different.map(|r| RewardResponse { task: Some("news"), ..r });
    assert!(run(vec![weighted], &of_task).iter().all(Vec::is_empty));
    // 0 switches the warnings off.
    let config = RewardConfig { terms: vec![term("copying", -1.0)], warn_after: 0, ..RewardConfig::default() };
    let composition = Composition::from_config(&Registry::default(), &config).unwrap();
    for step in 0..4 {
        totals(&composition, step, &different);
        assert!(composition.take_warnings().is_empty());
    }
}

#[test]
fn a_total_that_is_not_finite_is_an_error() {
    let composition = composed(&[("judge", f64::MAX), ("format", f64::MAX)]).unwrap();
    let error = composition.score(0, &[at(0, 0.0), at(0, 1.0)], &[]).unwrap_err();
    let expected = RewardError::NotFinite { term: "total".into(), response: 1, uid: "u".into(), score: f64::INFINITY };
    assert_eq!(error, expected);
}

/// A term that asks the judge about each well-formed response. Its scores are the verdicts, followed by `scores`.
#[derive(Deserialize)]
struct Asks {
    scores: Vec<f64>,
}

impl RewardTerm for Asks {
    fn judgments(&self, batch: &RewardBatch<'_>) -> Result<Vec<JudgeRequest>, RewardError> {
        let summaries = batch.responses.iter().enumerate().filter_map(|(i, r)| Some((i, r.summary()?)));
        let target = chat::Interaction { chosen: "a".into(), rejected: Some("b".into()), ..Default::default() };
        let request = |summary: &str| PanelRequest::choice(&target, summary).expect("a rejected item");
        Ok(summaries.map(|(response, summary)| JudgeRequest::new(response, request(summary))).collect())
    }

    fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError> {
        let failed = |message: String| Err(RewardError::Failed { term: "asks".into(), message });
        let verdicts: Vec<f64> = batch.verdicts.iter().map(|v| v.p_chosen).collect();
        if verdicts.is_empty() { failed("no verdicts".into()) } else { Ok([verdicts, self.scores.clone()].concat()) }
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
    let responses = [response(Some(0.5), 1), response(Some(0.25), 1)];
    let asked = composed(json!([])).judgments(7, &responses).unwrap();
    assert_eq!(asked.iter().map(Vec::len).collect::<Vec<_>>(), [0, 2]);
    assert_eq!((asked[1][1].response, &asked[1][1].request.judge), (1, &None));
    let score = |scores, answers: &[f64]| {
        let verdicts = [vec![], answers.iter().map(|p| PanelVerdict::new(*p)).collect()];
        composed(scores).score(7, &responses, &verdicts)
    };
    let scored = score(json!([]), &[0.75, 1.0]).unwrap();
    assert_eq!(scored.rewards.iter().map(|r| r.total).collect::<Vec<_>>(), [0.5 + 1.5, 0.25 + 2.0]);
    assert_eq!(scored.metrics, [("reward/asks/count".to_owned(), 2.0), ("reward/asks/step".to_owned(), 7.0)]);
    assert!(matches!(score(json!([]), &[]), Err(RewardError::Failed { .. })));
    assert!(matches!(score(json!([]), &[0.5]), Err(RewardError::Count { expected: 2, got: 1, .. })));
    assert!(matches!(score(json!([]), &[0.5, f64::NAN]), Err(RewardError::NotFinite { response: 1, .. })));
}
