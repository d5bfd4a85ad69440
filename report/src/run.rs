//! One run folder, loaded and validated.

use std::fs;
use std::path::{Path, PathBuf};

use evals::ExplainedSummary;
use serde::de::DeserializeOwned;

use crate::error::ReportError;
use crate::metrics::{self, PhaseMetrics};
use crate::prompts::PromptUse;
use crate::records::{AccuracyRow, Example, GainRow};

/// The files of a report, and what the page cannot show without them.
const FILES: [(&str, &str); 5] = [
    ("metrics.jsonl", "training curves"),
    ("eval.json", "evaluation"),
    ("eval-gains.json", "gains of RL over SFT"),
    ("examples.json", "example summaries"),
    ("config.toml", "run config"),
];

/// The file with the prompt sets. Nothing on the page needs it, so the page does not list it as missing.
const PROMPTS: &str = "prompts.json";

/// The file with the attribution of sentences, which is optional too.
const EXPLAIN: &str = crate::sentences::EXPLAIN;

/// A file that is not in the run folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Missing {
    /// The name of the file.
    pub file: &'static str,
    /// What the page cannot show without it.
    pub content: &'static str,
}

/// One run folder.
pub(crate) struct RunRecord {
    /// The path of the folder.
    pub path: PathBuf,
    /// The name on the page, unique among its runs.
    pub name: String,
    /// The curves, by phase.
    pub phases: Vec<PhaseMetrics>,
    /// The accuracies.
    pub eval: Vec<AccuracyRow>,
    /// The paired differences.
    pub gains: Vec<GainRow>,
    /// The example users.
    pub examples: Vec<Example>,
    /// The content of the config file.
    pub config: Option<String>,
    /// The prompt sets; empty for a run that did not record them.
    pub prompts: Vec<PromptUse>,
    /// What sentences of summaries earn; empty for a run that was not explained.
    pub explained: Vec<ExplainedSummary>,
    /// The missing files.
    pub missing: Vec<Missing>,
}

impl RunRecord {
    /// Loads every folder and gives each run a unique name: the folder's name, or as many components of its path as
    /// distinguish it from the other runs.
    pub fn load_all(paths: &[PathBuf]) -> Result<Vec<RunRecord>, ReportError> {
        if paths.is_empty() {
            return Err(ReportError::NoRuns);
        }
        let mut runs = paths.iter().map(|path| RunRecord::load(path)).collect::<Result<Vec<_>, _>>()?;
        let longest = paths.iter().map(|path| whole(path).components().count()).max().unwrap_or(1);
        for parts in 2..=longest {
            let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
            for run in &mut runs {
                if names.iter().filter(|name| **name == run.name).count() > 1 {
                    run.name = name(&run.path, parts);
                }
            }
        }
        Ok(runs)
    }

    /// Loads one folder.
    pub fn load(path: &Path) -> Result<RunRecord, ReportError> {
        let texts = FILES.map(|(file, _)| read(&path.join(file)));
        let [log, eval, gains, examples, config] = texts;
        let (log, eval, gains, examples, config) = (log?, eval?, gains?, examples?, config?);
        let there = [&log, &eval, &gains, &examples, &config].map(Option::is_some);
        if !there.contains(&true) {
            let files = FILES.map(|(file, _)| file).join(", ");
            return Err(ReportError::Nothing { path: path.into(), files });
        }
        let missing = FILES.iter().zip(there).filter(|(_, there)| !there);
        Ok(RunRecord {
            name: name(path, 1),
            phases: log.map_or(Ok(Vec::new()), |text| metrics::parse(&path.join("metrics.jsonl"), &text))?,
            eval: list(&path.join("eval.json"), eval)?,
            gains: list(&path.join("eval-gains.json"), gains)?,
            examples: list(&path.join("examples.json"), examples)?,
            config,
            prompts: list(&path.join(PROMPTS), read(&path.join(PROMPTS))?)?,
            explained: list(&path.join(EXPLAIN), read(&path.join(EXPLAIN))?)?,
            missing: missing.map(|(&(file, content), _)| Missing { file, content }).collect(),
            path: path.into(),
        })
    }
}

/// Returns the last `parts` components of the folder's path; also works if it is given as `.` or ends in `..`.
fn name(path: &Path, parts: usize) -> String {
    let whole = whole(path);
    let parts: Vec<_> = whole.components().rev().take(parts).collect();
    parts.into_iter().rev().collect::<PathBuf>().display().to_string()
}

/// Returns the absolute path; the path as given if the folder cannot be resolved.
fn whole(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.into())
}

/// Returns the text of a file; `None` if there is no such file.
fn read(path: &Path) -> Result<Option<String>, ReportError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ReportError::Io { action: "read", path: path.into(), source }),
    }
}

/// Parses a JSON list; a missing file gives an empty list.
fn list<T: DeserializeOwned>(path: &Path, text: Option<String>) -> Result<Vec<T>, ReportError> {
    let Some(text) = text else { return Ok(Vec::new()) };
    serde_json::from_str(&text).map_err(|error| {
        let message = error.to_string();
        let cause = message.rsplit_once(" at line ").map_or(message.as_str(), |(cause, _)| cause);
        let message = format!("{cause} (column {})", error.column());
        ReportError::Malformed { path: path.into(), line: error.line(), message }
    })
}
