use std::fs;

use super::*;

const HISTORY: &str = r#"{"uid":"a","interactions":[{"query":"q","chosen":"four","rejected":"x","domain":"news"},{"query":null,"chosen":"yé","rejected":null}]}"#;
const SCORED: &str = r#"{"uid":"a","interactions":[{"chosen":"c","rejected":"r"}],"signals":[{"logprob1":0.0,"logprob2":-1.0,"signal":1.0}]}"#;
const SFT: &str = r#"{"prompt":[{"role":"user","content":"read"}],"completion":[{"role":"assistant","content":"<think>\nabc\n</think>\n\nlikes"}]}"#;
const RL: &str = r#"{"uid":"a","history":[{"chosen":"a"},{"chosen":"b"},{"chosen":"c"}],"mid_position":1,"mid_record":{"logprob1":0.0,"logprob2":-2.0,"signal":2.0}}"#;
const TAUGHT: &str = r#"{"uid":"a","stages":[{"past":null,"targets":[],"candidates":[{"target":0,"chosen_first":true,"reasoning":"r","summary":"likes","verdict":0.75,"verifier_chosen_first":null,"verifier_chose_a":null}],"merged":null,"merged_reasoning":null,"retest":[],"outcome":"few_correct"}],"rows":0}"#;

fn of(text: &str) -> Result<FileStats, StatsError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    fs::write(&path, text).unwrap();
    stats(&[path]).map(|mut found| found.files.remove(0))
}

fn distribution<'a>(file: &'a FileStats, name: &str) -> &'a Distribution {
    file.distributions.iter().find(|found| found.name == name).unwrap_or_else(|| panic!("{name}: {file:?}"))
}

#[test]
fn histories_are_counted_by_hand() {
    let file = of(&format!("{HISTORY}\n{}\n", HISTORY.replace("\"a\"", "\"b\""))).unwrap();
    assert_eq!((file.kind, file.rows, file.users), (RowKind::History, 2, Some(2)));
    assert_eq!((file.query_share, file.rejected_share), (Some(0.5), Some(0.5)));
    assert_eq!(file.counts["choices by domain"], BTreeMap::from([("(none)".into(), 2), ("news".into(), 2)]));
    let lengths = distribution(&file, "item characters");
    // Characters, not bytes: 4, 1 and 2, twice.
    assert_eq!((lengths.values, lengths.quantiles), (6, [1.0, 1.0, 2.0, 4.0, 4.0]));
    assert!((lengths.mean - 7.0 / 3.0).abs() < 1e-12);
    assert_eq!(distribution(&file, "interactions per user").quantiles, [2.0; 5]);
}

#[test]
fn quartiles_are_those_of_a_data_card() {
    // Nearest rank: one half of four values are at or below the second.
    let found = Distribution::new("n", vec![4.0, 1.0, 3.0, 2.0]).unwrap();
    assert_eq!(found.quantiles, [1.0, 1.0, 2.0, 3.0, 4.0]);
    assert_eq!(Distribution::new("n", vec![7.0]).unwrap().quantiles, [7.0; 5]);
}

#[test]
fn each_kind_of_rows_has_its_own_numbers() {
    let scored = of(SCORED).unwrap();
    assert_eq!(distribution(&scored, "signal").mean, 1.0);
    assert_eq!(distribution(&scored, "probability with the history").mean, 1.0);
    let sft = of(SFT).unwrap();
    assert_eq!((sft.users, sft.query_share), (None, None));
    let mean = |name: &str| distribution(&sft, name).mean;
    assert_eq!((mean("prompt characters"), mean("reasoning characters"), mean("summary characters")), (4.0, 3.0, 5.0));
    let rl = of(RL).unwrap();
    assert_eq!((distribution(&rl, "items before the first target").mean, distribution(&rl, "signal").mean), (1.0, 2.0));
    let taught = of(TAUGHT).unwrap();
    assert_eq!(taught.counts["users by outcome of stage 1"]["few_correct"], 1);
    assert_eq!(distribution(&taught, "probability of a candidate's target").mean, 0.75);
    let messages =
        of(r#"{"uid":"a","messages":[{"role":"user","content":"hello"}],"targets":[{"chosen":"c"}]}"#).unwrap();
    assert_eq!(distribution(&messages, "message characters").mean, 5.0);
    assert_eq!(messages.counts["choices by domain"]["(none)"], 1);
}

#[test]
fn a_folder_stands_for_its_files_and_reports() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("import/train.jsonl", HISTORY),
        ("prune/rl.jsonl", ""),
        ("teach/sft.jsonl", SFT),
        ("import/card.json", r#"{"seed":7,"users":{"train":3,"test":1},"dropped":{"short":2},"inputs":[{"bytes":9}]}"#),
        ("teach/report.json", r#"{"synthesis":{"users":3,"first":{"entered":2}},"asked":{"teacher":{"cost":0.25}}}"#),
    ] {
        fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
        fs::write(folder.path().join(name), text).unwrap();
    }
    let found = stats(&[folder.path().into()]).unwrap();
    assert_eq!(found.files.iter().map(|file| file.kind).collect::<Vec<_>>(), [RowKind::History, RowKind::Sft]);
    let counts =
        |step: usize| found.steps[step].counts.iter().map(|(name, n)| format!("{name}={n}")).collect::<Vec<_>>();
    assert_eq!(counts(0), ["users.train=3", "users.test=1", "dropped.short=2"]);
    assert_eq!(counts(1), ["synthesis.users=3", "synthesis.first.entered=2", "asked.teacher.cost=0.25"]);
    let text = found.text(80);
    for part in ["train.jsonl (histories)", "rows 1, users 1, choices with a query 50.0 %", "dropped.short  2", "█"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
    let html = found.html().unwrap();
    assert!(html.contains("interactions per user") && html.contains("asked.teacher.cost"), "{html}");
    assert_eq!(serde_json::from_str::<Stats>(&serde_json::to_string(&found).unwrap()).unwrap(), found);
}

#[test]
fn mistakes_are_named() {
    let message = |text: &str| of(text).unwrap_err().to_string();
    let mixed = message(&format!("{HISTORY}\n{SFT}\n"));
    assert!(mixed.contains("row 2: the row is one of SFT rows, but those before it are histories"), "{mixed}");
    assert!(message("").contains("rows.jsonl has no rows; run the step"));
    assert!(message("{\"a\":1}").contains("line 1: the row is not known"));
    let folder = tempfile::tempdir().unwrap();
    let nothing = stats(&[folder.path().into()]).unwrap_err().to_string();
    assert!(nothing.contains("no file of a pipeline; expected one of import/train.jsonl"), "{nothing}");
}
