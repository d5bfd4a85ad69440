//! Loading of models, and generation of user summaries.

use std::path::Path;

use chat::{Completer, Completion, CompletionRequest, History, HistoryItems, PromptSet, Sampling, reasoning};
use configs::ModelSource;
use lm::{LocalModel, device, pretrained};
use rewards::Draw;
use serde::Serialize;

use crate::error::Error;
use crate::reporter::Reporter;

/// Loads a model from a folder, an adapter folder (merged into its base model), or a hub ID. On a machine with several GPUs the
/// model is loaded onto the first one that is visible to the process.
///
/// # Errors
/// Returns an error if the model cannot be found, read or downloaded.
pub fn load(source: &ModelSource) -> Result<LocalModel, Error> {
    Ok(pretrained::load(source, device::select(source.device, 0)?)?)
}

/// Writes a model as a Hugging Face folder. The write is atomic.
///
/// # Errors
/// Returns an error if the folder cannot be written.
pub fn save(folder: &Path, model: &LocalModel) -> Result<(), Error> {
    Ok(pretrained::save(folder, model)?)
}

/// Sampling settings of summaries.
#[derive(Clone, Copy, Debug)]
pub struct Summarize {
    /// Whether the model reads each history in two halves, with the first summary in the second prompt. Default: `false`.
    pub streaming: bool,
    /// Sampling temperature; 0 is greedy decoding. Default: 0.6.
    pub temperature: f64,
    /// Maximum number of tokens of a response. Default: 4096.
    pub max_new_tokens: usize,
    /// Seed of the sampling. Default: 42.
    pub seed: u64,
}

impl Default for Summarize {
    fn default() -> Self {
        Self { streaming: false, temperature: 0.6, max_new_tokens: 4096, seed: 42 }
    }
}

/// A model's summary of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// ID of the user.
    pub uid: String,
    /// Text of the response after its last `</think>`.
    pub summary: String,
    /// Reasoning of the response; `None` if the response is malformed.
    pub reasoning: Option<String>,
    /// Whether the response consists of exactly one `<think>…</think>` followed by text.
    pub well_formed: bool,
}

/// Generates one summary per user.
///
/// ```
/// use xplore::generate::{Summarize, load, summarize};
/// use xplore::{Silent, configs::ModelSource, parts, runtime};
///
/// # let folder = fixtures::policy::model_and_rows();
/// # let folder = folder.path();
/// runtime::init(0)?;
/// let model = load(&ModelSource { path: folder.join("model").display().to_string(), ..ModelSource::default() })?;
/// let users: Vec<chat::History> = parts::rows(&folder.join("rl.jsonl"))?;
/// let how = Summarize { max_new_tokens: 8, ..Summarize::default() };
/// for summary in summarize(&model, &parts::prompts("compact")?, &users, how, &Silent)? {
///     println!("{}: {}", summary.uid, summary.summary);
/// }
/// # Ok::<(), xplore::Error>(())
/// ```
///
/// # Errors
/// Returns an error if a prompt cannot be rendered or is too long, or if generation fails.
pub fn summarize(
    model: &LocalModel,
    prompts: &PromptSet,
    users: &[History],
    how: Summarize,
    reporter: &dyn Reporter,
) -> Result<Vec<Summary>, Error> {
    if !(how.temperature >= 0.0 && how.temperature.is_finite()) {
        return Err(Error::usage(format!("temperature is {}; expected 0 (greedy) or more", how.temperature)));
    }
    let mut progress = reporter.task("summarize");
    let mut pasts: Vec<Option<String>> = users.iter().map(|_| None).collect();
    let mut responses = Vec::new();
    let stages = if how.streaming { 2 } else { 1 };
    for stage in 0..stages {
        let requests = users
            .iter()
            .zip(&pasts)
            .map(|(user, past)| {
                let messages = prompts.summarize(past.as_deref(), window(user.items(), stage, stages))?;
                let sampling = Sampling {
                    temperature: how.temperature,
                    top_k: 20,
                    top_p: 0.95,
                    ..Sampling::all(how.max_new_tokens)
                };
                let seed = Draw::new(how.seed).text("summarize").text(&user.uid).with(stage as u64).bits();
                Ok(CompletionRequest { seed, ..CompletionRequest::new(messages, sampling) })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        responses = model.complete(&requests)?;
        pasts = responses.iter().map(|r| Some(reasoning::summary_leniently(&r.text).to_owned())).collect();
        progress.at(stage as u64 + 1, stages as u64, "");
    }
    progress.done(&format!("{} users", users.len()));
    let summary = |(user, response): (&History, &Completion)| {
        let parts = reasoning::split(&response.text);
        Summary {
            uid: user.uid.clone(),
            summary: reasoning::summary_leniently(&response.text).to_owned(),
            reasoning: parts.map(|p| p.reasoning.to_owned()),
            well_formed: parts.is_some(),
        }
    };
    Ok(users.iter().zip(&responses).map(summary).collect())
}

/// Returns the interactions or messages of a stage; two stages are halves, as in the published streaming setting.
fn window(items: HistoryItems<'_>, stage: usize, stages: usize) -> HistoryItems<'_> {
    let n = items.len();
    items.slice(n * stage / stages, n * (stage + 1) / stages)
}
