//! `xplore summarize`.

use std::io::Write;
use std::path::Path;

use chat::{History, jsonl};
use configs::{Dtype, ModelSource};
use xplore::generate::{Summarize, load, summarize};
use xplore::{Error, parts, runtime};

use crate::progress::Terminal;

/// Runs the command.
pub fn run(model: &Path, history: &Path, prompts: &str, how: Summarize, out: Option<&Path>) -> Result<(), Error> {
    runtime::init(0)?;
    let prompts = parts::prompts(prompts)?;
    let users: Vec<History> = parts::rows(history)?;
    let source = ModelSource { path: model.display().to_string(), dtype: Dtype::Fp32, ..ModelSource::default() };
    let summaries = summarize(&load(&source)?, &prompts, &users, how, &Terminal)?;
    if let Some(path) = out {
        return Ok(jsonl::write(path, &summaries)?);
    }
    let mut stdout = std::io::stdout().lock();
    for summary in summaries {
        let line = serde_json::to_string(&summary).expect("strings always serialize");
        // A closed pipe is not an error: the reader has seen enough.
        if writeln!(stdout, "{line}").is_err() {
            break;
        }
    }
    Ok(())
}
