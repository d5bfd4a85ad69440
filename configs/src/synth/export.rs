//! The files that a pipeline ends with.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::check::{CheckResult, below_one, ensure, given};

/// A file format of the exported rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportFormat {
    /// JSON lines.
    Jsonl,
    /// Apache Parquet.
    Parquet,
}

/// The files to publish or to train on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExportConfig {
    /// File formats. Default: ["jsonl", "parquet"].
    pub formats: Vec<ExportFormat>,
    /// Fraction of the users in the validation files, sampled with the seed by user id. Default: 0.05.
    pub validation_share: f64,
    /// Number of last choices of each user of the test set that `export/eval/users.jsonl` holds as targets, for `xplore eval`; 0
    /// writes no such file. Default: 1, as in the published benchmark.
    pub eval_targets: usize,
    /// License of the data set, as the hub names it. Default: other.
    pub license: String,
    /// Title of the card. Empty (the default): the name of the pipeline.
    pub title: String,
    /// Paragraph of the card that says what the data are. Default: empty.
    pub description: String,
    /// Languages of the data as ISO 639 codes of 2 or 3 letters. Default: ["en"].
    pub languages: Vec<String>,
}

impl Default for ExportConfig {
    fn default() -> Self {
        Self {
            formats: vec![ExportFormat::Jsonl, ExportFormat::Parquet],
            validation_share: 0.05,
            eval_targets: 1,
            license: "other".into(),
            title: String::new(),
            description: String::new(),
            languages: vec!["en".into()],
        }
    }
}

fn is_code(language: &str) -> bool {
    matches!(language.len(), 2 | 3) && language.bytes().all(|byte| byte.is_ascii_lowercase())
}

impl ExportConfig {
    pub(super) fn check(&self) -> CheckResult {
        given(!self.formats.is_empty(), "formats", "one or both of \"jsonl\" and \"parquet\"")?;
        let once = self.formats.iter().collect::<BTreeSet<_>>().len() == self.formats.len();
        ensure(once, "formats", format!("a list of {}", self.formats.len()), "each format once")?;
        below_one("validation_share", self.validation_share)?;
        given(!self.license.trim().is_empty(), "license", "a license of the hub's list, or \"other\"")?;
        let identifier = !self.license.contains(|c: char| c.is_whitespace() || c.is_uppercase());
        let expected = "the hub's identifier in lower case, such as \"mit\" or \"cc-by-4.0\"";
        ensure(identifier, "license", format!("\"{}\"", self.license), expected)?;
        let expected = "ISO 639 codes of 2 or 3 lower-case letters, such as \"en\"";
        let check = |language: &String| ensure(is_code(language), "languages", format!("\"{language}\""), expected);
        self.languages.iter().try_for_each(check)
    }
}
