use chat::{Draw, Interaction};
use serde_json::{Value as Json, json};

use super::*;
use crate::teach::record::{TaughtCandidate, TaughtStage};

const NOUNS: [&str; 12] =
    ["trains", "gardens", "rivers", "opera", "chess", "bread", "stars", "forests", "maps", "boats", "clocks", "birds"];
const TONES: [&str; 8] = ["dry", "warm", "brief", "witty", "calm", "bold", "plain", "vivid"];

fn pick(words: &[&'static str], purpose: &str, uid: usize, index: usize) -> &'static str {
    words[Draw::new(5).text(purpose).with(uid as u64).with(index as u64).below(words.len())]
}

/// A choice whose texts occur nowhere else.
fn choice(uid: usize, index: usize) -> Interaction {
    let id = format!("{uid}x{index}");
    let item = |side: &str| {
        format!(
            "Title: {} {side} number {id}\nA {} story {id} of {} and how one {} evening near item {id} changed it",
            pick(&NOUNS, side, uid, index),
            pick(&TONES, side, uid, index),
            pick(&NOUNS, "story", uid, index),
            pick(&TONES, "evening", uid, index),
        )
    };
    Interaction { chosen: item("good"), rejected: Some(item("bad")), ..Interaction::default() }
}

/// A summary that no other user has.
fn summary(uid: usize, stage: usize) -> String {
    let noun = |i: usize| {
        format!(
            "{} {}",
            pick(&TONES, "summary tone", uid, 10 * stage + i),
            pick(&NOUNS, "summary", uid, 10 * stage + i)
        )
    };
    format!(
        "Reader {uid} prefers {}, {} and {}, in part {stage}; avoids {} as well as {}.",
        noun(0),
        noun(1),
        noun(2),
        noun(3),
        noun(4)
    )
}

/// Users who all passed both stages, with nothing to find.
fn clean(users: usize) -> Vec<TaughtUser> {
    (0..users)
        .map(|uid| TaughtUser {
            uid: uid.to_string(),
            stages: (0..2).map(|stage| passed(uid, stage)).collect(),
            rows: 2,
            error: None,
        })
        .collect()
}

/// Of nine interactions, stage 0 reads the first three and predicts the next, and so on.
fn passed(uid: usize, stage: usize) -> TaughtStage {
    let targets: Vec<Interaction> = (0..3).map(|i| choice(uid, 3 * (stage + 1) + i)).collect();
    let candidate = |target: usize| {
        let draw = Draw::new(9).with(uid as u64).with(stage as u64).with(target as u64);
        let verifier_first = draw.text("verifier order").below(2) == 0;
        let right = draw.text("right").below(4) > 0;
        TaughtCandidate {
            target,
            chosen_first: draw.text("order").below(2) == 0,
            reasoning: "counts".into(),
            summary: summary(uid, stage),
            verdict: Some(if right { 0.9 } else { 0.2 }),
            verifier_chosen_first: Some(verifier_first),
            verifier_chose_a: Some(right == verifier_first),
        }
    };
    TaughtStage {
        past: (stage == 1).then(|| summary(uid, 0)),
        candidates: (0..3).map(candidate).collect(),
        targets,
        merged: Some(summary(uid, stage)),
        merged_reasoning: Some("counts what was chosen".into()),
        retest: vec![0.9, 0.8, 0.4],
        outcome: "passed".into(),
    }
}

/// Writes a pipeline's folder with the given users, and audits it.
fn run(users: &[TaughtUser], options: &AuditOptions) -> (Audit, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let histories: Vec<Json> = users
        .iter()
        .map(|user| {
            let uid: usize = user.uid.parse().unwrap();
            let interactions: Vec<Interaction> = (0..9).map(|i| choice(uid, i)).collect();
            json!({"uid": user.uid, "interactions": interactions, "signals": vec![Json::Null; 9]})
        })
        .collect();
    chat::jsonl::write(&folder.path().join("teach/users.jsonl"), users).unwrap();
    chat::jsonl::write(&folder.path().join("signal/scored.jsonl"), &histories).unwrap();
    (audit(folder.path(), options).unwrap(), folder)
}

fn kinds(audit: &Audit) -> Vec<FindingKind> {
    audit.findings.iter().map(|finding| finding.kind).collect()
}

#[test]
fn clean_data_have_no_findings() {
    // Quotes and near-duplicates are exact. Each of the two tests of position bias has a false-alarm rate of at most alpha, 1 %.
    let (found, _folder) = run(&clean(150), &AuditOptions::default());
    assert!(found.is_clean(), "{}", found.text());
    assert!(found.notes.is_empty(), "{:?}", found.notes);
    assert_eq!(found.bias.iter().map(|bias| bias.picks).collect::<Vec<_>>(), [900, 900]);
    let leakage = found.leakage.as_ref().unwrap();
    assert_eq!((leakage.summaries, leakage.candidates, leakage.without_history), (300, 900, 0));
    assert_eq!(found.duplicates.as_ref().unwrap().summaries, 300);
    let text = found.text();
    for part in
        ["No findings.", "Stage 2\n  users: passed", "150 of 150 (100.0 %)", "re-tested targets: correct", "300 of 450"]
    {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn a_quoted_target_is_a_leak_unless_it_was_read() {
    let mut users = clean(20);
    let target = users[3].stages[1].targets[2].chosen.clone();
    let body = target.lines().nth(1).unwrap().to_owned();
    users[3].stages[1].merged = Some(format!("Likes {}", body.to_uppercase()));
    // What stage 1 predicts, stage 2 has read, and a past summary was read as well.
    users[4].stages[1].merged = Some(format!("Chose {}", users[4].stages[0].targets[0].chosen));
    let (found, _folder) = run(&users, &AuditOptions::default());
    assert_eq!(kinds(&found), [FindingKind::Leakage]);
    let leakage = found.leakage.as_ref().unwrap();
    assert_eq!((leakage.leaking_summaries, leakage.leaking_reasonings, leakage.leaking_candidates), (1, 0, 0));
    assert!(found.findings[0].examples[0].starts_with("3, stage 2: \""), "{:?}", found.findings[0].examples);
}

#[test]
fn the_number_of_words_of_a_quote_is_an_option() {
    let mut users = clean(20);
    let target = users[3].stages[1].targets[2].chosen.clone();
    let words: Vec<&str> = target.lines().nth(1).unwrap().split(' ').take(6).collect();
    users[3].stages[1].merged = Some(format!("Likes {}.", words.join(" ")));
    let leaks = |ngram: usize| {
        let (found, _folder) = run(&users, &AuditOptions { ngram, ..AuditOptions::default() });
        found.leakage.unwrap().leaking_summaries
    };
    assert_eq!([8, 7, 6].map(leaks), [0, 0, 1]);
}

#[test]
fn users_may_be_in_another_order_than_their_histories() {
    let mut users = clean(20);
    users[4].stages[1].merged = Some(format!("Chose {}", users[4].stages[0].targets[0].chosen));
    let (found, folder) = run(&users, &AuditOptions::default());
    assert!(found.is_clean(), "{}", found.text());
    users.reverse();
    chat::jsonl::write(&folder.path().join("teach/users.jsonl"), &users).unwrap();
    let reversed = audit(folder.path(), &AuditOptions::default()).unwrap();
    assert!(reversed.is_clean() && reversed.notes.is_empty(), "{}", reversed.text());
    assert_eq!(reversed.leakage, found.leakage);
}

#[test]
fn titles_and_reasonings_and_candidates_are_searched() {
    let mut users = clean(20);
    let target = users[5].stages[0].targets[1].rejected.clone().unwrap();
    let title = words::title(&target).to_owned();
    users[5].stages[0].merged_reasoning = Some(format!("They passed over \"{title}\"."));
    users[6].stages[0].candidates[0].summary = users[6].stages[0].targets[0].chosen.clone();
    // A candidate is guided by one target only; another target's text counts when it reaches the merged summary.
    users[7].stages[0].candidates[0].summary = users[7].stages[0].targets[1].chosen.clone();
    let (found, _folder) = run(&users, &AuditOptions::default());
    let leakage = found.leakage.as_ref().unwrap();
    assert_eq!((leakage.leaking_summaries, leakage.leaking_reasonings, leakage.leaking_candidates), (0, 1, 1));
    assert!(found.notes[0].starts_with("1 of 120 candidate summaries quote their target"), "{:?}", found.notes);
    assert_eq!(kinds(&found), [FindingKind::Leakage]);
}

#[test]
fn planted_position_bias_is_found_per_model() {
    let mut users = clean(100);
    let candidates = |users: &mut Vec<TaughtUser>, change: &dyn Fn(usize, &mut TaughtCandidate)| {
        let all = users.iter_mut().flat_map(|user| &mut user.stages).flat_map(|stage| &mut stage.candidates);
        all.enumerate().for_each(|(i, candidate)| change(i, candidate));
    };
    // In every third question, the verifier picks A whatever it is.
    candidates(&mut users, &|i, candidate| {
        if i % 3 == 0 {
            candidate.verifier_chose_a = Some(true);
        }
    });
    let (found, _folder) = run(&users, &AuditOptions::default());
    assert_eq!(kinds(&found), [FindingKind::PositionBias]);
    assert!(found.findings[0].message.starts_with("the verifier picked item A"), "{}", found.findings[0].message);
    // The teacher believes the first item: it is right if that is the chosen one.
    let mut users = clean(100);
    candidates(&mut users, &|i, candidate| {
        if i % 3 == 0 {
            candidate.verdict = Some(if candidate.chosen_first { 0.9 } else { 0.1 });
        }
    });
    let (found, _folder) = run(&users, &AuditOptions::default());
    assert!(found.findings.iter().all(|finding| finding.message.starts_with("the teacher picked item A")));
    assert_eq!(found.findings.len(), 1, "{}", found.text());
    // The level of the test is an option.
    let p_value = found.bias[0].p_value;
    assert!(p_value < 0.01, "{}", found.text());
    for (alpha, findings) in [(p_value * 0.5, 0), (p_value * 2.0, 1)] {
        let (found, _folder) = run(&users, &AuditOptions { alpha, ..AuditOptions::default() });
        assert_eq!(found.findings.len(), findings, "{}", found.text());
    }
    // Few questions tell nothing.
    let (found, _folder) = run(&users[..2], &AuditOptions::default());
    assert!(found.is_clean(), "{}", found.text());
}

#[test]
fn near_duplicates_of_other_users_are_found() {
    let mut users = clean(50);
    let copied = users[1].stages[0].merged.clone().unwrap();
    users[9].stages[1].merged = Some(format!("{copied} Really."));
    let (found, _folder) = run(&users, &AuditOptions { similarity: 0.7, ..AuditOptions::default() });
    assert_eq!(kinds(&found), [FindingKind::NearDuplicates]);
    assert_eq!(found.duplicates.as_ref().unwrap().near_duplicates, 2);
    // A user who did not pass has no rows.
    users[9].rows = 0;
    let (found, _folder) = run(&users, &AuditOptions { similarity: 0.7, ..AuditOptions::default() });
    assert!(found.is_clean(), "{}", found.text());
}

#[test]
fn users_and_choices_of_a_benchmark_are_found() {
    let (_, folder) = run(&clean(20), &AuditOptions::default());
    let against = |rows: &[Json]| {
        let path = folder.path().join("benchmark.jsonl");
        chat::jsonl::write(&path, rows).unwrap();
        audit(folder.path(), &AuditOptions { against: vec![path], ..AuditOptions::default() }).unwrap()
    };
    let row = |uid: &str, history: Interaction, target: Interaction| json!({"userid": uid, "history": [history], "target": target});
    // Unknown users with choices of their own, and an id that another user has by chance.
    let found = against(&[row("x", choice(900, 0), choice(900, 1)), row("3", choice(901, 0), choice(901, 1))]);
    assert!(found.is_clean(), "{}", found.text());
    let overlap = &found.overlaps[0];
    assert_eq!((overlap.users, overlap.shared_users, overlap.shared_ids, overlap.items), (2, 0, 1, 4));
    let found = against(&[row("3", choice(3, 0), choice(902, 1)), row("y", choice(903, 0), choice(904, 0))]);
    assert_eq!(kinds(&found), [FindingKind::SharedUsers]);
    assert_eq!((found.findings[0].examples.clone(), found.overlaps[0].shared_users), (vec!["3".to_owned()], 1));
    // The history is not judged, so only the target counts as a shared choice.
    let found = against(&[row("z", choice(4, 0), choice(5, 5)), row("w", choice(6, 0), choice(905, 0))]);
    assert_eq!(kinds(&found), [FindingKind::SharedChoices]);
    let overlap = &found.overlaps[0];
    assert_eq!((overlap.choices, overlap.shared_choices, overlap.items, overlap.shared_items), (2, 1, 4, 2));
}

#[test]
fn one_common_message_does_not_make_a_shared_user() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let row = |texts: &[&str], target: usize| {
        let messages: Vec<Json> = texts.iter().map(|text| json!({"role": "user", "content": text})).collect();
        json!({"uid": "0", "messages": messages, "targets": [choice(target, 0)]})
    };
    chat::jsonl::write(&path("import/train.jsonl"), &[row(&["hello", "I like opera", "thanks"], 1)]).unwrap();
    let shared = |texts: &[&str]| {
        chat::jsonl::write(&path("benchmark.jsonl"), &[row(texts, 2)]).unwrap();
        let options = AuditOptions { against: vec![path("benchmark.jsonl")], ..AuditOptions::default() };
        let overlap = audit(folder.path(), &options).unwrap().overlaps.remove(0);
        (overlap.shared_users, overlap.shared_ids)
    };
    assert_eq!(shared(&["hello", "I like tennis", "thanks"]), (0, 1));
    assert_eq!(shared(&["a new day", "I like opera", "thanks"]), (1, 0));
}

#[test]
fn what_is_missing_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let message = |options: &AuditOptions| audit(folder.path(), options).unwrap_err().to_string();
    let options = AuditOptions::default();
    assert!(message(&options).contains("nothing to audit; run xplore synth teach first"));
    let against = AuditOptions { against: vec!["benchmark.jsonl".into()], ..options.clone() };
    assert!(message(&against).contains("no training data to compare with the benchmark"));
    assert!(message(&AuditOptions { ngram: 2, ..options.clone() }).contains("--ngram 2: expected a value at least 3"));
    assert!(message(&AuditOptions { similarity: 0.0, ..options.clone() }).contains("--similarity 0"));
    assert!(message(&AuditOptions { alpha: 1.0, ..options.clone() }).contains("--alpha 1"));
    // Without histories, what was read is unknown.
    chat::jsonl::write(&folder.path().join("teach/users.jsonl"), &clean(2)).unwrap();
    let found = audit(folder.path(), &options).unwrap();
    assert!(found.notes[0].starts_with("2 users are not in signal/scored.jsonl"), "{:?}", found.notes);
}
