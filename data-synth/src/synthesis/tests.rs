use std::cell::RefCell;

use chat::completer::Scripted;
use chat::records::SignalRecord;
use chat::{Completion, CompletionRequest, FinishReason, Interaction, Question};

use super::*;
use crate::ideal;
use crate::signal::score;
use crate::summary::NamedPreferences;
use crate::teacher::{Teacher, read_choices};
use crate::testing;
use crate::world::{LifeSpan, Population, WorldParams, users};

fn scored(count: usize, least: usize, most: usize) -> Vec<ScoredHistory> {
    let span = LifeSpan { least_interactions: least, most_interactions: most, targets: 0, transfer_targets: 0 };
    let subjects = users(&WorldParams::default(), Population::Synthesis, count, &span);
    let histories: Vec<_> = subjects.iter().map(|s| s.history()).collect();
    let oracles: Vec<_> = subjects.iter().map(|s| s.oracle.clone()).collect();
    score(&histories, &oracles, "", &ideal::verify).unwrap()
}

fn run(
    users: &[ScoredHistory],
    teacher: &dyn Completer,
    config: &SynthesisSettings,
) -> Result<(Vec<SftRow>, SynthesisReport), SynthesisError> {
    synthesize(users, teacher, &testing::compact(), &ideal::verify, config)
}

#[test]
fn rows_are_published_rows_and_everyone_is_accounted_for() {
    let users = scored(150, 7, 24);
    // A teacher this terse rarely passes the published re-test.
    let config = SynthesisSettings {
        thresholds: SynthesisConfig { retest: 0.6, ..SynthesisConfig::default() },
        ..SynthesisSettings::default()
    };
    let (rows, report) = run(&users, &Teacher::default(), &config).unwrap();
    assert_eq!(report.users, 150);
    assert!(report.too_short > 0 && report.rows > 20, "{report:?}");
    assert_eq!((rows.len(), rows.len() % 2), (report.rows, 0));
    assert_eq!(report.first.entered, 150 - report.too_short);
    assert_eq!(report.second.entered, report.first.passed);
    assert_eq!(report.rows, 2 * report.second.passed);
    for stage in [&report.first, &report.second] {
        let lost = stage.few_targets + stage.few_correct + stage.malformed_merges + stage.failed_retest;
        assert_eq!(stage.entered, lost + stage.passed, "{stage:?}");
    }
    for pair in rows.chunks(2) {
        let [first, second] = pair else { panic!("rows come in pairs") };
        assert!(first.prompt[0].content.starts_with("past: Not Provided."));
        let opening = reasoning::split(&first.completion[0].content).unwrap();
        assert!(second.prompt[0].content.contains(opening.summary), "the second row's past is the first's summary");
        for row in pair {
            assert!(!row.prompt[0].content.contains("later:"), "no target is shown");
            let parts = reasoning::split(&row.completion[0].content).unwrap();
            let (tally, _) = read_choices(row.prompt[0].content.trim()).unwrap();
            assert_eq!(parts.reasoning, tally.text());
            assert!(!NamedPreferences::read(parts.summary).is_empty());
        }
    }
}

#[test]
fn batching_and_company_change_nothing() {
    let users = scored(40, 12, 20);
    let config = SynthesisSettings::default();
    let all = run(&users, &Teacher::default(), &config).unwrap();
    let by_three =
        run(&users, &Teacher::default(), &SynthesisSettings { users_per_batch: 3, ..config.clone() }).unwrap();
    assert_eq!(all, by_three);
    let other = run(&users, &Teacher::default(), &SynthesisSettings { seed: 7, ..config }).unwrap();
    assert_ne!(all.0, other.0);
}

#[test]
fn the_judge_is_asked_in_few_large_calls() {
    let users = scored(60, 15, 15);
    let calls = RefCell::new(Vec::new());
    let verify = |questions: &[Question]| {
        calls.borrow_mut().push(questions.len());
        ideal::verify(questions)
    };
    synthesize(&users, &Teacher::default(), &testing::compact(), &verify, &SynthesisSettings::default()).unwrap();
    assert_eq!(calls.borrow().len(), 4);
    assert!(calls.borrow()[0] > 100, "{:?}", calls.borrow());
}

#[test]
fn a_teacher_out_of_form_costs_candidates_not_the_run() {
    let mute = chat::completer::Scripted::new("mute", |_| Completion {
        text: "no idea".into(),
        tokens: Vec::new(),
        finish: FinishReason::Stop,
    });
    let (rows, report) = run(&scored(20, 15, 15), &mute, &SynthesisSettings::default()).unwrap();
    assert!(rows.is_empty());
    assert_eq!(report.first.malformed_candidates, report.first.candidates);
    assert_eq!(report.first.few_targets + report.first.few_correct, 20);
}

#[test]
fn positive_only_histories_have_no_targets() {
    let mut users = scored(5, 12, 12);
    for user in &mut users {
        user.interactions.iter_mut().for_each(|i| i.rejected = None);
        user.signals.fill(None);
    }
    let (rows, report) = run(&users, &Teacher::default(), &SynthesisSettings::default()).unwrap();
    assert_eq!((rows.len(), report.first.few_targets), (0, 5));
}

#[test]
fn a_failing_judge_stops_the_run() {
    let fail = |_: &[Question]| Err("out of memory".to_owned());
    let users = scored(10, 15, 15);
    let error = synthesize(&users, &Teacher::default(), &testing::compact(), &fail, &SynthesisSettings::default());
    assert!(error.unwrap_err().to_string().contains("out of memory"));
}

/// Five choices are ahead of the first stage. By default the first two are decidable: e^-0.1 = 0.9048, and e^-0.11 = 0.8958.
#[test]
fn each_threshold_decides_about_a_user_of_fifteen_interactions() {
    let signal = |logprob1: f64| Some(SignalRecord { logprob1, logprob2: -0.7, signal: 0.1 });
    let interaction = |i: usize| Interaction {
        chosen: format!("good {i}"),
        rejected: Some(format!("bad {i}")),
        ..Interaction::default()
    };
    let mut signals = vec![None; 15];
    signals[5..10].copy_from_slice(&[signal(-0.05), signal(-0.1), signal(-0.11), signal(-0.2), None]);
    let interactions = (0..15).map(interaction).collect();
    let user = ScoredHistory { uid: "u".into(), interactions, signals, ..ScoredHistory::default() };
    let teacher = Scripted::new("fixed", |request: &CompletionRequest| {
        let merges = request.thinking == Some(false);
        let text = if merges { "all |PREFERENCE| likes good ones" } else { "<think>t</think>likes good ones" };
        Completion { text: text.into(), tokens: Vec::new(), finish: FinishReason::Stop }
    });
    // One of the choices is predicted.
    let verify = |questions: &[Question]| -> Result<Vec<f64>, String> {
        Ok(questions.iter().map(|question| if question.chosen == "good 5" { 0.9 } else { 0.1 }).collect())
    };
    let report = |thresholds: &SynthesisConfig, least_third: usize| {
        let config = SynthesisSettings { thresholds: thresholds.clone(), least_third, ..SynthesisSettings::default() };
        synthesize(std::slice::from_ref(&user), &teacher, &testing::compact(), &verify, &config).unwrap().1
    };
    let base = SynthesisConfig { least_targets: 1, least_correct: 1, ..SynthesisConfig::default() };
    let candidates = |thresholds: &SynthesisConfig| report(thresholds, 3).first.candidates;
    assert_eq!(candidates(&base), 2);
    for (target_probability, expected) in [(0.96, 0), (0.91, 1), (0.89, 3), (0.8, 4), (0.0, 4)] {
        let changed = SynthesisConfig { target_probability, ..base.clone() };
        assert_eq!(candidates(&changed), expected, "{target_probability}");
    }
    assert_eq!(candidates(&SynthesisConfig { most_targets: 1, ..base.clone() }), 1);
    for (least_targets, lost) in [(2, 0), (3, 1)] {
        let changed = SynthesisConfig { least_targets, ..base.clone() };
        assert_eq!(report(&changed, 3).first.few_targets, lost, "{least_targets}");
    }
    for (least_correct, lost) in [(1, 0), (2, 1)] {
        let first = report(&SynthesisConfig { least_correct, ..base.clone() }, 3).first;
        assert_eq!((first.few_correct, first.passed), (lost, 1 - lost), "{least_correct}");
    }
    assert_eq!([5, 6].map(|least_third| report(&base, least_third).too_short), [0, 1]);
}
