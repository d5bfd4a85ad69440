//! Counts, lengths and histograms of the files of a pipeline.

mod collect;
mod drops;
mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::any_row::{AnyRowError, RowKind};
use crate::histogram::{Histogram, quartile_rank};
use collect::Collection;
pub use drops::StepCounts;

/// The files of a pipeline, in the order of its steps.
const FILES: [&str; 6] = [
    "import/train.jsonl",
    "import/test.jsonl",
    "signal/scored.jsonl",
    "prune/rl.jsonl",
    "teach/sft.jsonl",
    "teach/users.jsonl",
];

/// The number of intervals of a histogram.
const BINS: usize = 10;

/// The distribution of a number over the rows of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// What is counted.
    pub name: String,
    /// The number of values.
    pub values: usize,
    /// The mean.
    pub mean: f64,
    /// The smallest value, the quartiles and the largest value.
    pub quantiles: [f64; 5],
    /// Counts in intervals of equal width.
    pub histogram: Histogram,
}

impl Distribution {
    /// Computes the distribution of `values`; `None` without values. A quartile is one of the values, as in a data card.
    pub fn new(name: &str, mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let histogram = Histogram::new(&values, BINS)?;
        let quantiles = [0, 1, 2, 3, 4].map(|quarter| values[quartile_rank(values.len(), quarter) - 1]);
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        Some(Self { name: name.into(), values: values.len(), mean, quantiles, histogram })
    }

    /// Returns the number of decimals that tell the intervals apart: none for counts, three for other numbers.
    fn decimals(&self) -> usize {
        let counts = self.quantiles.iter().all(|value| value.fract() == 0.0);
        let narrow = self.histogram.high - self.histogram.low < BINS as f64;
        match (counts, narrow) {
            (true, false) => 0,
            (true, true) => 1,
            (false, _) => 3,
        }
    }
}

/// The statistics of one file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileStats {
    /// The path of the file.
    pub path: PathBuf,
    /// The kind of its rows.
    pub kind: RowKind,
    /// The number of rows.
    pub rows: usize,
    /// The number of users; `None` for SFT rows, which do not name them.
    pub users: Option<usize>,
    /// The fraction of choices with a query; `None` without choices.
    pub query_share: Option<f64>,
    /// The fraction of choices with a rejected item; `None` without choices.
    pub rejected_share: Option<f64>,
    /// Counts by name, in groups: choices by domain and by task, users by outcome of a stage.
    pub counts: BTreeMap<String, BTreeMap<String, usize>>,
    /// Distributions: interactions per user, lengths of texts, signals.
    pub distributions: Vec<Distribution>,
}

/// The statistics of files, and what the steps dropped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// The files, in the order given.
    pub files: Vec<FileStats>,
    /// What the steps counted and dropped.
    pub steps: Vec<StepCounts>,
}

/// The error of statistics.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// A file that cannot be read, or a row of another kind.
    #[error(transparent)]
    Row(#[from] AnyRowError),
    /// A row of another kind than those before it.
    #[error(
        "{}, row {row}: the row is one of {}, but those before it are {}; put rows of different kinds into different files",
        path.display(), found.plural(), expected.plural()
    )]
    Mixed {
        /// The path of the file.
        path: PathBuf,
        /// The number of the row, starting at 1.
        row: usize,
        /// Its kind.
        found: RowKind,
        /// The kind of the rows before it.
        expected: RowKind,
    },
    /// A folder without files of a pipeline.
    #[error(
        "{}: no file of a pipeline; expected one of {}, or pass a file of rows",
        path.display(), FILES.join(", ")
    )]
    NoFiles {
        /// The path of the folder.
        path: PathBuf,
    },
    /// A file without rows.
    #[error("{} has no rows; run the step that writes it again, or pass another file", path.display())]
    Empty {
        /// The path of the file.
        path: PathBuf,
    },
    /// A report of a step that cannot be read.
    #[error("cannot read {}: {message}; run the step again", path.display())]
    Report {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

/// Computes the statistics of `paths`: files of rows, or folders of pipelines, which stand for the files and reports of their steps.
///
/// # Errors
/// Returns [`StatsError`] if a path cannot be read, has no rows, or has rows of several kinds.
pub fn stats(paths: &[PathBuf]) -> Result<Stats, StatsError> {
    let mut stats = Stats::default();
    for path in paths {
        if !path.is_dir() {
            stats.files.push(file(path)?);
            continue;
        }
        let found: Vec<PathBuf> = FILES.iter().map(|name| path.join(name)).filter(|path| path.is_file()).collect();
        if found.is_empty() {
            return Err(StatsError::NoFiles { path: path.clone() });
        }
        for file_path in &found {
            // A step that kept nothing leaves an empty file, of which its report says why.
            match file(file_path) {
                Err(StatsError::Empty { .. }) => {}
                found => stats.files.push(found?),
            }
        }
        stats.steps.extend(drops::of_folder(path)?);
    }
    Ok(stats)
}

fn file(path: &Path) -> Result<FileStats, StatsError> {
    let mut collection: Option<Collection> = None;
    crate::any_row::for_each(path, |row, kind| {
        let known = collection.get_or_insert_with(|| Collection::new(kind));
        if known.kind != kind {
            let (row, expected) = (known.rows + 1, known.kind);
            return Err(StatsError::Mixed { path: path.into(), row, found: kind, expected });
        }
        known.add(&row);
        Ok(())
    })?;
    collection.map(|found| found.finish(path)).ok_or_else(|| StatsError::Empty { path: path.into() })
}

#[cfg(test)]
mod tests;
