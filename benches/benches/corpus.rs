//! Benchmarks the conversion of rows to packed token sequences: `cargo bench -p benches --bench corpus`.

#![expect(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::fmt::Write;
use std::hint::black_box;

use chat::Draw;
use chat::tokenizer::Tokenizer;
use configs::sft::SftData;
use corpus::{Rules, pack, tokenize};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Returns sentences of words whose frequencies resemble those of natural language: few words are frequent, many are rare.
fn sentences(count: usize, draw: Draw) -> String {
    let mut text = String::new();
    for s in 0..count {
        let draw = draw.with(s as u64);
        let words = 4 + draw.below(12);
        for w in 0..words {
            let draw = draw.with(w as u64);
            // The product of three uniform random numbers decays like word frequencies.
            let rank = [1, 2, 3].iter().fold(8000, |n, &k| draw.with(k).below(n + 1));
            let gap = if w == 0 { "" } else { " " };
            let _ = write!(text, "{gap}{}", word(rank));
        }
        text.push_str(". ");
    }
    text
}

/// Returns a word of syllables that depends on `rank` only.
fn word(rank: usize) -> String {
    const SYLLABLES: [&str; 20] = [
        "re", "la", "tion", "in", "ter", "est", "co", "mo", "vi", "ne", "st", "or", "y", "pre", "fer", "ence", "sp",
        "ace", "di", "al",
    ];
    let draw = Draw::new(1).with(rank as u64);
    (0..1 + (rank + 1).ilog2() as usize / 3).map(|s| SYLLABLES[draw.with(s as u64).below(20)]).collect()
}

fn tokenize_and_pack(c: &mut Criterion) {
    let text = sentences(20_000, Draw::new(2));
    let tokenizer = Tokenizer::train(text.split_inclusive(". "), 8192).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    let rows: String = (0..4000)
        .map(|row| {
            let draw = Draw::new(3).with(row);
            let (prompt, completion) =
                (sentences(20 + draw.below(40), draw), sentences(4 + draw.below(8), draw.with(9)));
            let row = serde_json::json!({
                "prompt": [{"role": "user", "content": prompt}],
                "completion": [{"role": "assistant", "content": completion}],
            });
            format!("{row}\n")
        })
        .collect();
    std::fs::write(&path, rows).unwrap();
    let files = [path];
    let rules = Rules::from(&SftData::default());
    let run = || {
        let mut lengths = Vec::new();
        let mut keep = |row: &corpus::MaskedSequence| {
            lengths.push(row.ids.len());
            Ok(())
        };
        let report = tokenize::files(&files, rules, &tokenizer, &mut |_| {}, &mut keep).unwrap();
        (report, pack(&lengths, 16384))
    };
    let tokens = run().0.tokens;
    println!("vocabulary {}, {tokens} tokens", tokenizer.vocab_size());
    let mut group = c.benchmark_group("corpus");
    group.throughput(Throughput::Elements(tokens)).sample_size(10);
    group.bench_function("tokenize and pack", |b| b.iter(|| black_box(run())));
    group.finish();
    let lengths: Vec<usize> = (0..100_000).map(|i| 1 + Draw::new(4).with(i).below(4096)).collect();
    let mut group = c.benchmark_group("pack");
    group.throughput(Throughput::Elements(lengths.len() as u64)).sample_size(20);
    group.bench_function("100,000 sequences", |b| b.iter(|| black_box(pack(&lengths, 16384))));
}

criterion_group!(benches, tokenize_and_pack);
criterion_main!(benches);
