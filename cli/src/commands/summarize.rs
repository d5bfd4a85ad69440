//! `xplore summarize`.

use std::io::Write;
use std::path::Path;

use chat::{Completer, CompletionRequest, History, Interaction, Sampling, jsonl, reasoning};
use configs::{Dtype, ModelSource};
use rewards::Draw;
use serde_json::json;
use trainer::start;

use crate::failure::Failure;
use crate::progress::Progress;
use crate::wiring;

/// How summaries are drawn.
#[derive(Clone, Copy)]
pub struct How {
    /// In two halves, the first summary carried into the second.
    pub streaming: bool,
    /// Sampling temperature.
    pub temperature: f64,
    /// Most tokens of a response.
    pub max_new_tokens: usize,
    /// Seed of the draws.
    pub seed: u64,
}

/// Runs the command.
pub fn run(model: &Path, history: &Path, prompts: &str, how: How, out: Option<&Path>) -> Result<(), Failure> {
    if !(how.temperature >= 0.0 && how.temperature.is_finite()) {
        return Err(Failure::usage(format!("--temperature is {}; expected 0 (greedy) or more", how.temperature)));
    }
    start::prepare_process(0)?;
    let prompts = wiring::prompts(prompts)?;
    let people: Vec<History> = wiring::rows(history)?;
    let source = ModelSource { path: model.display().to_string(), dtype: Dtype::Fp32, ..ModelSource::default() };
    let model = start::load(&source)?;
    let mut progress = Progress::new("summarize");
    let mut pasts: Vec<Option<String>> = people.iter().map(|_| None).collect();
    let mut responses = Vec::new();
    let stages = if how.streaming { 2 } else { 1 };
    for stage in 0..stages {
        let requests = people
            .iter()
            .zip(&pasts)
            .map(|(person, past)| {
                let messages = prompts.summarize(past.as_deref(), window(&person.interactions, stage, stages))?;
                let sampling = Sampling {
                    temperature: how.temperature,
                    top_k: 20,
                    top_p: 0.95,
                    ..Sampling::all(how.max_new_tokens)
                };
                let seed = Draw::new(how.seed).text("summarize").text(&person.uid).with(stage as u64).bits();
                Ok(CompletionRequest { seed, ..CompletionRequest::new(messages, sampling) })
            })
            .collect::<Result<Vec<_>, Failure>>()?;
        responses = model.complete(&requests)?;
        pasts = responses.iter().map(|r| Some(reasoning::summary_leniently(&r.text).to_owned())).collect();
        progress.at(stage as u64 + 1, stages as u64, "");
    }
    let lines: Vec<_> = people
        .iter()
        .zip(&responses)
        .map(|(person, response)| {
            let parts = reasoning::split(&response.text);
            json!({
                "uid": person.uid,
                "summary": reasoning::summary_leniently(&response.text),
                "reasoning": parts.map(|p| p.reasoning),
                "well_formed": parts.is_some(),
            })
        })
        .collect();
    progress.done(&format!("{} people", people.len()));
    match out {
        Some(path) => Ok(jsonl::write(path, &lines)?),
        None => {
            let mut stdout = std::io::stdout().lock();
            for line in lines {
                // A reader that closes the pipe early has seen enough.
                if writeln!(stdout, "{line}").is_err() {
                    break;
                }
            }
            Ok(())
        }
    }
}

/// The interactions of a stage; halves as the published streaming setting has them.
fn window(interactions: &[Interaction], stage: usize, stages: usize) -> &[Interaction] {
    let n = interactions.len();
    &interactions[n * stage / stages..n * (stage + 1) / stages]
}
