//! Tests of all file formats, the cache, and what users are shown.

use std::fs;
use std::path::{Path, PathBuf};

use configs::sft::{LossOn, SftData, SftSet, Truncation, Unusable};
use corpus::{CorpusError, preview};
use serde_json::json;

use crate::fixtures::{numbered, open, tokenizer, tokenizer_with, turns, write};

#[test]
fn a_folder_is_its_files_and_files_may_be_lines_or_an_array() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    write(&data, "b.jsonl", &numbered(2));
    fs::write(data.join("a.json"), json!(numbered(3)).to_string()).unwrap();
    let corpus = open(&SftData { train: data, ..SftData::default() }, &tokenizer(), folder.path()).unwrap();
    assert_eq!(corpus.train.len(), 5);
    let missing = SftData { train: folder.path().join("none.jsonl"), ..SftData::default() };
    assert!(open(&missing, &tokenizer(), folder.path()).unwrap_err().to_string().contains("none.jsonl"));
    let empty = SftData { train: write(folder.path(), "empty.jsonl", &[]), ..SftData::default() };
    assert!(matches!(open(&empty, &tokenizer(), folder.path()).unwrap_err(), CorpusError::Empty { .. }));
}

/// Returns the only folder of a cache.
fn stored(cache: &Path) -> PathBuf {
    let all: Vec<PathBuf> = fs::read_dir(cache).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}

#[test]
fn rows_are_tokenized_once_and_a_damaged_cache_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let data = SftData { train: write(folder.path(), "rows.jsonl", &numbered(9)), ..SftData::default() };
    let first = open(&data, &tokenizer(), folder.path()).unwrap();
    assert!(!first.report.sets[0].1.from_cache);
    let again = open(&data, &tokenizer(), folder.path()).unwrap();
    assert!(again.report.sets[0].1.from_cache);
    let id = first.train.epoch(0)[3];
    assert_eq!(first.train.read(id).unwrap(), again.train.read(id).unwrap());
    assert_eq!(again.train.trained(id), again.train.read(id).unwrap().trained_tokens());
    let place = stored(&folder.path().join("cache"));
    for name in ["tokens", "index", "report.json"] {
        let path = place.join(name);
        let whole = fs::read(&path).unwrap();
        let mut foreign = whole.clone();
        foreign[0] ^= 0x55;
        for damaged in [&whole[..whole.len() - 1], &[], &foreign] {
            if name == "tokens" && damaged.len() == whole.len() {
                continue; // opening checks sizes and formats, not every token
            }
            fs::write(&path, damaged).unwrap();
            let mended = open(&data, &tokenizer(), folder.path()).unwrap();
            assert!(!mended.report.sets[0].1.from_cache, "{name}");
            assert_eq!(mended.train.read(id).unwrap(), first.train.read(id).unwrap());
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }
    stored(&folder.path().join("cache"));
}

#[test]
fn whatever_changes_the_tokens_makes_another_cache() {
    let folder = tempfile::tempdir().unwrap();
    let base = SftData { train: write(folder.path(), "rows.jsonl", &numbered(4)), ..SftData::default() };
    let from_cache = |data: &SftData, t: &chat::tokenizer::Tokenizer| {
        open(data, t, folder.path()).unwrap().report.sets[0].1.from_cache
    };
    let t = tokenizer();
    assert!(!from_cache(&base, &t));
    for data in [
        SftData { max_length: 5, ..base.clone() },
        SftData { truncation: Truncation::KeepEnd, ..base.clone() },
        SftData { loss_on: LossOn::All, ..base.clone() },
        SftData { unusable: Unusable::Skip, ..base.clone() },
    ] {
        assert!(!from_cache(&data, &t), "{data:?}");
    }
    assert!(!from_cache(&base, &tokenizer_with("{{ messages }}")), "the template");
    assert!(from_cache(&base, &t));
    let moved = write(folder.path(), "moved.jsonl", &numbered(4));
    assert!(from_cache(&SftData { train: moved, ..base.clone() }, &t), "the content counts, not the name");
    write(folder.path(), "rows.jsonl", &numbered(5));
    assert!(!from_cache(&base, &t), "the content");
}

#[test]
fn a_run_that_fails_leaves_nothing_in_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let data = SftData { train: write(folder.path(), "rows.jsonl", &[json!({})]), ..SftData::default() };
    assert!(open(&data, &tokenizer(), folder.path()).is_err());
    assert_eq!(fs::read_dir(folder.path().join("cache")).unwrap().count(), 0);
}

#[test]
fn progress_reaches_the_end_of_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let train = write(folder.path(), "rows.jsonl", &numbered(9));
    let size = fs::metadata(&train).unwrap().len();
    let data = SftData { train, ..SftData::default() };
    let mut told = Vec::new();
    let mut tell = |what: &str, done, total| told.push((what.split(' ').next().unwrap().to_owned(), done, total));
    corpus::open(&data, &tokenizer(), &folder.path().join("cache"), 0, &mut tell).unwrap();
    assert_eq!(told, [("reading".into(), size, size), ("tokenizing".into(), size, size)]);
}

#[test]
fn a_preview_shows_what_is_trained_and_why_rows_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let rows = [
        json!({"messages": turns(&["space?", "warm 日本"])}),
        json!({"messages": turns(&["space?"])}),
        json!({"text": "the user likes warm stories and ".repeat(9)}),
        json!({"text": "not shown"}),
    ];
    let path = write(folder.path(), "rows.jsonl", &rows);
    let mix = vec![SftSet { path, weight: 0.0 }];
    let data = SftData { mix, unusable: Unusable::Skip, max_length: 32, ..SftData::default() };
    let corpus = open(&data, &tokenizer(), folder.path()).unwrap();
    let text = preview(&data, &tokenizer(), Some(&corpus.report), 3, false).unwrap();
    assert!(text.contains("<|im_start|>assistant\n⟦warm 日本<|im_end|>\n⟧"), "{text}");
    assert!(text.contains("rows.jsonl, line 2: cannot be trained on: has no token to train on"), "{text}");
    assert!(text.contains("line 3: 32 tokens, 31 trained, truncated to data.max_length"), "{text}");
    assert!(!text.contains("not shown"), "{text}");
    assert!(text.contains("3 of 4 rows") && text.contains("skipped: 1 without a token to train on"), "{text}");
    let green = preview(&data, &tokenizer(), None, 1, true).unwrap();
    assert!(green.contains("\u{1b}[32mwarm 日本<|im_end|>\n\u{1b}[0m") && !green.contains('⟦'), "{green}");
}
