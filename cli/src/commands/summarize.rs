//! `xplore summarize`.

use std::io::Write;
use std::path::Path;

use chat::prompt_manifest::PromptTask;
use chat::{History, jsonl};
use configs::{Dtype, ModelSource};
use xplore::generate::{Summarize, load, summarize};
use xplore::{Error, parts, runtime, wording};

use super::checkpoints;
use crate::progress::Terminal;

/// Runs the command. Without `prompts`, the model is prompted with the set that it carries.
pub fn run(
    model: &Path,
    history: &Path,
    prompts: Option<&str>,
    how: Summarize,
    out: Option<&Path>,
) -> Result<(), Error> {
    runtime::init(0)?;
    let (set, path) = (prompts.unwrap_or_default(), model.display().to_string());
    checkpoints::say(&path)?;
    let prompts = wording::of_model(set, &path, PromptTask::Summarize)?;
    wording::announce(&[wording::use_of_model("--prompts", set, &path, PromptTask::Summarize)?], &Terminal);
    let users: Vec<History> = parts::rows(history)?;
    let source = ModelSource { path, dtype: Dtype::Fp32, ..ModelSource::default() };
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
