//! The content of a certificate.

use configs::Setting;
use configs::published::{Agreement, KnownDifference, RecipeStage, Source};
use report::PromptUse;
use serde::Serialize;

/// A reproduction certificate.
#[derive(Clone, Debug, Serialize)]
pub struct Certificate {
    /// The published recipe.
    pub recipe: String,
    /// Version of the program that wrote the certificate.
    pub version: String,
    /// The program that wrote the certificate; `None` if its file cannot be read.
    pub program: Option<FileHash>,
    /// Numbers of settings, over all runs.
    pub counts: Counts,
    /// The runs.
    pub runs: Vec<RunCertificate>,
    /// Published and own scores.
    pub scores: Vec<ScoreComparison>,
    /// Known differences of this implementation, for the stages of the runs.
    pub differences: Vec<KnownDifference>,
    /// What is not certified, because it was not given or is not there.
    pub skipped: Vec<String>,
}

/// Numbers of settings by their comparison with the published value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Same as published.
    pub same: usize,
    /// Another location, whose files the hashes identify.
    pub other_location: usize,
    /// Another value, with a reason.
    pub explained: usize,
    /// Another value, without a reason.
    pub unexplained: usize,
}

/// The part of a file in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileRole {
    /// The program.
    Program,
    /// The resolved configuration.
    Config,
    /// Training rows.
    Data,
    /// Validation rows or users.
    Validation,
    /// The users of an evaluation.
    Users,
    /// The model that training starts from, or that is evaluated.
    Model,
    /// The judge's model.
    Judge,
    /// The newest checkpoint of the run.
    Checkpoint,
}

impl FileRole {
    /// Returns the name for display.
    pub fn label(self) -> &'static str {
        match self {
            Self::Program => "program",
            Self::Config => "configuration",
            Self::Data => "data",
            Self::Validation => "validation",
            Self::Users => "users",
            Self::Model => "model",
            Self::Judge => "judge",
            Self::Checkpoint => "checkpoint",
        }
    }
}

/// A file with its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileHash {
    /// The part of the file in the run.
    pub role: FileRole,
    /// Path of the file.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256, in hexadecimal.
    pub sha256: String,
}

/// A published setting beside the value of a run.
#[derive(Clone, Debug, Serialize)]
pub struct SettingComparison {
    /// The config key.
    pub key: String,
    /// Name of the setting.
    pub name: String,
    /// The published value, as in a config file.
    pub published: String,
    /// Where it is stated.
    pub source: Source,
    /// The run's value.
    pub ours: String,
    /// How the two compare.
    pub agreement: Agreement,
    /// Why the run's value is another one, if a reason is known.
    pub reason: Option<String>,
    /// Why another value may matter.
    pub why: String,
}

impl SettingComparison {
    /// Returns whether the value differs and no reason is known.
    pub fn is_unexplained(&self) -> bool {
        self.agreement == Agreement::Different && self.reason.is_none()
    }
}

/// A run beside the published recipe.
#[derive(Clone, Debug, Serialize)]
pub struct RunCertificate {
    /// The run folder, as given.
    pub folder: String,
    /// The stage of the recipe.
    pub stage: RecipeStage,
    /// The last step in metrics.jsonl.
    pub last_step: Option<u64>,
    /// Hashes of the files.
    pub files: Vec<FileHash>,
    /// The prompt sets: those that the run recorded, and the set that its newest checkpoint carries (key `checkpoint`).
    pub prompts: Vec<PromptUse>,
    /// The settings, in the order of the published table.
    pub settings: Vec<SettingComparison>,
}

/// A published score beside a measured one. Accuracies are shares from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScoreComparison {
    /// Folder of the evaluation.
    pub folder: String,
    /// The benchmark, if it is known.
    pub benchmark: Option<String>,
    /// How histories were read.
    pub setting: Setting,
    /// The model, as the evaluation names it.
    pub model: String,
    /// The judge, as the evaluation names it.
    pub judge: String,
    /// The measured accuracy.
    pub ours: f64,
    /// Lower end of its 95 % interval over users.
    pub ci_low: f64,
    /// Upper end of its 95 % interval over users.
    pub ci_high: f64,
    /// Number of users measured.
    pub users: usize,
    /// The published accuracy.
    pub published: Option<f64>,
    /// Number of users of the published accuracy.
    pub published_users: Option<usize>,
    /// Whether the interval contains the published accuracy.
    pub in_interval: Option<bool>,
    /// Number of users that tells the two apart if the published accuracy is exact ([`evals::sample_size::one_proportion`]).
    pub users_if_exact: Option<u64>,
    /// Number of users of each evaluation that tells the two apart ([`evals::sample_size::two_proportions`]).
    pub users_of_each: Option<u64>,
}
