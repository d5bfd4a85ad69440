//! Audits what a pipeline made: leaks of target items into summaries, position bias of teacher and verifier, pass rates, summaries
//! that are nearly the same, and users or choices shared with a benchmark.

mod bias;
mod duplicates;
mod leakage;
mod overlap;
mod rates;
mod text;
mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chat::jsonl::{self, JsonlError};
use serde::{Deserialize, Serialize};

use crate::any_row::AnyRowError;
use crate::signal::ScoredHistory;
use crate::teach::record::TaughtUser;
use bias::AllPicks;
pub use bias::PositionBias;
pub use duplicates::Duplicates;
use duplicates::FinalSummary;
pub use leakage::Leakage;
pub use overlap::Overlap;
pub use rates::StageRates;

/// The number of examples of a finding.
const EXAMPLES: usize = 5;

/// What an audit looks for.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditOptions {
    /// Benchmark files to compare with: users as `xplore eval` reads them, or histories.
    pub against: Vec<PathBuf>,
    /// The number of consecutive words of a target item in a summary that is a leak.
    pub ngram: usize,
    /// The similarity from which two summaries are nearly the same: the Jaccard index of their sets of three consecutive words.
    pub similarity: f64,
    /// The significance level of the test of position bias, for each of the two models.
    pub alpha: f64,
}

impl Default for AuditOptions {
    fn default() -> Self {
        Self { against: Vec::new(), ngram: 8, similarity: 0.8, alpha: 0.01 }
    }
}

impl AuditOptions {
    fn check(&self) -> Result<(), AuditError> {
        let refuse = |option, value: f64, expected| Err(AuditError::Option { option, value, expected });
        if self.ngram < words::LEAST_TITLE {
            return refuse("ngram", self.ngram as f64, "at least 3 words");
        }
        if !(self.similarity > 0.0 && self.similarity <= 1.0) {
            return refuse("similarity", self.similarity, "above 0 and at most 1");
        }
        if !(self.alpha > 0.0 && self.alpha < 1.0) {
            return refuse("alpha", self.alpha, "between 0 and 1");
        }
        Ok(())
    }
}

/// The kind of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// A summary or its reasoning quotes a target item that the model has not read.
    Leakage,
    /// A model prefers an item for its position.
    PositionBias,
    /// Summaries of different users are nearly the same.
    NearDuplicates,
    /// Users of the training data are in the benchmark.
    SharedUsers,
    /// Choices of the benchmark are in the training data.
    SharedChoices,
}

/// A problem that the audit found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The kind.
    pub kind: FindingKind,
    /// What was found, with numbers.
    pub message: String,
    /// The first examples.
    pub examples: Vec<String>,
}

/// The result of an audit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    /// The problems; none if the data are clean.
    pub findings: Vec<Finding>,
    /// What could not be checked, or is no problem by itself.
    pub notes: Vec<String>,
    /// The pass rates of each stage of the synthesis.
    pub stages: Vec<StageRates>,
    /// Leaks of target items.
    pub leakage: Option<Leakage>,
    /// Position bias of teacher and verifier.
    pub bias: Vec<PositionBias>,
    /// Summaries that are nearly the same.
    pub duplicates: Option<Duplicates>,
    /// What is shared with each benchmark file.
    pub overlaps: Vec<Overlap>,
}

impl Audit {
    /// Returns whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// The error of an audit.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A file of rows that cannot be read.
    #[error(transparent)]
    Rows(#[from] JsonlError),
    /// A file that cannot be read, or a row that is not known.
    #[error(transparent)]
    Row(#[from] AnyRowError),
    /// A folder without anything to audit.
    #[error(
        "{}: nothing to audit; run xplore synth teach first, which writes teach/users.jsonl, or pass --against with import/train.jsonl, \
         signal/scored.jsonl or prune/rl.jsonl in the folder",
        folder.display()
    )]
    Nothing {
        /// The folder.
        folder: PathBuf,
    },
    /// There are no training data to compare a benchmark with.
    #[error(
        "{}: no training data to compare with the benchmark; expected import/train.jsonl, signal/scored.jsonl or prune/rl.jsonl",
        folder.display()
    )]
    NoTrainingData {
        /// The folder.
        folder: PathBuf,
    },
    /// An option out of range.
    #[error("--{option} {value}: expected a value {expected}")]
    Option {
        /// The option.
        option: &'static str,
        /// The given value.
        value: f64,
        /// The expected range.
        expected: &'static str,
    },
}

/// Audits the folder of a pipeline, of which at least the step `teach` has run, or which has training data to compare with
/// `options.against`.
///
/// # Errors
/// Returns [`AuditError`] if the folder has nothing to audit, a file cannot be read, or an option is out of range. A finding is no
/// error.
pub fn audit(folder: &Path, options: &AuditOptions) -> Result<Audit, AuditError> {
    options.check()?;
    let users = folder.join("teach/users.jsonl");
    let mut audit = Audit::default();
    if users.is_file() {
        taught(folder, &users, options, &mut audit)?;
    } else if options.against.is_empty() {
        return Err(AuditError::Nothing { folder: folder.into() });
    }
    if !options.against.is_empty() {
        audit.overlaps = overlap::find(folder, &options.against)?;
    }
    judge(&mut audit, options);
    Ok(audit)
}

/// Audits what the step `teach` made of the users. One user and one history are held at a time, because both files have the same
/// order; users in another order wait until all histories were read.
fn taught(folder: &Path, users: &Path, options: &AuditOptions, audit: &mut Audit) -> Result<(), AuditError> {
    let scored = folder.join("signal/scored.jsonl");
    let open = || scored.is_file().then(|| jsonl::stream::<ScoredHistory>(&scored)).transpose();
    let mut histories = open()?.into_iter().flatten().peekable();
    let (mut picks, mut summaries) = (AllPicks::default(), Vec::new());
    let mut leakage = Leakage { ngram: options.ngram, ..Leakage::default() };
    let mut waiting: BTreeMap<String, TaughtUser> = BTreeMap::new();
    for user in jsonl::stream::<TaughtUser>(users)? {
        let (_, user) = user?;
        rates::add(&mut audit.stages, &user);
        picks.add(&user);
        if user.rows > 0 {
            let merged = user.stages.iter().filter_map(|stage| stage.merged.as_deref());
            summaries.extend(merged.map(|text| FinalSummary::new(&user.uid, text)));
        }
        match histories.next_if(|history| history.as_ref().is_ok_and(|(_, history)| history.uid == user.uid)) {
            Some(history) => leakage::add(&mut leakage, &user, Some(&history?.1)),
            None => {
                waiting.insert(user.uid.clone(), user);
            }
        }
    }
    if !waiting.is_empty() {
        for history in open()?.into_iter().flatten() {
            let (_, history) = history?;
            if let Some(user) = waiting.remove(&history.uid) {
                leakage::add(&mut leakage, &user, Some(&history));
            }
        }
    }
    waiting.values().for_each(|user| leakage::add(&mut leakage, user, None));
    if leakage.without_history > 0 {
        let missing = leakage.without_history;
        audit.notes.push(format!(
            "{missing} users are not in signal/scored.jsonl; words that they have read may count as leaks"
        ));
    }
    audit.leakage = Some(leakage);
    audit.bias = picks.biases();
    if !summaries.is_empty() {
        audit.duplicates = Some(duplicates::find(&summaries, options.similarity));
    }
    Ok(())
}

/// Turns the numbers into findings and notes.
fn judge(audit: &mut Audit, options: &AuditOptions) {
    audit.findings.extend(audit.leakage.as_ref().and_then(Leakage::finding));
    audit.notes.extend(audit.leakage.as_ref().and_then(Leakage::note));
    audit.findings.extend(audit.bias.iter().filter_map(|bias| bias.finding(options.alpha)));
    audit.findings.extend(audit.duplicates.as_ref().and_then(Duplicates::finding));
    for overlap in &audit.overlaps {
        audit.findings.extend(overlap.findings());
        audit.notes.extend(overlap.note());
    }
}

#[cfg(test)]
mod tests;
