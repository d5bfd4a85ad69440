//! Keys of `[train]`, and `--preview`.

use std::path::Path;

use fixtures::sft_runs::read_run;

use crate::fixture::{Bench, ROWS, same};

#[test]
fn batches_count_rows_or_tokens() {
    let bench = Bench::new();
    let epoch = |name: &str, set: &[&str]| bench.fit(name, &[&["train.max_steps=0", "train.epochs=1"], set].concat());
    let rows = epoch("rows", &["train.batch_size=5"]);
    assert_eq!(rows.column("sequences"), [5.0, 5.0, 5.0, 5.0, 4.0]);
    let tokens = epoch("tokens", &["train.batch_size=0", "train.batch_tokens=90"]);
    assert!(tokens.column("tokens").iter().all(|&n| n <= 90.0), "{:?}", tokens.column("tokens"));
    for key in ["tokens", "trained_tokens", "sequences"] {
        let sum = |column: Vec<f64>| column.iter().sum::<f64>();
        assert_eq!(sum(tokens.column(key)), sum(rows.column(key)), "{key} of an epoch");
    }
    assert_eq!(tokens.column("sequences").iter().sum::<f64>(), ROWS as f64);
    let mut lengths = tokens.column("sequences");
    lengths.dedup();
    assert!(lengths.len() > 1, "as many rows as fit, not a fixed number: {lengths:?}");
    assert_eq!(bench.fit("two", &["train.max_steps=0", "train.epochs=2"]).lines.len(), 12);
    let third = bench.fit("third", &["train.max_steps=3"]);
    assert_eq!((third.lines.len(), third.last().ends_with("step-000003")), (3, true));
}

#[test]
fn the_published_batch_size_follows_from_the_rows() {
    let bench = Bench::new();
    let set = ["train.batch_size=published", "train.max_steps=0", "train.epochs=2"];
    // 24 rows take one device, which reads 16 of them per update.
    let explained = "published: 16 · 1 = 16 sequences per update, with 1 = ceil(24 rows / (16 · 529)) devices; 2 updates \
                     per epoch";
    let (code, said) = bench.start("published", &set, &[]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(said.matches(&format!("info: train.batch_size is {explained}")).count(), 1, "{said}");
    assert_eq!(read_run(&bench.path(""), "published").column("sequences"), [16.0, 8.0, 16.0, 8.0]);
    let plan = bench.check(&set);
    assert!(plan.contains(&format!("batch size   {explained}")) && plan.contains("4 of 16 sequences"), "{plan}");
    // A given number needs no explanation.
    assert!(!bench.start("given", &["train.max_steps=1"], &[]).1.contains("train.batch_size"));
}

#[test]
fn recomputing_changes_no_loss() {
    let bench = Bench::new();
    let kept = bench.fit("kept", &[]);
    for every in ["1", "2"] {
        let again = bench.fit(&format!("every-{every}"), &[&format!("train.activation_checkpointing_every={every}")]);
        same(&again.column("loss"), &kept.column("loss"));
        same(&again.column("grad_norm"), &kept.column("grad_norm"));
    }
}

#[test]
fn a_preview_marks_what_is_trained_counts_and_trains_nothing() {
    let bench = Bench::new();
    let (code, said) = bench.start("seen", &["data.max_length=30"], &["--preview", "2"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!((said.matches('⟦').count(), said.matches('⟧').count()), (2, 2), "{said}");
    let marked = said.split('⟦').nth(1).unwrap().split('⟧').next().unwrap();
    assert_eq!(marked, "warm<|im_end|>\n", "the first row's answer");
    let counts = [format!("of {ROWS} rows"), "trained".into(), " truncated".into()];
    assert!(counts.iter().all(|words| said.contains(words)), "{said}");
    assert!(!Path::exists(&bench.path("runs/seen")), "a preview leaves no run");
}
