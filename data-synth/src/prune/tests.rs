use std::path::PathBuf;

use chat::records::SignalRecord;
use chat::{Draw, Interaction, Message};
use configs::PruningRule;
use serde_json::json;
use tempfile::TempDir;
use tolerance::assert_within;

use super::*;
use crate::rl_rows::rl_rows;
use crate::signal::FlatRecord;

const PUBLISHED: PruningConfig = PruningConfig {
    most_signal: 1.0,
    least_probability: 0.5,
    band_end: 1.0,
    band_width: 1.0,
    rule: PruningRule::Published,
    least_window: 1,
};
const WINDOWED: PruningConfig = PruningConfig { rule: PruningRule::Windowed, ..PUBLISHED };

/// A user whose choices have these probabilities and signals. The item of a choice is named by its number.
fn user(uid: &str, choices: &[(f64, f64)]) -> Vec<FlatRecord> {
    let record = |(i, &(p, signal)): (usize, &(f64, f64))| FlatRecord {
        uid: uid.into(),
        pref_idx: Some(10 * i as u64),
        logprob1: p.ln(),
        logprob2: p.ln() - signal,
        signal,
        original_history_item: item(&format!("{uid}-{i}")),
        hid: None,
    };
    choices.iter().enumerate().map(record).collect()
}

fn item(chosen: &str) -> Interaction {
    Interaction {
        query: Some("q".into()),
        chosen: chosen.into(),
        rejected: Some("other".into()),
        ..Interaction::default()
    }
}

fn written<T: serde::Serialize>(rows: &[T]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.jsonl");
    jsonl::write(&path, rows).unwrap();
    (folder, path)
}

fn pruned<T: serde::Serialize>(rows: &[T], config: &PruningConfig) -> (Vec<RlRow>, PruningReport) {
    let (folder, path) = written(rows);
    let out = folder.path().join("new/rl.jsonl");
    let report = prune(&path, &out, config).unwrap();
    let rows = jsonl::stream::<RlRow>(&out).unwrap().map(|row| row.unwrap().1).collect();
    (rows, report)
}

/// The same choices as scored histories, which `pref_idx` orders.
fn scored(records: &[FlatRecord]) -> Vec<ScoredHistory> {
    let mut histories: Vec<ScoredHistory> = Vec::new();
    let mut sorted: Vec<&FlatRecord> = records.iter().collect();
    sorted.sort_by_key(|record| record.pref_idx);
    for uid in records.iter().map(|record| &record.uid) {
        if histories.iter().any(|history| history.uid == *uid) {
            continue;
        }
        let own: Vec<&FlatRecord> = sorted.iter().copied().filter(|record| record.uid == *uid).collect();
        histories.push(ScoredHistory {
            uid: uid.clone(),
            interactions: own.iter().map(|record| record.original_history_item.clone()).collect(),
            signals: own.iter().map(|record| Some(record.record())).collect(),
            ..ScoredHistory::default()
        });
    }
    histories
}

/// Returns the first target's position and the last one's.
fn places(rows: &[RlRow]) -> Vec<(usize, usize)> {
    rows.iter().map(|row| (row.mid_position, row.history.len() - 1)).collect()
}

#[test]
fn the_band_is_cut_as_worked_by_hand() {
    // Ten of twelve choices are left: 0.5 is the lower edge, 0.49 is below it, and no probability is above 1.
    let p = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5, 0.49, 1.1];
    let signals = [0.1, 0.1, 0.3, 0.9, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1, 2.0, 2.0];
    let choices: Vec<(f64, f64)> = p.into_iter().zip(signals).collect();
    let config = PruningConfig { band_end: 0.5, band_width: 0.3, ..PUBLISHED };
    let (rows, report) = pruned(&user("u", &choices), &config);
    // Ranks 2 to 4. Of the pairs by signal, 3 and 4 are adjacent, and so are 3 and 2; 4 and 2 are not.
    assert_eq!((report.choices, report.with_signal, report.solvable, report.in_band, report.rows), (12, 12, 10, 3, 1));
    assert_eq!(places(&rows), [(2, 4)]);
    let row = &rows[0];
    assert_eq!((row.uid.as_str(), row.distance_to_end, row.defect()), ("u", 2, None));
    let expected = SignalRecord { logprob1: 0.9_f64.ln(), logprob2: 0.9_f64.ln() - 0.3, signal: 0.3 };
    assert_eq!((row.mid_record, row.last_record.signal), (expected, 0.5));
    assert_within!(row.signal_gap - 0.2, 1e-12);
    let chosen: Vec<&str> = row.history.iter().map(|i| i.chosen.as_str()).collect();
    assert_eq!(chosen, ["u-0", "u-1", "u-2", "u-3", "u-4"]);

    // Both ends are at least 1, so the band of the most probable tenth is empty as published.
    let first_tenth = |config: PruningConfig| {
        let config = PruningConfig { band_end: 0.1, band_width: 0.1, ..config };
        pruned(&user("u", &choices), &config).1.in_band
    };
    assert_eq!((first_tenth(PUBLISHED), first_tenth(WINDOWED)), (0, 1));
    // The signal rule keeps at least one choice; this one is not solvable.
    let (rows, report) = pruned(&user("u", &choices), &PruningConfig { most_signal: 0.01, ..PUBLISHED });
    assert_eq!((rows.len(), report.with_signal, report.solvable, report.in_band), (0, 1, 0, 0));
}

#[test]
fn equal_signals_keep_the_order_of_the_band() {
    let choices = [(1.0, 0.0), (0.8, 0.0), (0.4, 0.0), (0.7, 0.0), (0.4, 0.0), (0.9, 0.0)];
    // The band without its first choice: 5, 1, 3.
    assert_eq!(places(&pruned(&user("u", &choices), &PUBLISHED).0), [(1, 5)]);
    assert_eq!(places(&pruned(&user("u", &choices), &WINDOWED).0), [(1, 3)]);
    // −0 equals 0.
    let mut negative = user("u", &choices);
    negative[5].signal = -0.0;
    assert_eq!(places(&pruned(&negative, &PUBLISHED).0), [(1, 5)]);
}

#[test]
fn a_repeated_choice_stands_at_its_first_occurrence() {
    let choices = [(1.0, 0.0), (0.4, 0.0), (0.4, 0.0), (0.9, 0.5), (0.8, 0.6)];
    let mut records = user("u", &choices);
    assert!(pruned(&records, &PUBLISHED).0.is_empty(), "the targets are adjacent");
    records[3].original_history_item = records[1].original_history_item.clone();
    assert_eq!(places(&pruned(&records, &PUBLISHED).0), [(1, 4)]);
    assert_eq!(pruned(&records, &PUBLISHED).0, pruned(&scored(&records), &PUBLISHED).0);
    assert!(pruned(&records, &WINDOWED).0.is_empty());
    // The first interaction is no target, wherever it occurs again.
    let choices = [(1.0, 0.0), (0.4, 0.0), (0.9, 0.5), (0.4, 0.0), (0.8, 0.6)];
    let mut records = user("u", &choices);
    assert_eq!(places(&pruned(&records, &PUBLISHED).0), [(2, 4)]);
    records[2].original_history_item = records[0].original_history_item.clone();
    assert!(pruned(&records, &PUBLISHED).0.is_empty());
    assert_eq!(places(&pruned(&records, &WINDOWED).0), [(2, 4)]);
}

#[test]
fn users_that_are_too_short_have_no_row() {
    let short = user("short", &[(0.99, 0.0), (0.9, 0.9), (0.9, 0.8)]);
    let enough = user("enough", &[(1.0, 0.0), (0.9, 0.1), (0.6, 0.0), (0.9, 0.2)]);
    let (rows, report) = pruned(&[short, enough].concat(), &PUBLISHED);
    assert_eq!((report.users, report.choices, report.rows), (2, 7, 1));
    assert_eq!((rows[0].uid.as_str(), places(&rows)), ("enough", vec![(1, 3)]));
}

/// Random records of several users in any order, with equal signals and repeated items.
fn random(seed: u64) -> Vec<FlatRecord> {
    let draw = |purpose: &str, i: usize, n: usize| Draw::new(seed).text(purpose).with(i as u64).below(n);
    let mut records: Vec<FlatRecord> = (0..300)
        .map(|i| {
            let logprob1 = -(draw("p", i, 40) as f64) / 50.0;
            let signal = (draw("signal", i, 30) as f64 - 10.0) / 7.0;
            FlatRecord {
                uid: format!("u{}", draw("user", i, 25)),
                pref_idx: Some(1000 + 7 * i as u64),
                logprob1,
                logprob2: logprob1 - signal,
                signal,
                original_history_item: item(&format!("item {}", draw("item", i, 60))),
                hid: Some(i as u64),
            }
        })
        .collect();
    records.sort_by_key(|record| Draw::new(seed).text("order").with(record.hid.unwrap_or_default()).bits());
    records
}

fn by_uid(mut rows: Vec<RlRow>) -> Vec<RlRow> {
    rows.sort_by(|a, b| a.uid.cmp(&b.uid));
    rows
}

#[test]
fn the_rows_are_those_of_the_published_rule() {
    let folder = tempfile::tempdir().unwrap();
    let mut number = 0;
    for seed in 0..8 {
        for (a, b, c) in [(0.8, 0.5, 1.0), (0.5, 0.6, 0.4), (1.0, 0.45, 0.05), (0.9, 0.5, 0.7), (1.0, 0.45, 0.55)] {
            let records = random(seed);
            let job = json!({ "records": records, "a": a, "b": b, "c": c });
            let expected: Vec<RlRow> =
                serde_json::from_value(python_reference::ask("pruning_rule.py", &job, folder.path())).unwrap();
            let config =
                PruningConfig { most_signal: a, least_probability: b, band_end: c, band_width: 0.1, ..PUBLISHED };
            let (rows, report) = pruned(&records, &config);
            assert_eq!(report.rows, rows.len());
            number += rows.len();
            assert_eq!(by_uid(rows), by_uid(expected), "seed {seed}, {a}, {b}, {c}");
        }
    }
    assert!(number > 40, "{number} rows");
}

#[test]
fn files_and_histories_in_memory_have_the_same_rows() {
    for seed in 20..24 {
        let histories = scored(&random(seed));
        for config in [PUBLISHED, WINDOWED, PruningConfig { least_window: 3, most_signal: 0.7, ..WINDOWED }] {
            let (rows, report) = pruned(&histories, &config);
            let (expected, expected_report) = rl_rows(&histories, &config);
            assert!(!rows.is_empty());
            assert_eq!((rows, report), (expected, expected_report));
        }
    }
}

#[test]
fn targets_of_messages_are_paired_whatever_lies_between_them() {
    let record = |p: f64, signal| Some(SignalRecord { logprob1: p.ln(), logprob2: p.ln() - signal, signal });
    let history = |uid: &str, target_signals: Vec<Option<SignalRecord>>| ScoredHistory {
        uid: uid.into(),
        messages: (0..5).map(|i| Message::user(i.to_string())).collect(),
        targets: (0..target_signals.len()).map(|i| item(&format!("t{i}"))).collect(),
        target_signals,
        ..ScoredHistory::default()
    };
    let two = history("two", vec![record(0.9, 0.9), record(0.8, 0.1), record(0.9, 1.0), None]);
    let one = history("one", vec![record(0.9, 0.9)]);
    let (rows, report) = pruned(&[two, one], &WINDOWED);
    assert_eq!((report.users, report.message_users, report.unscored, report.choices, report.rows), (2, 2, 1, 4, 1));
    let row = &rows[0];
    assert_eq!((row.defect(), row.history.len(), row.messages.len(), row.mid_position), (None, 0, 5, 2));
    let names = |items: &[Interaction]| items.iter().map(|i| i.chosen.clone()).collect::<Vec<_>>();
    assert_eq!(names(&row.stage_targets), ["t0", "t2"]);
    assert_eq!(names(&row.targets), ["t1", "t3"]);
    assert_eq!((row.mid_record.signal, row.last_record.signal), (0.9, 1.0));
}

#[test]
fn further_and_transfer_targets_are_kept() {
    let mut history = scored(&user("u", &[(1.0, 0.0), (0.9, 0.1), (0.6, 0.0), (0.9, 0.2), (0.6, 0.0)])).remove(0);
    history.targets = vec![item("later")];
    history.transfer = vec![Interaction { domain: Some("books".into()), ..item("a book") }];
    let (rows, _) = pruned(std::slice::from_ref(&history), &PUBLISHED);
    assert_eq!((&rows[0].targets, &rows[0].transfer), (&history.targets, &history.transfer));
}

#[test]
fn rows_that_cannot_be_pruned_are_named() {
    let refused = |text: &str, words: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.jsonl");
        std::fs::write(&path, text).unwrap();
        let out = folder.path().join("rl.jsonl");
        let error = prune(&path, &out, &PUBLISHED).unwrap_err().to_string();
        assert!(error.contains("in.jsonl") && error.contains(words), "{error}");
        assert!(!out.exists());
    };
    refused("\n", "no rows");
    refused(r#"{"uid":"u","interactions":[{"chosen":"a"}]}"#, "xplore synth signal");
    refused(r#"{"prompt":[],"completion":[]}"#, "the first row has the fields prompt, completion; expected scored");
    let bad = json!({ "uid": "u", "interactions": [item("a")], "signals": [] }).to_string();
    refused(&bad, "in.jsonl:1: field `signals` is missing or empty; expected one entry for each of the 1 interactions");
    let good = serde_json::to_string(&user("u", &[(0.9, 0.1)])[0]).unwrap();
    refused(&format!("{good}\n{{\"uid\":\"u\"}}\n"), "in.jsonl:2: missing field `logprob1`");
    refused(&format!("{good}\n\n{good}\n"), "in.jsonl:3: field `pref_idx` is 0, as in another record of `u`");
    let unplaced = FlatRecord { pref_idx: None, ..user("u", &[(0.9, 0.1)]).remove(0) };
    let unplaced = serde_json::to_string(&unplaced).unwrap();
    refused(&format!("{good}\n{unplaced}\n"), "in.jsonl:2: the fields `pref_idx` and `hid` order");
}

#[test]
fn without_an_index_of_the_letter_the_index_of_the_choice_orders_and_else_the_file() {
    let records = user("u", &[(1.0, 0.0), (0.9, 0.1), (0.6, 0.0), (0.9, 0.2), (0.6, 0.0)]);
    let expected = pruned(&records, &PUBLISHED);
    assert_eq!(expected.0.len(), 1);
    let placed = |hid: fn(usize) -> Option<u64>| -> Vec<FlatRecord> {
        let place = |(i, record): (usize, &FlatRecord)| FlatRecord { pref_idx: None, hid: hid(i), ..record.clone() };
        records.iter().enumerate().map(place).collect()
    };
    assert_eq!(pruned(&placed(|_| None), &PUBLISHED), expected);
    let mut shuffled = placed(|i| Some(i as u64));
    shuffled.rotate_left(2);
    assert_eq!(pruned(&shuffled, &PUBLISHED).0, expected.0);
}
