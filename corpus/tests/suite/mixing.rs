//! Tests of sets, epochs, batches and held-out rows.

use std::collections::BTreeSet;

use configs::BatchSize;
use configs::sft::{SftData, SftSet, SftTrain};
use corpus::{CorpusError, Mixture, RowId, plan};

use crate::fixtures::{numbered, open, tokenizer, write};

fn texts(mixture: &Mixture, ids: &[RowId]) -> Vec<String> {
    let t = tokenizer();
    ids.iter().map(|&id| t.decode(&mixture.read(id).unwrap().ids).unwrap()).collect()
}

#[test]
fn shuffle_gives_each_epoch_an_order_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let train = write(folder.path(), "rows.jsonl", &numbered(20));
    let shuffled = open(&SftData { train: train.clone(), ..SftData::default() }, &tokenizer(), folder.path()).unwrap();
    let data = SftData { train, shuffle: false, ..SftData::default() };
    let in_order = open(&data, &tokenizer(), folder.path()).unwrap();
    let expected: Vec<String> = (0..20).map(|i| format!("row {i} likes space")).collect();
    for epoch in 0..2 {
        assert_eq!(texts(&in_order.train, &in_order.train.epoch(epoch)), expected);
        let mut rows = texts(&shuffled.train, &shuffled.train.epoch(epoch));
        assert_ne!(rows, expected);
        rows.sort_unstable();
        assert_eq!(rows.len(), BTreeSet::from_iter(&rows).len());
    }
    assert_ne!(shuffled.train.epoch(0), shuffled.train.epoch(1));
    assert!(in_order.report.sets[0].1.from_cache, "order is no part of what is stored");
}

#[test]
fn mix_takes_sets_by_weight() {
    let folder = tempfile::tempdir().unwrap();
    let set = |name: &str, rows, weight| SftSet { path: write(folder.path(), name, &numbered(rows)), weight };
    let mixed = |a, b| {
        let data = SftData { mix: vec![set("a.jsonl", 6, a), set("b.jsonl", 2, b)], ..SftData::default() };
        open(&data, &tokenizer(), folder.path()).unwrap()
    };
    let of_second = |corpus: &corpus::Corpus| corpus.train.epoch(0).iter().filter(|id| id.set == 1).count();
    let (plain, weighted) = (mixed(0.0, 0.0), mixed(1.0, 3.0));
    assert_eq!((plain.train.len(), of_second(&plain)), (8, 2));
    assert_eq!((weighted.train.len(), of_second(&weighted)), (8, 6));
    assert_eq!(plain.report.sets.len(), 2);
}

#[test]
fn validation_rows_come_from_a_file_or_are_held_out() {
    let folder = tempfile::tempdir().unwrap();
    let train = write(folder.path(), "rows.jsonl", &numbered(40));
    let validation = write(folder.path(), "other.jsonl", &numbered(3));
    let none = SftData { train, ..SftData::default() };
    assert!(open(&none, &tokenizer(), folder.path()).unwrap().validation.is_none());

    let corpus = open(&SftData { validation, ..none.clone() }, &tokenizer(), folder.path()).unwrap();
    assert_eq!((corpus.train.len(), corpus.validation.as_ref().unwrap().len()), (40, 3));
    assert_eq!(corpus.report.validation.unwrap().1.kept, 3);

    let corpus = open(&SftData { validation_share: 0.25, ..none.clone() }, &tokenizer(), folder.path()).unwrap();
    let held_out = corpus.validation.unwrap();
    let ids: BTreeSet<RowId> = held_out.epoch(0).into_iter().collect();
    assert!((4..=16).contains(&ids.len()), "{}", ids.len());
    assert!(held_out.epoch(0).is_sorted(), "in the order of the file");
    let left: BTreeSet<RowId> = corpus.train.epoch(0).into_iter().collect();
    assert_eq!((left.len() + ids.len(), left.intersection(&ids).count()), (40, 0));

    let error = open(&SftData { validation_share: 1e-9, ..none }, &tokenizer(), folder.path()).unwrap_err();
    assert!(matches!(error, CorpusError::Share { held_out: 0, rows: 40, .. }), "{error}");
}

#[test]
fn batches_follow_rows_tokens_epochs_and_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<_> = (0..23).map(|i| serde_json::json!({"text": "space ".repeat(1 + i % 7)})).collect();
    let data = SftData { train: write(folder.path(), "rows.jsonl", &rows), ..SftData::default() };
    let mixture = open(&data, &tokenizer(), folder.path()).unwrap().train;
    let by_rows = SftTrain { epochs: 3, batch_size: BatchSize::Sequences(4), ..SftTrain::default() };
    let by_tokens =
        SftTrain { epochs: 3, batch_size: BatchSize::Sequences(0), batch_tokens: 20, ..SftTrain::default() };
    assert_eq!(plan(&mixture, &by_rows).steps(), 18);
    let ends: Vec<u64> = (0..=18).filter(|&done| plan(&mixture, &by_rows).ends_epoch(done)).collect();
    assert_eq!(ends, [6, 12, 18]);
    // 16 rows on the single device that 23 rows take.
    let published = SftTrain { epochs: 2, batch_size: BatchSize::Published, ..SftTrain::default() };
    let mut as_published = plan(&mixture, &published);
    assert_eq!((as_published.batch_size(), as_published.steps()), (16, 4));
    assert_eq!([0, 1].map(|step| as_published.batch(step).unwrap().rows.len()), [16, 7]);
    assert_eq!((plan(&mixture, &by_rows).batch_size(), plan(&mixture, &by_tokens).batch_size()), (4, 0));
    for train in [&by_rows, &by_tokens] {
        let mut plan = plan(&mixture, train);
        let batches: Vec<_> = (0..plan.steps()).map(|step| plan.batch(step).unwrap()).collect();
        assert_eq!(plan.batch(plan.steps()), None);
        for epoch in 0..3 {
            let rows: Vec<RowId> = batches.iter().filter(|b| b.epoch == epoch).flat_map(|b| b.rows.clone()).collect();
            assert_eq!(rows, mixture.epoch(epoch), "each epoch in its order, nothing left out");
        }
        assert_eq!(plan.batch(1).as_ref(), Some(&batches[1]), "any step can be asked for again");
        let limited = SftTrain { max_steps: 7, ..train.clone() };
        assert_eq!(corpus::plan(&mixture, &limited).steps(), 7);
    }
    let tokens = |rows: &[RowId]| rows.iter().map(|&id| mixture.length(id)).sum::<usize>();
    let mut plan = plan(&mixture, &by_tokens);
    let all: Vec<_> = (0..plan.steps()).map(|step| plan.batch(step).unwrap()).collect();
    assert!(all.iter().all(|batch| tokens(&batch.rows) <= 20));
    for pair in all.windows(2).filter(|pair| pair[0].epoch == pair[1].epoch) {
        assert!(tokens(&pair[0].rows) + mixture.length(pair[1].rows[0]) > 20, "as many as fit");
    }
}
