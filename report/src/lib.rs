//! Reports on run folders: one self-contained HTML page ([`write()`]) and one figure ([`figure()`]).
//!
//! A run folder may hold any of these files; the page lists the missing ones.
//!
//! | file | content |
//! |---|---|
//! | `metrics.jsonl` | one object per step: `step`, optionally `phase`, and metrics under flat keys |
//! | `eval.json` | list of [`AccuracyRow`]: judge accuracy with its 95 % interval |
//! | `eval-gains.json` | list of [`GainRow`]: paired differences between two models |
//! | `examples.json` | list of [`Example`]: summaries before and after RL, with the user's true preferences |
//! | `config.toml` | the resolved run config, shown verbatim |
//! | `explain.json` | list of [`evals::ExplainedSummary`]: what each sentence of a summary earns, which shades the examples; optional |
//! | `prompts.json` | list of [`PromptUse`]: the prompt set of each model, and the one it was trained on; optional |
//!
//! The page loads nothing from the network: styles and charts (SVG) are embedded. The template escapes all text written
//! by a model or a user.
//!
//! - [`records`], [`prompts`]: the rows of the JSON files; `metrics`: the step log; `run`: one folder, loaded and validated.
//! - `lines`, `bars`, `axes`, `canvas`, `palette`, `smooth`: the drawing.
//! - `ablation`: the page of an ablation ([`write_ablation()`]). `ablation_figure`: its picture ([`ablation_figure()`]).
//! - `data`: the page of data files ([`data_html()`]).
//! - `sentences`: summaries shaded by what their sentences earn.
//! - `curves`: which metrics share a chart; `tables`: evaluation rows as tables; `page`: the HTML; `figure`: the
//!   figure.

mod ablation;
mod ablation_figure;
mod axes;
mod bars;
mod canvas;
mod curves;
mod data;
mod error;
mod figure;
mod lines;
mod metrics;
mod page;
mod palette;
pub mod prompts;
pub mod records;
mod run;
mod sentences;
mod smooth;
mod tables;

use std::path::{Path, PathBuf};

pub use ablation::{AblationReport, ReportTable, VariantLogs, ablation_figure, write_ablation};
pub use data::{DataHistogram, DataPage, DataSection, data_html};
pub use error::ReportError;
pub use prompts::{PromptSetId, PromptUse};
pub use records::{AccuracyRow, Example, GainRow, JudgeRole, Model};
pub use sentences::EXPLAIN;

use evals::ExplainedSummary;
use run::RunRecord;

/// Writes one HTML page about one or several runs, with one evaluation table per run and overlaid curves.
///
/// The page replaces `out` atomically: the file is either complete or unchanged.
///
/// # Errors
/// Returns [`ReportError`] if no run is given, a folder holds none of the files above, one of them is malformed (the
/// message names file and line), or `out` cannot be written. A missing file is not an error.
pub fn write(runs: &[PathBuf], out: &Path) -> Result<(), ReportError> {
    let runs = RunRecord::load_all(runs)?;
    replace(out, &page::html(&runs)?)
}

/// Writes the figure of one run as an SVG file with a white background. On the left: judge accuracy (training judge,
/// in-domain targets, full-history and streaming) with 95 % intervals. On the right: the reward over RL steps.
///
/// # Errors
/// Returns [`ReportError`] if `eval.json` or `metrics.jsonl` is missing, malformed or lacks those rows, or if `out`
/// cannot be written.
pub fn figure(run: &Path, out: &Path) -> Result<(), ReportError> {
    replace(out, &figure::svg(&RunRecord::load(run)?)?)
}

/// Writes one HTML page with every summary of an attribution shaded by what its sentences earn, and a table by judge and domain.
///
/// # Errors
/// Returns [`ReportError`] if `out` cannot be written.
pub fn explained(explained: &[ExplainedSummary], out: &Path) -> Result<(), ReportError> {
    replace(out, &sentences::html(explained)?)
}

fn replace(out: &Path, text: &str) -> Result<(), ReportError> {
    files::replace(out, |file| file.write_all(text.as_bytes())).map_err(|source| ReportError::Io {
        action: "write",
        path: out.into(),
        source,
    })
}
