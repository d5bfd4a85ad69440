//! What a run folder says, for people: one self-contained HTML page ([`write()`]) and one picture ([`figure()`]).
//!
//! A run folder may hold any of these; what is absent is named on the page.
//!
//! | file | content |
//! |---|---|
//! | `metrics.jsonl` | one object a step: `step`, optionally `phase`, and numbers under flat keys |
//! | `eval.json` | list of [`EvalRow`]: judge accuracy with its 95 % interval |
//! | `eval-gains.json` | list of [`GainRow`]: paired differences between two models |
//! | `examples.json` | list of [`Example`]: summaries before and after RL beside the person's true preferences |
//! | `config.toml` | the resolved run config, shown as it is |
//!
//! The page asks nothing of the network: styles and charts (SVG) are inside it. Everything a model or a user wrote
//! passes through the template's escaping.
//!
//! - [`records`]: the rows of the JSON files; `metrics`: the step log; `run`: one folder, read and checked.
//! - `lines`, `bars`, `axes`, `canvas`, `palette`, `smooth`: the drawing.
//! - `curves`: which metrics share a chart; `tables`: evaluation rows as tables; `page`: the HTML; `figure`: the picture.

mod axes;
mod bars;
mod canvas;
mod curves;
mod error;
mod figure;
mod lines;
mod metrics;
mod page;
mod palette;
pub mod records;
mod run;
mod smooth;
mod tables;

use std::path::{Path, PathBuf};

pub use error::ReportError;
pub use records::{EvalRow, Example, GainRow, Judge, Model, Setting, Targets};

use run::Run;

/// Writes one HTML page about one or several runs: evaluation tables one after another, curves overlaid by run.
///
/// The page replaces `out` in one step: it is there complete, or as it was before.
///
/// # Errors
/// [`ReportError`] if no run is given, if a folder holds none of the files above, if one of them is malformed (the
/// message names file and line), or if `out` cannot be written. A missing file is no error.
pub fn write(runs: &[PathBuf], out: &Path) -> Result<(), ReportError> {
    let runs = Run::load_all(runs)?;
    replace(out, &page::html(&runs)?)
}

/// Writes the picture of one run as an SVG file on white ground: on the left judge accuracy (training judge,
/// in-domain targets, full-history and streaming) with 95 % intervals, on the right the reward over RL steps.
///
/// # Errors
/// [`ReportError`] if `eval.json` or `metrics.jsonl` is missing, malformed or lacks those rows, or if `out` cannot be
/// written.
pub fn figure(run: &Path, out: &Path) -> Result<(), ReportError> {
    replace(out, &figure::svg(&Run::load(run)?)?)
}

fn replace(out: &Path, text: &str) -> Result<(), ReportError> {
    files::replace(out, |file| file.write_all(text.as_bytes())).map_err(|source| ReportError::Io {
        action: "write",
        path: out.into(),
        source,
    })
}
