//! Common arguments of `xplore generate` and `xplore score`: a model, a file of rows, and the destination of the results.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::commands::input;
use crate::commands::model::ModelArgs;
use crate::commands::stats::Stats;
use xplore::Error;

/// A model and a file of prompts.
#[derive(clap::Args)]
pub struct Questions {
    #[command(flatten)]
    pub source: ModelArgs,
    /// File of JSON lines with `text`, `ids` or `messages`.
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// File to write the results to; standard output if absent.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print token counts, timings and peak memory as one JSON line.
    #[arg(long)]
    stats: bool,
}

impl Questions {
    /// Writes the results, and the statistics if requested.
    pub fn answer(&self, lines: &[Json], stats: &Stats, counts: &lm::engine::EngineStats) -> Result<(), Error> {
        input::write(self.out.as_deref(), lines)?;
        if self.stats {
            stats.print(counts, self.out.is_some());
        }
        Ok(())
    }
}

/// Returns a function that adds `path` to messages about "request N" (from 0), so that they refer to a row of the file.
pub fn in_file(path: &Path) -> impl Fn(lm::LmError) -> Error + '_ {
    move |error| match error {
        lm::LmError::Request(message) => Error::data(format!("{} (rows counted from 0): {message}", path.display())),
        other => other.into(),
    }
}
