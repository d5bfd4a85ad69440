//! Pruning: the choices that become targets of RL, as files of any size.
//!
//! - [`prune()`]: by signal and probability, with the published rule. It reads scored histories, or the published flat records
//!   ([`crate::signal::FlatRecord`]), twice, and holds 40 bytes per choice in memory (about 70 of flat records), not their texts. Of
//!   flat records, the texts of a selected user are held until the last one is read, and those of complete users until the users
//!   before them are complete.
//! - [`policy`]: by the pass rate of a policy, for a curriculum of choices that some, but not all, of its summaries predict.
//!
//! [`crate::rl_rows`] applies the same rule to histories in memory.

mod flat;
pub mod policy;
pub(crate) mod row;
pub(crate) mod rule;

use std::path::{Path, PathBuf};

use chat::RlRow;
use chat::completer::CompleterError;
use chat::jsonl::{self, JsonlError};
use chat::prompts::PromptError;
use chat::records::{Checked, RowDefect};
use configs::PruningConfig;
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use crate::rl_rows::PruningReport;
use crate::signal::{ScoredHistory, VerifyError};

/// The error when pruning fails.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// A file cannot be read or written, or a row is not valid.
    #[error(transparent)]
    Rows(#[from] JsonlError),
    /// The rows are histories whose choices were not scored.
    #[error(
        "{}: the histories have no signals; score them with `xplore synth signal`, or prune with prune.by = \"policy\"",
        path.display()
    )]
    NoSignals {
        /// The path of the file.
        path: PathBuf,
    },
    /// The rows are of no known kind.
    #[error("{}: the first row has the fields {found}; expected {expected}", path.display())]
    Unknown {
        /// The path of the file.
        path: PathBuf,
        /// The fields of the first row.
        found: String,
        /// The rows that can be pruned.
        expected: &'static str,
    },
    /// The verifier failed.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The policy failed.
    #[error("the policy failed: {0}")]
    Policy(#[from] CompleterError),
    /// A prompt of the policy cannot be rendered.
    #[error(transparent)]
    Prompt(#[from] PromptError),
}

/// The kind of the rows of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RowKind {
    /// Histories with a record for each choice.
    Scored,
    /// A record for each choice.
    Flat,
    /// Histories without records.
    Histories,
}

/// Selects the targets in `input` by the rule of `config`, and writes the RL rows to `out`, in the order in which their users first
/// occur.
///
/// # Errors
/// Returns [`PruneError`] if a file cannot be read or written, a row is not valid, or the histories were not scored.
pub fn prune(input: &Path, out: &Path, config: &PruningConfig) -> Result<PruningReport, PruneError> {
    match kind(input)? {
        RowKind::Scored => scored(input, out, config),
        RowKind::Flat => flat::prune(input, out, config),
        RowKind::Histories => Err(PruneError::NoSignals { path: input.into() }),
    }
}

/// Prunes a file of scored histories.
fn scored(input: &Path, out: &Path, config: &PruningConfig) -> Result<PruningReport, PruneError> {
    let (mut report, mut choices, mut of_messages) = (PruningReport::default(), Vec::new(), Vec::new());
    for row in jsonl::stream::<ScoredHistory>(input)? {
        let (_, history) = row?;
        rule::push_choices(&mut choices, number(of_messages.len()), &history, config.rule);
        report.count(&history);
        of_messages.push(!history.messages.is_empty());
    }
    let band = rule::select(choices, config, &mut report);
    let pairs = rule::pairs(band, config, |user| of_messages[user as usize]);
    report.rows = pairs.len();
    jsonl::write_with::<RlRow, PruneError>(out, |write| {
        let mut pairs = pairs.iter().peekable();
        for (user, row) in (0_u32..).zip(jsonl::stream::<ScoredHistory>(input)?) {
            let (_, history) = row?;
            if let Some(pair) = pairs.next_if(|pair| pair.user() == user) {
                write(&row::of_history(history, pair))?;
            }
        }
        Ok(())
    })?;
    Ok(report)
}

/// Returns the kind of the rows of a file, which the fields of its first row tell.
fn kind(path: &Path) -> Result<RowKind, PruneError> {
    let first = jsonl::stream::<AnyRow>(path)?.next();
    let (_, AnyRow(fields)) = first.ok_or_else(|| JsonlError::Empty { path: path.into() })??;
    let has = |names: &[&str]| names.iter().any(|&name| fields.contains_key(name));
    if has(&["signals"]) {
        Ok(RowKind::Scored)
    } else if has(&["original_history_item"]) {
        Ok(RowKind::Flat)
    } else if has(&["interactions", "history", "messages"]) {
        Ok(RowKind::Histories)
    } else {
        let names: Vec<&str> = fields.keys().map(String::as_str).collect();
        let expected =
            "scored histories (`interactions`, `signals`) or flat records (`original_history_item`, `signal`)";
        Err(PruneError::Unknown { path: path.into(), found: names.join(", "), expected })
    }
}

/// A row of any kind.
#[derive(Deserialize)]
#[serde(transparent)]
struct AnyRow(Map<String, Json>);

impl Checked for AnyRow {
    fn defect(&self) -> Option<RowDefect> {
        None
    }
}

/// Returns the number of a user or a choice. Their records lie in memory, which holds fewer than 2³² of them.
fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
