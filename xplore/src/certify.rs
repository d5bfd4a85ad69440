//! Reproduction certificates: what a run shares with the published recipe of AlignXplore+, and the files that prove it.
//!
//! [`certify`] reads run folders and evaluations; [`write()`] writes the certificate as JSON and as Markdown. Nothing is downloaded and
//! no model is loaded.

pub(crate) mod hashes;
mod markdown;
mod record;
mod runs;
mod scores;
mod settings;

use std::path::{Path, PathBuf};

use configs::published::{self, RecipeStage};

pub use record::{Certificate, Counts, FileHash, FileRole, RunCertificate, ScoreComparison, SettingComparison};

use self::hashes::Hasher;
use self::settings::Reasons;
use crate::error::Error;
use crate::parts;

/// The name of the certificate as JSON.
pub const JSON: &str = "certificate.json";
/// The name of the certificate as Markdown.
pub const MARKDOWN: &str = "certificate.md";

/// What to certify.
#[derive(Clone, Debug, Default)]
pub struct CertifyRequest {
    /// Folders of SFT, RL and evaluation runs.
    pub runs: Vec<PathBuf>,
    /// Folders of evaluations: `FOLDER`, or `BENCHMARK=FOLDER` with the id of a published benchmark.
    pub evaluations: Vec<String>,
    /// Reasons for settings that differ: `KEY=REASON`.
    pub reasons: Vec<String>,
}

/// Compares runs and evaluations with the published recipe, and hashes their files. Paths of a configuration are relative to the
/// current working directory, as in training.
///
/// # Errors
/// Returns an error if a folder is not the folder of a run, one of its files cannot be parsed, or a reason names a setting that does
/// not differ. A data or model file that is not there is not an error; the certificate lists it as skipped.
pub fn certify(request: &CertifyRequest) -> Result<Certificate, Error> {
    let reasons = Reasons::parse(&request.reasons)?;
    let mut hasher = Hasher::default();
    let mut skipped = Vec::new();
    let program = runs::program(&mut hasher, &mut skipped);
    let mut evaluations = request
        .evaluations
        .iter()
        .map(|given| scores::MeasuredBenchmark::parse(given))
        .collect::<Result<Vec<_>, Error>>()?;
    let mut certified = Vec::new();
    for folder in &request.runs {
        let run = runs::certify(folder, &reasons, &mut hasher, &mut skipped)?;
        if scores::has_rows(folder) {
            evaluations.push(scores::MeasuredBenchmark::of_run(folder));
        }
        certified.push(run);
    }
    let mut compared = Vec::new();
    for evaluation in &evaluations {
        let known = certified.iter().any(|run| Path::new(&run.folder) == evaluation.folder);
        if !known && runs::has_config(&evaluation.folder) {
            certified.push(runs::certify(&evaluation.folder, &reasons, &mut hasher, &mut skipped)?);
        }
        compared.extend(scores::compare(evaluation, &mut skipped)?);
    }
    if evaluations.is_empty() {
        skipped.push("published scores: no evaluation was given (--eval FOLDER) or found in the runs".into());
    }
    reasons.check_used(&certified)?;
    let stages: Vec<RecipeStage> = certified.iter().map(|run| run.stage).collect();
    for stage in [RecipeStage::Sft, RecipeStage::Rl].into_iter().filter(|stage| !stages.contains(stage)) {
        skipped.push(format!("{stage}: no run of this stage was given"));
    }
    let differences =
        published::recipe().differences.iter().filter(|known| stages.contains(&known.stage)).cloned().collect();
    Ok(Certificate {
        recipe: "AlignXplore+ (arXiv 2601.04963)".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        program,
        counts: settings::count(&certified),
        runs: certified,
        scores: compared,
        differences,
        skipped,
    })
}

/// Writes [`JSON`] and [`MARKDOWN`] into `folder` and returns their paths.
///
/// # Errors
/// Returns an error if a file cannot be written.
pub fn write(certificate: &Certificate, folder: &Path) -> Result<[PathBuf; 2], Error> {
    let (json, page) = (folder.join(JSON), folder.join(MARKDOWN));
    // Strings, whole numbers and finite shares are JSON.
    let text =
        serde_json::to_string_pretty(certificate).map_err(|e| Error::data(format!("{}: {e}", json.display())))?;
    parts::write(&json, &(text + "\n"))?;
    parts::write(&page, &markdown::render(certificate))?;
    Ok([json, page])
}
