//! One run folder, read and checked.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::error::ReportError;
use crate::metrics::{self, Phase};
use crate::records::{EvalRow, Example, GainRow};

/// What a report looks for, and what is lost without it.
const FILES: [(&str, &str); 5] = [
    ("metrics.jsonl", "training curves"),
    ("eval.json", "evaluation"),
    ("eval-gains.json", "gains of RL over SFT"),
    ("examples.json", "example summaries"),
    ("config.toml", "run config"),
];

/// A file that is not in the run folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Missing {
    /// Its name.
    pub file: &'static str,
    /// What the page cannot show without it.
    pub content: &'static str,
}

/// One run folder.
pub(crate) struct Run {
    /// The folder.
    pub path: PathBuf,
    /// Its name on the page, unlike that of every other run on it.
    pub name: String,
    /// Curves by phase.
    pub phases: Vec<Phase>,
    /// Accuracies.
    pub eval: Vec<EvalRow>,
    /// Paired differences.
    pub gains: Vec<GainRow>,
    /// Example people.
    pub examples: Vec<Example>,
    /// The config file as it stands.
    pub config: Option<String>,
    /// What is absent.
    pub missing: Vec<Missing>,
}

impl Run {
    /// Reads every folder and gives each a name of its own: the folder's, or as much of its path as tells it from the
    /// others.
    pub fn load_all(paths: &[PathBuf]) -> Result<Vec<Run>, ReportError> {
        if paths.is_empty() {
            return Err(ReportError::NoRuns);
        }
        let mut runs = paths.iter().map(|path| Run::load(path)).collect::<Result<Vec<_>, _>>()?;
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

    /// Reads one folder.
    pub fn load(path: &Path) -> Result<Run, ReportError> {
        let texts = FILES.map(|(file, _)| read(&path.join(file)));
        let [log, eval, gains, examples, config] = texts;
        let (log, eval, gains, examples, config) = (log?, eval?, gains?, examples?, config?);
        let there = [&log, &eval, &gains, &examples, &config].map(Option::is_some);
        if !there.contains(&true) {
            let files = FILES.map(|(file, _)| file).join(", ");
            return Err(ReportError::Nothing { path: path.into(), files });
        }
        let missing = FILES.iter().zip(there).filter(|(_, there)| !there);
        Ok(Run {
            name: name(path, 1),
            phases: log.map_or(Ok(Vec::new()), |text| metrics::parse(&path.join("metrics.jsonl"), &text))?,
            eval: list(&path.join("eval.json"), eval)?,
            gains: list(&path.join("eval-gains.json"), gains)?,
            examples: list(&path.join("examples.json"), examples)?,
            config,
            missing: missing.map(|(&(file, content), _)| Missing { file, content }).collect(),
            path: path.into(),
        })
    }
}

/// The last `parts` parts of the folder's path, also where it is given as `.` or ends in `..`.
fn name(path: &Path, parts: usize) -> String {
    let whole = whole(path);
    let parts: Vec<_> = whole.components().rev().take(parts).collect();
    parts.into_iter().rev().collect::<PathBuf>().display().to_string()
}

/// The path from the root; as given where the folder cannot be looked up.
fn whole(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.into())
}

/// The text of a file; `None` where there is no such file.
fn read(path: &Path) -> Result<Option<String>, ReportError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ReportError::Io { action: "read", path: path.into(), source }),
    }
}

/// A JSON list; an absent file is an empty one.
fn list<T: DeserializeOwned>(path: &Path, text: Option<String>) -> Result<Vec<T>, ReportError> {
    let Some(text) = text else { return Ok(Vec::new()) };
    serde_json::from_str(&text).map_err(|error| {
        let message = error.to_string();
        let cause = message.rsplit_once(" at line ").map_or(message.as_str(), |(cause, _)| cause);
        let message = format!("{cause} (column {})", error.column());
        ReportError::Malformed { path: path.into(), line: error.line(), message }
    })
}
