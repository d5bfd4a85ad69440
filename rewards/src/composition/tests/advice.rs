//! Tests of what is said before a run.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;

/// Returns a term of weight 1 with parameters.
fn with(name: &str, params: Value) -> TermConfig {
    TermConfig { params: serde_json::from_value(params).unwrap(), ..term(name, 1.0) }
}

#[test]
fn advice_names_what_cannot_have_an_effect() {
    let facts = |stages, steps| RunFacts { stages, steps, ..RunFacts::default() };
    let advice = |terms: Vec<TermConfig>, facts: &RunFacts| from(terms).advice(facts).join("\n");
    let judge = || term("judge", 1.0);
    assert_eq!(advice(vec![judge(), term("format", 0.1)], &facts(2, Some(10))), "");
    // A weight of 0, in the config, by stage or over the steps; not if another term requires the score.
    let weightless = "its weight is 0 at every step and stage";
    assert!(advice(vec![judge(), term("accuracy", 0.0)], &facts(2, None)).contains(weightless));
    let gated = TermConfig { requires: "accuracy".into(), ..term("brevity", 1.0) };
    assert_eq!(advice(vec![judge(), term("accuracy", 0.0), gated], &facts(2, None)), "");
    let of_stage = TermConfig { stage_weights: vec![0.0, 1.0], ..term("format", 1.0) };
    assert!(advice(vec![judge(), of_stage.clone()], &facts(1, None)).contains(weightless));
    assert_eq!(advice(vec![judge(), of_stage], &facts(2, None)), "");
    let schedule = WeightSchedule { kind: ScheduleKind::Linear, begin: 9, steps: 1, ..WeightSchedule::default() };
    let late = TermConfig { schedule, ..term("format", 1.0) };
    assert!(advice(vec![judge(), late.clone()], &facts(2, Some(10))).contains(weightless));
    assert_eq!(advice(vec![judge(), late], &facts(2, Some(11))), "");
    // Inputs that the run does not have.
    for name in ["retention", "consistency", "drift"] {
        assert!(advice(vec![judge(), term(name, 1.0)], &facts(1, None)).contains("rollout.stages is 1"), "{name}");
        assert_eq!(advice(vec![judge(), term(name, 1.0)], &facts(2, None)), "", "{name}");
    }
    let rows = |full: bool| {
        let tasks = if full { BTreeSet::from(["news".to_owned()]) } else { BTreeSet::new() };
        RunFacts { rows: Some(RowFacts { transfer: full, references: full, tasks }), ..facts(2, None) }
    };
    let weighted = TermConfig { task_weights: [("news".to_owned(), 2.0)].into(), ..judge() };
    for (needy, words) in [
        (term("cross_task", 1.0), "`transfer`"),
        (term("teacher_similarity", 1.0), "`references`"),
        (weighted, "task_weights.news has no effect"),
    ] {
        let poor = advice(vec![needy.clone()], &rows(false));
        assert!(poor.contains(words), "{poor}");
        assert_eq!(advice(vec![needy], &rows(true)), "");
    }
    let over_past = with("margin", json!({"over": "past_summary"}));
    assert!(advice(vec![over_past.clone()], &facts(1, None)).contains("there is none to compare with"));
    assert!(!advice(vec![over_past], &facts(2, None)).contains("compare"));
    assert!(!advice(vec![term("margin", 1.0)], &facts(1, None)).contains("compare"));
    let named = with("cross_judge", json!({"judge": "second"}));
    let panel = |panel_judges| RunFacts { panel_judges, ..facts(2, None) };
    assert!(advice(vec![judge(), term("cross_judge", 1.0)], &panel(1)).contains("the panel has one"));
    assert_eq!(advice(vec![judge(), term("cross_judge", 1.0)], &panel(2)), "");
    assert_eq!(advice(vec![judge(), named], &panel(1)), "");
    // A fault that is rewarded.
    assert!(advice(vec![judge(), term("copying", 0.1)], &facts(2, None)).contains("its weight is positive"));
}

#[test]
fn advice_compares_malformed_responses_with_the_lowest_total_of_others() {
    let facts = RunFacts { stages: 2, ..RunFacts::default() };
    let said = |malformed: MalformedReward, terms: Vec<TermConfig>| {
        from(terms).with_malformed(malformed).advice(&facts).join("\n")
    };
    let zero = MalformedReward::default;
    let penalized = || vec![term("judge", 1.0), term("copying", -0.25)];
    assert!(said(zero(), penalized()).contains("a well-formed response can have -0.250"));
    assert_eq!(said(MalformedReward::Value(-0.25), penalized()), "");
    assert_eq!(said(MalformedReward::Minimum, penalized()), "");
    let normalized = TermConfig { normalize: Normalization::Group, ..term("judge", 1.0) };
    assert!(said(zero(), vec![normalized]).contains("any negative number"));
    let margin = |clip| TermConfig { clip, ..term("margin", 1.0) };
    assert!(said(zero(), vec![margin(None)]).contains("can have -1.000"));
    assert_eq!(said(zero(), vec![margin(Some([0.0, 1.0]))]), "");
    let by_task = TermConfig { task_weights: [("news".to_owned(), -2.0)].into(), ..term("judge", 1.0) };
    assert!(said(zero(), vec![by_task]).contains("can have -2.000"));
}

#[test]
fn a_score_without_limits_may_be_any_number_unless_its_weight_is_0() {
    let facts = RunFacts { stages: 2, ..RunFacts::default() };
    let said = |keys: TermConfig| {
        let external = TermConfig { command: vec!["mine".into()], ..keys };
        from(vec![term("judge", 1.0), external]).advice(&facts).join("\n")
    };
    let mine = || term("mine", 1.0);
    assert!(said(mine()).contains("can have any negative number"));
    assert_eq!(said(TermConfig { clip: Some([0.0, 2.0]), ..mine() }), "");
    let never = said(TermConfig { stage_weights: vec![0.0, 0.0], ..mine() });
    assert!(never.contains("its weight is 0") && !never.contains("can have"), "{never}");
}

#[test]
fn advice_warns_of_past_targets_in_the_prompt_and_of_credit_that_is_normalized_away() {
    let facts = RunFacts { stages: 2, rereads_target: true, baseline_credit: true, ..RunFacts::default() };
    let advice = |term: TermConfig, facts: &RunFacts| {
        from(vec![term]).with_malformed(MalformedReward::Minimum).advice(facts).join("\n")
    };
    for name in ["retention", "drift"] {
        assert!(advice(term(name, 1.0), &facts).contains("set rollout.reread_target = false"), "{name}");
        assert_eq!(advice(term(name, 1.0), &RunFacts { rereads_target: false, ..facts.clone() }), "", "{name}");
    }
    let normalized = |normalize| TermConfig { normalize, ..term("judge", 1.0) };
    assert!(advice(normalized(Normalization::Group), &facts).contains("set carry_baseline = 0"));
    assert_eq!(advice(normalized(Normalization::Running), &facts), "");
    for other in [RunFacts { stages: 1, ..facts.clone() }, RunFacts { baseline_credit: false, ..facts }] {
        assert_eq!(advice(normalized(Normalization::Group), &other), "");
    }
}
