//! Opens a data file with a model's tokenizer, iterates over the first epoch, and reports time and memory.
//!
//! `open ROWS MODEL_FOLDER CACHE_FOLDER`; `open train TEXT MODEL_FOLDER` first trains a tokenizer of 8192 tokens on a
//! text.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use chat::tokenizer::Tokenizer;
use configs::BatchSize;
use configs::sft::{SftData, SftTrain};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["train", text, model] => {
            let text = std::fs::read_to_string(text)?;
            Ok(Tokenizer::train(text.lines(), 8192)?.save(Path::new(model))?)
        }
        [rows, model, cache] => open(Path::new(rows), Path::new(model), Path::new(cache)),
        _ => Err("usage: open ROWS MODEL_FOLDER CACHE_FOLDER, or: open train TEXT MODEL_FOLDER".into()),
    }
}

fn open(rows: &Path, model: &Path, cache: &Path) -> Result<(), Box<dyn Error>> {
    let data = SftData { train: rows.into(), ..SftData::default() };
    let begin = Instant::now();
    let corpus = corpus::open(&data, &Tokenizer::load(model)?, cache, 42, &mut |_, _, _| {})?;
    let opened = begin.elapsed().as_secs_f64();
    let train =
        SftTrain { epochs: 1, batch_size: BatchSize::Sequences(0), batch_tokens: 1 << 16, ..SftTrain::default() };
    let mut plan = corpus::plan(&corpus.train, &train);
    let (begin, mut tokens) = (Instant::now(), 0);
    for step in 0..plan.steps() {
        // The plan has a batch for every step below `steps()`.
        for id in plan.batch(step).unwrap_or_default().rows {
            tokens += corpus.train.read(id)?.ids.len();
        }
    }
    let report = corpus.report.sets[0].1;
    let json = serde_json::json!({
        "rows": report.rows, "tokens": tokens, "from_cache": report.from_cache, "open_seconds": opened,
        "epoch_seconds": begin.elapsed().as_secs_f64(), "peak_bytes": peak()?,
    });
    println!("{json}");
    Ok(())
}

/// Returns the peak resident memory of the process, in bytes.
fn peak() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM in /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
