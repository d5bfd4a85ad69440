use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs;

use chat::completer::{CompleterError, Scripted};
use chat::journaled::Journaled;
use chat::records::SignalRecord;
use chat::{Completion, CompletionRequest, FinishReason, Interaction, Message, Question, SftRow};
use configs::SynthesisConfig;

use super::record::TaughtUser;
use super::*;
use crate::ideal;
use crate::signal::score;
use crate::synthesis::{SynthesisReport, Verification, synthesize};
use crate::teacher::Teacher;
use crate::testing;
use crate::world::{LifeSpan, Population, WorldParams, users};

fn scored(count: usize) -> Vec<ScoredHistory> {
    let span = LifeSpan { least_interactions: 8, most_interactions: 20, targets: 0, transfer_targets: 0 };
    let subjects = users(&WorldParams::default(), Population::Synthesis, count, &span);
    let histories: Vec<_> = subjects.iter().map(|s| s.history()).collect();
    let oracles: Vec<_> = subjects.iter().map(|s| s.oracle.clone()).collect();
    score(&histories, &oracles, "", &ideal::verify).unwrap()
}

/// A teacher this terse rarely passes the published re-test.
fn settings() -> SynthesisSettings {
    let thresholds = SynthesisConfig { retest: 0.6, ..SynthesisConfig::default() };
    SynthesisSettings { thresholds, users_per_batch: 7, ..SynthesisSettings::default() }
}

fn ideal_answers(questions: &[Question]) -> Result<Vec<Result<Verification, String>>, CompleterError> {
    let answered = |probability| Ok(Verification { probability, chosen_first: Some(true), answered: true });
    Ok(ideal::verify(questions).map_err(CompleterError::Model)?.into_iter().map(answered).collect())
}

struct Bench {
    folder: tempfile::TempDir,
    settings: SynthesisSettings,
    max_users: usize,
}

impl Bench {
    fn new(users: &[ScoredHistory]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        jsonl::write(&folder.path().join("scored.jsonl"), users).unwrap();
        Self { folder, settings: settings(), max_users: 0 }
    }

    fn run(&self, teacher: &dyn Completer, verify: VerifyEach<'_>) -> Result<TeachReport, TeachRunError> {
        self.observed(teacher, verify, &|_| {})
    }

    fn observed(
        &self,
        teacher: &dyn Completer,
        verify: VerifyEach<'_>,
        progress: &dyn Fn(TeachProgress),
    ) -> Result<TeachReport, TeachRunError> {
        let prices = JudgePrices { prompt: 2.0, completion: 10.0 };
        run(&TeachJob {
            input: &self.folder.path().join("scored.jsonl"),
            folder: &self.folder.path().join("teach"),
            teacher: Metered { model: teacher, prices },
            verifier: Metered { model: &Teacher::default(), prices },
            verify,
            prompts: &testing::compact(),
            settings: &self.settings,
            max_users: self.max_users,
            progress,
        })
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.folder.path().join("teach").join(file)).unwrap()
    }

    fn lines<T: serde::de::DeserializeOwned>(&self, file: &str) -> Vec<T> {
        self.text(file).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A teacher that fails on requests whose seed is a multiple of `n`.
fn failing(n: u64) -> impl Completer {
    struct Failing(u64);
    impl Completer for Failing {
        fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
            match requests.iter().position(|r| r.seed.is_multiple_of(self.0)) {
                Some(index) => Err(CompleterError::Request { index, message: "it is too long".into() }),
                None => Teacher::default().complete(requests),
            }
        }

        fn name(&self) -> &str {
            "failing"
        }
    }
    Failing(n)
}

#[test]
fn the_file_has_the_rows_of_the_synthesis_in_user_order_for_any_batches() {
    let users = scored(60);
    let bench = Bench::new(&users);
    let (rows, report) =
        synthesize(&users, &Teacher::default(), &testing::compact(), &ideal::verify, &bench.settings).unwrap();
    let steps = RefCell::new(Vec::new());
    let written = bench.observed(&Teacher::default(), &ideal_answers, &|p| steps.borrow_mut().push(p)).unwrap();
    assert!(!rows.is_empty() && report.too_short > 0, "{report:?}");
    assert_eq!(bench.lines::<SftRow>(ROWS), rows);
    assert_eq!(written.synthesis, report);
    let told: TeachReport = serde_json::from_str(&bench.text(REPORT)).unwrap();
    assert_eq!(told, written);
    let steps = steps.into_inner();
    // After each step, and after each answer of the teacher, of which the merges are the rest.
    let candidates = report.first.candidates + report.second.candidates;
    assert!(steps.len() > 60_usize.div_ceil(7) * Synthesizer::STEPS + candidates, "{}", steps.len());
    assert!(steps.windows(2).all(|pair| pair[0].done <= pair[1].done) && steps.iter().all(|step| step.users == 60));
    assert_eq!(steps.last().unwrap().done, 60);
    let texts = [bench.text(ROWS), bench.text(USERS)];
    for users_per_batch in [1, 60] {
        let other = Bench { settings: SynthesisSettings { users_per_batch, ..settings() }, ..Bench::new(&users) };
        other.run(&Teacher::default(), &ideal_answers).unwrap();
        assert_eq!([other.text(ROWS), other.text(USERS)], texts);
    }
    // The first users only.
    let first = Bench { max_users: 20, ..Bench::new(&users) };
    assert_eq!(first.run(&Teacher::default(), &ideal_answers).unwrap().synthesis.users, 20);
    assert!(texts[1].starts_with(&first.text(USERS)));
}

#[test]
fn the_records_say_what_became_of_every_user() {
    let users = scored(60);
    let bench = Bench::new(&users);
    let report = bench.run(&Teacher::default(), &ideal_answers).unwrap().synthesis;
    let records: Vec<TaughtUser> = bench.lines(USERS);
    assert!(records.iter().map(|record| &record.uid).eq(users.iter().map(|user| &user.uid)));
    let ended = |stage: usize, outcome: &str| {
        records.iter().filter(|r| r.stages.get(stage).is_some_and(|s| s.outcome == outcome)).count()
    };
    for (index, stage) in [&report.first, &report.second].into_iter().enumerate() {
        assert_eq!(ended(index, "passed"), stage.passed);
        assert_eq!(ended(index, "few_targets"), stage.few_targets);
        assert_eq!(ended(index, "few_correct"), stage.few_correct);
        assert_eq!(ended(index, "failed_retest"), stage.failed_retest);
    }
    assert_eq!(records.iter().filter(|r| r.stages.is_empty()).count(), report.too_short);
    assert_eq!(records.iter().map(|r| r.rows).sum::<usize>(), report.rows);
    let both = BTreeSet::from([true, false]);
    let candidates = || records.iter().flat_map(|r| &r.stages).flat_map(|s| &s.candidates);
    assert_eq!(candidates().map(|c| c.chosen_first).collect::<BTreeSet<_>>(), both);
    for stage in records.iter().flat_map(|r| &r.stages).filter(|s| s.outcome == "passed") {
        assert_eq!(stage.candidates.len(), stage.targets.len());
        let right = stage.candidates.iter().filter(|c| c.verdict.unwrap() > 0.5).count();
        assert_eq!((stage.retest.len(), stage.merged.is_some()), (right, true));
    }
    for candidate in candidates() {
        // The item shown first was the user's choice.
        assert_eq!(candidate.verifier_chosen_first, Some(true));
        assert_eq!(candidate.verifier_chose_a, Some(candidate.verdict.unwrap() > 0.5));
    }
    for record in records.iter().filter(|r| r.stages.len() == 2) {
        assert_eq!(record.stages[1].past, record.stages[0].merged);
    }
}

#[test]
fn a_failing_request_ends_the_run_or_leaves_out_its_user() {
    let users = scored(60);
    let whole = Bench::new(&users);
    whole.run(&Teacher::default(), &ideal_answers).unwrap();
    let stopping = Bench::new(&users);
    let error = stopping.run(&failing(29), &ideal_answers).unwrap_err().to_string();
    assert!(error.contains("the teacher refuses a request: it is too long"), "{error}");
    assert!(users.iter().any(|user| error.starts_with(&format!("user {}: ", user.uid))), "{error}");
    assert!(!stopping.folder.path().join("teach").join(ROWS).exists());

    let skipping = Bench { settings: SynthesisSettings { skip_failed: true, ..settings() }, ..Bench::new(&users) };
    let report = skipping.run(&failing(29), &ideal_answers).unwrap();
    let records: Vec<TaughtUser> = skipping.lines(USERS);
    let failed: BTreeSet<&str> = records.iter().filter(|r| r.error.is_some()).map(|r| r.uid.as_str()).collect();
    assert!(!failed.is_empty() && failed.len() < 30, "{failed:?}");
    assert_eq!((report.failed_users, report.failed.len()), (failed.len(), failed.len()));
    let SynthesisReport { first, second, .. } = &report.synthesis;
    assert_eq!(first.failed_requests + second.failed_requests, failed.len());
    // All others are as they would be without the failures.
    let others = |records: Vec<TaughtUser>| -> Vec<TaughtUser> {
        records.into_iter().filter(|r| !failed.contains(r.uid.as_str())).collect()
    };
    assert_eq!(others(records.clone()), others(whole.lines(USERS)));
    assert!(records.iter().filter(|r| r.error.is_some()).all(|r| r.rows == 0));
}

#[test]
fn a_failing_verification_ends_the_run_or_leaves_out_its_user() {
    let users = scored(40);
    let asked = Cell::new(0);
    let third = |questions: &[Question]| -> Result<Vec<Result<Verification, String>>, CompleterError> {
        let mut answers = ideal_answers(questions)?;
        for answer in &mut answers {
            asked.set(asked.get() + 1);
            if asked.get() % 50 == 3 {
                *answer = Err("cut off".into());
            }
        }
        Ok(answers)
    };
    let stopping = Bench::new(&users);
    let error = stopping.run(&Teacher::default(), &third).unwrap_err().to_string();
    assert!(error.contains("the verifier failed: cut off"), "{error}");
    asked.set(0);
    let skipping = Bench { settings: SynthesisSettings { skip_failed: true, ..settings() }, ..Bench::new(&users) };
    let report = skipping.run(&Teacher::default(), &third).unwrap();
    assert!(report.failed_users > 0 && report.failed_users < 40, "{report:?}");
    assert!(report.failed.iter().all(|user| user.message == "cut off"));
}

#[test]
fn a_journal_continues_an_ended_run_and_a_second_run_asks_nothing() {
    let users = scored(40);
    let whole = Bench::new(&users);
    whole.run(&Teacher::default(), &ideal_answers).unwrap();
    let bench = Bench::new(&users);
    let asked = Cell::new(0);
    let model = |most: usize| {
        let asked = &asked;
        Scripted::new("counting", move |request: &CompletionRequest| {
            asked.set(asked.get() + 1);
            assert!(asked.get() <= most, "the process is killed");
            Teacher::default().complete(std::slice::from_ref(request)).unwrap().remove(0)
        })
    };
    let journal = journals(&bench.folder.path().join("teach")).0;
    let open = |most| Journaled::open(model(most), "m", &journal).unwrap();
    let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bench.run(&open(100), &ideal_answers)));
    assert!(killed.is_err());
    assert_eq!(asked.get(), 101);
    let again = open(usize::MAX);
    let report = bench.run(&again, &ideal_answers).unwrap();
    assert_eq!([bench.text(ROWS), bench.text(USERS)], [whole.text(ROWS), whole.text(USERS)]);
    // The request in flight was the only one that was asked twice.
    assert_eq!((asked.get() - 1) as u64, report.asked.teacher.requests);
    assert_eq!(report.asked.teacher.from_journal, 100);
    let partial = fs::read_dir(bench.folder.path().join("teach")).unwrap();
    assert!(partial.flatten().all(|entry| !entry.file_name().to_string_lossy().ends_with(".partial")));
    drop(again);
    let before = asked.get();
    let report = bench.run(&open(usize::MAX), &ideal_answers).unwrap();
    assert_eq!(asked.get(), before);
    assert_eq!(report.asked.teacher.requests, report.asked.teacher.from_journal);
}

#[test]
fn the_separator_is_that_of_the_settings() {
    let users = scored(30);
    let said = |text: String| Completion { text, tokens: Vec::new(), finish: FinishReason::Stop };
    let teacher = Scripted::new("published", move |request: &CompletionRequest| {
        let answer = Teacher::default().complete(std::slice::from_ref(request)).unwrap().remove(0).text;
        said(answer.replace(crate::synthesis::PREFERENCE_SEPARATOR, "|PreferenceSEP|"))
    });
    let other = Bench::new(&users);
    let report = other.run(&teacher, &ideal_answers).unwrap().synthesis;
    assert!(report.first.malformed_merges > 0 && report.rows == 0, "{report:?}");
    let published = SynthesisSettings { separator: "|PreferenceSEP|".into(), ..settings() };
    let bench = Bench { settings: published, ..Bench::new(&users) };
    let report = bench.run(&teacher, &ideal_answers).unwrap().synthesis;
    assert!(report.first.malformed_merges == 0 && report.first.passed > 0, "{report:?}");
}

#[test]
fn messages_are_read_in_thirds_and_predict_the_targets() {
    let target = |i: usize| Interaction {
        query: Some(format!("q{i}")),
        chosen: format!("good {i}"),
        rejected: Some(format!("bad {i}")),
        ..Interaction::default()
    };
    let user = ScoredHistory {
        uid: "u".into(),
        messages: (0..10).map(|i| Message::user(format!("turn {i}"))).collect(),
        targets: (0..6).map(target).collect(),
        target_signals: vec![Some(SignalRecord { logprob1: -0.01, logprob2: -0.7, signal: 0.69 }); 6],
        ..ScoredHistory::default()
    };
    let said = |text: &str| Completion { text: text.into(), tokens: Vec::new(), finish: FinishReason::Stop };
    let prompts = RefCell::new(Vec::new());
    let teacher = Scripted::new("fixed", |request: &CompletionRequest| {
        let prompt = request.messages.last().unwrap().content.clone();
        let merge = request.thinking == Some(false);
        prompts.borrow_mut().push(prompt);
        said(if merge { "all |PREFERENCE| likes good ones" } else { "<think>t</think>likes good ones" })
    });
    let bench = Bench::new(&[user]);
    let sure = |questions: &[Question]| -> Result<Vec<Result<Verification, String>>, CompleterError> {
        Ok(questions
            .iter()
            .map(|_| Ok(Verification { probability: 0.9, chosen_first: None, answered: true }))
            .collect())
    };
    let report = bench.run(&teacher, &sure).unwrap();
    assert_eq!((report.synthesis.rows, report.failed_users), (2, 0));
    let rows: Vec<SftRow> = bench.lines(ROWS);
    let shown = |row: &SftRow| -> Vec<usize> {
        (0..10).filter(|i| row.prompt.iter().any(|m| m.content.contains(&format!("turn {i}")))).collect()
    };
    assert_eq!((shown(&rows[0]), shown(&rows[1])), (vec![0, 1, 2], vec![3, 4, 5]));
    // Five targets and a merge in each stage.
    assert_eq!(prompts.borrow().len(), 12);
    assert!(prompts.borrow().iter().filter(|p| p.contains("turn 4")).all(|p| p.contains("likes good ones")));
}

#[test]
fn tokens_have_their_price() {
    struct Counting;
    impl Completer for Counting {
        fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
            Teacher::default().complete(requests)
        }

        fn name(&self) -> &str {
            "counting"
        }

        fn usage(&self) -> chat::completer::Usage {
            chat::completer::Usage { prompt_tokens: 3_000_000, completion_tokens: 500_000 }
        }
    }
    let report = Bench::new(&scored(9)).run(&Counting, &ideal_answers).unwrap();
    tolerance::assert_within!(report.asked.teacher.cost - (3.0 * 2.0 + 0.5 * 10.0), 1e-9);
}

#[test]
fn histories_without_signals_name_the_command_that_scores_them() {
    let bench = Bench::new(&scored(2));
    let path = bench.folder.path().join("scored.jsonl");
    fs::write(&path, "\n{\"uid\":\"u\",\"interactions\":[{\"chosen\":\"a\",\"rejected\":\"b\"}]}\n").unwrap();
    let error = bench.run(&Teacher::default(), &ideal_answers).unwrap_err().to_string();
    assert!(error.contains("scored.jsonl:2: ") && error.contains("xplore synth signal"), "{error}");
    fs::remove_file(&path).unwrap();
    let error = bench.run(&Teacher::default(), &ideal_answers).unwrap_err().to_string();
    assert!(error.contains("cannot read") && error.contains("scored.jsonl"), "{error}");
}
