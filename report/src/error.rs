//! Why a report could not be made.

use std::path::PathBuf;

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Not one run was named.
    #[error("no run to report on; name at least one run folder")]
    NoRuns,
    /// A folder without any file that a report is made of.
    #[error(
        "{} holds nothing to report: none of {files} is there; name the folder of a run (runs/<name>)",
        path.display()
    )]
    Nothing {
        /// The folder.
        path: PathBuf,
        /// The files looked for.
        files: String,
    },
    /// A file that cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// "read" or "write".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that is not what it should be.
    #[error("{}:{line}: {message}; mend the file, or move it away to report without it", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The field, what is wrong with it, and what was expected.
        message: String,
    },
    /// The picture needs more than the run holds.
    #[error("{} has too little for the picture: {lacking}", path.display())]
    NoPicture {
        /// The run folder.
        path: PathBuf,
        /// What must be there.
        lacking: &'static str,
    },
    /// A chart that could not be drawn.
    #[error("cannot draw a chart: {0}; this is a defect of the report, please report it with the run's metrics.jsonl")]
    Drawing(String),
    /// The page template failed.
    #[error("cannot fill the page template: {0:#}; this is a defect of the report")]
    Template(#[from] minijinja::Error),
}
