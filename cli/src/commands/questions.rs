//! What `xplore generate` and `xplore score` have in common: a model, a file of rows, a place for the answers.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::commands::input;
use crate::commands::model::Source;
use crate::commands::stats::Stats;
use crate::failure::Failure;

/// A model and a file of prompts.
#[derive(clap::Args)]
pub struct Questions {
    #[command(flatten)]
    pub source: Source,
    /// JSON lines with `text`, `ids` or `messages`.
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Where to write the answers; standard output if absent.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print one JSON line of what it cost.
    #[arg(long)]
    stats: bool,
}

impl Questions {
    /// Writes the answers, and what they cost where that was asked.
    pub fn answer(&self, lines: &[Json], stats: &Stats, counts: &lm::engine::Counts) -> Result<(), Failure> {
        input::write(self.out.as_deref(), lines)?;
        if self.stats {
            stats.print(counts, self.out.is_some());
        }
        Ok(())
    }
}

/// The row of `path` that a message about "request N" (from 0) means.
pub fn in_file(path: &Path) -> impl Fn(lm::LmError) -> Failure + '_ {
    move |error| match error {
        lm::LmError::Request(message) => Failure::data(format!("{} (rows counted from 0): {message}", path.display())),
        other => other.into(),
    }
}
