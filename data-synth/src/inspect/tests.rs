use std::fs;

use chat::Interaction;

use super::*;
use crate::teach::record::{TaughtCandidate, TaughtStage};

fn interaction(text: &str) -> Interaction {
    Interaction {
        query: Some(format!("query {text}")),
        chosen: format!("chosen {text}\nsecond line"),
        rejected: Some(format!("rejected {text}")),
        domain: Some("news".into()),
        task: None,
    }
}

fn taught_user(uid: &str, rows: usize) -> TaughtUser {
    let candidate = TaughtCandidate {
        chosen_first: true,
        reasoning: "counts".into(),
        summary: "Likes news.".into(),
        verdict: Some(0.25),
        verifier_chose_a: Some(false),
        ..TaughtCandidate::default()
    };
    let malformed = TaughtCandidate { reasoning: "no tags".into(), ..TaughtCandidate::default() };
    let stage = TaughtStage {
        targets: vec![interaction("t")],
        candidates: vec![candidate, malformed],
        merged: Some("Likes news\nand more.".into()),
        merged_reasoning: Some("three times news".into()),
        retest: vec![0.875],
        outcome: "passed".into(),
        ..TaughtStage::default()
    };
    TaughtUser { uid: uid.into(), stages: vec![stage], rows, error: None }
}

/// A pipeline with the users "a", "7" and "c".
fn pipeline() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let uids = ["a", "7", "c"];
    let history = |uid: &&str| History {
        uid: (*uid).into(),
        interactions: (0..4).map(|i| interaction(&format!("{uid}{i}"))).collect(),
        ..History::default()
    };
    let path = |name: &str| folder.path().join(name);
    chat::jsonl::write(&path("import/train.jsonl"), &uids.iter().map(history).collect::<Vec<_>>()).unwrap();
    chat::jsonl::write(&path("import/test.jsonl"), &[history(&"held-out")]).unwrap();
    let record = chat::records::SignalRecord { logprob1: 0.0, logprob2: -0.5, signal: 0.5 };
    let scored = ScoredHistory {
        uid: "7".into(),
        // The step signal was limited to three interactions.
        interactions: history(&"7").interactions.split_off(1),
        signals: vec![Some(record), None, None],
        ..ScoredHistory::default()
    };
    chat::jsonl::write(&path("signal/scored.jsonl"), &[scored]).unwrap();
    let rl = RlRow {
        uid: "7".into(),
        history: history(&"7").interactions,
        mid_position: 1,
        mid_record: record,
        ..RlRow::default()
    };
    chat::jsonl::write(&path("prune/rl.jsonl"), &[rl]).unwrap();
    chat::jsonl::write(&path("teach/users.jsonl"), &[taught_user("a", 2), taught_user("7", 2)]).unwrap();
    folder
}

#[test]
fn a_user_is_shown_with_all_that_was_made_of_them() {
    let folder = pipeline();
    let text = inspect(folder.path(), &Which::Index(2)).unwrap();
    for part in [
        "User 7\n",
        "History (signal/scored.jsonl, the last 3 of 4 of import/train.jsonl): 3 interactions, 0 messages\n",
        "     0  [news]  query: query 71  signal +0.500 (probability 1.000, without the history 0.607)\n       + chosen 71 second line\n       − rejected 71\n",
        "     1  [news]  query: query 72\n",
        "RL row (prune/rl.jsonl:1)\n  stage 1 reads the interactions before 1, stage 2 those from 1 to before 3\n",
        "  target 1  [news]  query: query 71  signal +0.500",
        "  Stage 1: passed\n",
        "candidate 1, shown the chosen item first: wrong, probability 0.250; the verifier picked item B\n",
        "candidate 2, shown the rejected item first: malformed\n",
        "       no tags\n",
        "    merged summary\n       Likes news\n       and more.\n",
        "    re-test: 0.875\n",
        "  SFT rows: lines 3 to 4 of teach/sft.jsonl\n",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert_eq!(inspect(folder.path(), &Which::Uid("7".into())).unwrap(), text);
    let test = inspect(folder.path(), &Which::Uid("held-out".into())).unwrap();
    assert!(test.contains("History (import/test.jsonl): 4 interactions") && !test.contains("RL row"), "{test}");
    let interactions = (1..4).map(|i| interaction(&format!("7{i}"))).collect();
    let imported = History { uid: "7".into(), interactions, ..History::default() };
    chat::jsonl::write(&folder.path().join("import/train.jsonl"), &[imported]).unwrap();
    let whole = inspect(folder.path(), &Which::Uid("7".into())).unwrap();
    assert!(whole.contains("History (signal/scored.jsonl): 3 interactions"), "{whole}");
}

#[test]
fn messages_and_their_targets_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let messages = vec![chat::Message::user("what a day"), chat::Message::assistant("indeed")];
    let record = chat::records::SignalRecord::default();
    let scored = ScoredHistory {
        uid: "m".into(),
        messages: messages.clone(),
        targets: vec![interaction("x")],
        target_signals: vec![Some(record)],
        ..ScoredHistory::default()
    };
    chat::jsonl::write(&folder.path().join("signal/scored.jsonl"), &[scored]).unwrap();
    let rl = RlRow {
        uid: "m".into(),
        messages,
        stage_targets: vec![interaction("x")],
        mid_position: 1,
        references: vec!["Likes days.".into()],
        ..RlRow::default()
    };
    chat::jsonl::write(&folder.path().join("prune/rl.jsonl"), &[rl]).unwrap();
    let text = inspect(folder.path(), &Which::Index(1)).unwrap();
    for part in [
        "0 interactions, 2 messages\n     0  user: what a day\n     1  assistant: indeed\n",
        "  target 0  [news]  query: query x  signal +0.000",
        "stage 1 reads 1 of 2 messages, stage 2 the others\n  target of stage 1  [news]",
        "  reference\n       Likes days.\n",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn long_items_are_cut_between_characters() {
    let folder = tempfile::tempdir().unwrap();
    let choice = Interaction { chosen: "é".repeat(500), ..Interaction::default() };
    let history = History { uid: "l".into(), interactions: vec![choice], ..History::default() };
    chat::jsonl::write(&folder.path().join("import/train.jsonl"), &[history]).unwrap();
    let text = inspect(folder.path(), &Which::Uid("l".into())).unwrap();
    assert!(text.contains(&format!("+ {}…\n", "é".repeat(160))), "{text}");
}

#[test]
fn arguments_are_numbers_or_ids() {
    assert_eq!(Which::parse("12"), Which::Index(12));
    assert_eq!(Which::parse("uid:12"), Which::Uid("12".into()));
    assert_eq!(Which::parse("U12"), Which::Uid("U12".into()));
}

#[test]
fn unknown_users_and_folders_are_named() {
    let folder = pipeline();
    let message = |which: Which| inspect(folder.path(), &which).unwrap_err().to_string();
    let index = message(Which::Index(4));
    assert!(index.contains("train.jsonl: has 3 users; expected a number from 1 to 3"), "{index}");
    assert!(message(Which::Index(0)).contains("has 3 users"));
    fs::write(folder.path().join("import/train.jsonl"), "").unwrap();
    assert!(message(Which::Index(1)).contains("train.jsonl has no rows"));
    assert!(message(Which::Uid("x".into())).contains("no user has the id x; a number N"));
    fs::write(folder.path().join("import/train.jsonl"), "{\"uid\":\"a\"}\n").unwrap();
    assert!(message(Which::Index(1)).contains("train.jsonl:1: field `interactions`"));
    let empty = tempfile::tempdir().unwrap();
    for which in [Which::Index(1), Which::Uid("a".into())] {
        assert!(
            inspect(empty.path(), &which)
                .unwrap_err()
                .to_string()
                .contains("no file of a pipeline; expected one of import")
        );
    }
}
