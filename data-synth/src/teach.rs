//! The synthesis of SFT rows from a file of scored histories, which an interrupted process can continue.
//!
//! Users are processed in batches, so that the requests of many users are in flight together, and written in the order of the file.
//! Every random choice depends on the seed and the user, so neither batches nor concurrency change the rows. Teacher and verifier
//! keep their answers in a journal each ([`journals`]): a run that is started again asks only what has no answer yet.

mod pace;
pub mod record;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use chat::jsonl::{self, JsonlError};
use chat::{Completer, PromptSet};
use configs::JudgePrices;
use files::Replacement;
use serde::Serialize;

use self::pace::Pace;
use self::record::{Asked, AskedModels, FailedUser, TeachReport};
use crate::signal::ScoredHistory;
use crate::synthesis::{SynthesisError, SynthesisSettings, Synthesizer, Taught, VerifyEach};

/// The SFT rows, two for each user who passed both stages.
pub const ROWS: &str = "sft.jsonl";
/// What was done with each user: [`record::TaughtUser`].
pub const USERS: &str = "users.jsonl";
/// The [`TeachReport`].
pub const REPORT: &str = "report.json";

/// The number of failed users that the report names.
const MOST_NAMED: usize = 100;

/// Returns the journals of teacher and verifier in the folder of the step.
pub fn journals(folder: &Path) -> (PathBuf, PathBuf) {
    (folder.join("journal/teacher.jsonl"), folder.join("journal/verifier.jsonl"))
}

/// A model and its prices per million tokens.
#[derive(Clone, Copy)]
pub struct Metered<'a> {
    /// The model, which counts its tokens.
    pub model: &'a dyn Completer,
    /// The prices.
    pub prices: JudgePrices,
}

impl Metered<'_> {
    fn asked(&self) -> Asked {
        Asked::new(self.model.usage(), self.model.journal_stats(), self.prices)
    }
}

/// The synthesis of a file.
pub struct TeachJob<'a> {
    /// The scored histories.
    pub input: &'a Path,
    /// The folder of the results.
    pub folder: &'a Path,
    /// The teacher.
    pub teacher: Metered<'a>,
    /// The verifier's model, for the report.
    pub verifier: Metered<'a>,
    /// The verifier as a function.
    pub verify: VerifyEach<'a>,
    /// The prompt set of the teacher and of the rows.
    pub prompts: &'a PromptSet,
    /// Thresholds, sampling and batches.
    pub settings: &'a SynthesisSettings,
    /// The maximum number of users, the first ones of the file; 0 for all.
    pub max_users: usize,
    /// Called after each step of each batch, and after each answer of the teacher.
    pub progress: &'a dyn Fn(TeachProgress),
}

/// How far the synthesis is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TeachProgress {
    /// The number of users that are finished; users of the current batch count by its finished steps.
    pub done: usize,
    /// The number of all users.
    pub users: usize,
    /// The number of rows so far.
    pub rows: usize,
    /// The number of users left out because a request failed.
    pub failed_users: usize,
    /// The requests so far, those of earlier runs included.
    pub asked: AskedModels,
    /// The estimated time left; `None` until the first step that asked a model is finished.
    pub seconds_left: Option<f64>,
}

/// The error that ended the synthesis of a file.
#[derive(Debug, thiserror::Error)]
pub enum TeachRunError {
    /// The users cannot be read.
    #[error(transparent)]
    Rows(#[from] JsonlError),
    /// A result cannot be written.
    #[error("{}: cannot write: {source}; free disk space or fix permissions, and run the step again", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The underlying error.
        source: io::Error,
    },
    /// Teacher or verifier failed.
    #[error(transparent)]
    Synthesis(#[from] SynthesisError),
}

/// Synthesizes the rows of a file of scored histories, and writes them, what was done with each user, and the report to the folder
/// of the job. The files are complete or unchanged.
///
/// # Errors
/// Returns [`TeachRunError`] if the file cannot be read, a prompt does not render, teacher or verifier fails, or a file cannot be
/// written. With [`SynthesisSettings::skip_failed`], a request that fails leaves out its user only.
pub fn run(job: &TeachJob<'_>) -> Result<TeachReport, TeachRunError> {
    let begin = Instant::now();
    // The folder has one process at a time.
    [ROWS, USERS, REPORT].iter().for_each(|file| files::remove_partial(&job.folder.join(file)));
    let users = match (jsonl::count(job.input)?, job.max_users) {
        (all, 0) => all,
        (all, most) => all.min(most),
    };
    let create = |file: &str| Replacement::create(&job.folder.join(file)).map_err(|e| write_error(job, file, e));
    let (mut rows, mut records) = (create(ROWS)?, create(USERS)?);
    let mut report = synthesize_all(job, users, &mut rows, &mut records)?;
    // Both files are whole before one of them gets its name.
    rows.flush().map_err(|source| write_error(job, ROWS, source))?;
    records.flush().map_err(|source| write_error(job, USERS, source))?;
    rows.finish().map_err(|source| write_error(job, ROWS, source))?;
    records.finish().map_err(|source| write_error(job, USERS, source))?;
    report.seconds = begin.elapsed().as_secs_f64();
    let text = serde_json::to_string_pretty(&report).expect("strings and finite numbers always serialize");
    let path = job.folder.join(REPORT);
    files::replace(&path, |out| writeln!(out, "{text}")).map_err(|source| TeachRunError::Write { path, source })?;
    Ok(report)
}

/// Synthesizes all batches and writes their rows and records in order.
fn synthesize_all(
    job: &TeachJob<'_>,
    users: usize,
    rows: &mut dyn Write,
    records: &mut dyn Write,
) -> Result<TeachReport, TeachRunError> {
    let TeachJob { prompts, verify, settings, .. } = *job;
    let synthesizer = Synthesizer { teacher: job.teacher.model, prompts, verify, settings };
    let asked = || AskedModels { teacher: job.teacher.asked(), verifier: job.verifier.asked() };
    let (mut report, mut pace) = (TeachReport::default(), Pace::default());
    let mut input = jsonl::stream::<ScoredHistory>(job.input)?.take(users);
    loop {
        let rows_of_batch = input.by_ref().take(settings.users_per_batch.max(1)).map(|row| row.map(|(_, user)| user));
        let batch: Vec<ScoredHistory> = rows_of_batch.collect::<Result<_, _>>()?;
        if batch.is_empty() {
            break;
        }
        let (begin, before, finished) = (Instant::now(), sent(job), report.synthesis.users);
        let base = TeachProgress {
            done: finished,
            users,
            rows: report.synthesis.rows,
            failed_users: report.failed_users,
            asked: report.asked,
            seconds_left: pace.left(users.saturating_sub(finished)),
        };
        let observe = |step: usize| {
            let done = finished + batch.len() * step / Synthesizer::STEPS;
            // Within the first batch, the finished steps tell the pace.
            let seconds_left = base.seconds_left.or_else(|| {
                let mut pace = Pace::default();
                if sent(job) > before {
                    pace.add(done - finished, begin.elapsed().as_secs_f64());
                }
                pace.left(users.saturating_sub(done))
            });
            (job.progress)(TeachProgress { done, asked: asked(), seconds_left, ..base });
        };
        let all = synthesizer.batch(&batch, &mut report.synthesis, &observe)?;
        for taught in all {
            note_failure(&taught, &mut report);
            write_lines(rows, &taught.rows).map_err(|source| write_error(job, ROWS, source))?;
            write_lines(records, &[taught.record]).map_err(|source| write_error(job, USERS, source))?;
        }
        if sent(job) > before {
            pace.add(batch.len(), begin.elapsed().as_secs_f64());
        }
        report.asked = asked();
    }
    Ok(report)
}

/// Returns the number of requests that the models have answered in this process.
fn sent(job: &TeachJob<'_>) -> u64 {
    job.teacher.model.journal_stats().sent + job.verifier.model.journal_stats().sent
}

fn note_failure(taught: &Taught, report: &mut TeachReport) {
    if let Some(message) = &taught.record.error {
        report.failed_users += 1;
        if report.failed.len() < MOST_NAMED {
            report.failed.push(FailedUser { uid: taught.record.uid.clone(), message: message.clone() });
        }
    }
}

fn write_lines<T: Serialize>(out: &mut dyn Write, rows: &[T]) -> io::Result<()> {
    rows.iter().try_for_each(|row| jsonl::write_row(out, row))
}

fn write_error(job: &TeachJob<'_>, file: &str, source: io::Error) -> TeachRunError {
    TeachRunError::Write { path: job.folder.join(file), source }
}
