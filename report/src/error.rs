//! Errors of writing a report.

use std::path::PathBuf;

/// The error of writing a report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// No run was given.
    #[error("no runs to report on; pass at least one run folder")]
    NoRuns,
    /// A folder without any of the files of a report.
    #[error(
        "{} has nothing to report: none of {files} exists; pass the folder of a run (runs/<name>)",
        path.display()
    )]
    Nothing {
        /// The path of the folder.
        path: PathBuf,
        /// The files that were looked for.
        files: String,
    },
    /// A file that cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// "read" or "write".
        action: &'static str,
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A file with invalid content.
    #[error("{}:{line}: {message}; fix the file, or move it away to report without it", path.display())]
    Malformed {
        /// The path of the file.
        path: PathBuf,
        /// The line, starting at 1.
        line: usize,
        /// The field, what is wrong with it, and what was expected.
        message: String,
    },
    /// The figure requires more than the run has.
    #[error("{} lacks data for the figure: {lacking}", path.display())]
    NoPicture {
        /// The run folder.
        path: PathBuf,
        /// What is missing.
        lacking: &'static str,
    },
    /// A chart that could not be drawn.
    #[error("cannot draw a chart: {0}; this is a bug in xplore; please report it with metrics.jsonl of the run")]
    Drawing(String),
    /// The page template does not render.
    #[error("cannot fill the page template: {0:#}; this is a bug in xplore")]
    Template(#[from] minijinja::Error),
}
