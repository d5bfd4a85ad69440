//! Validation during training.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::check::{CheckResult, Under, given};
use crate::eval::{Setting, check_settings};
use crate::judge::JudgeConfig;
use crate::sampling::SamplingConfig;

/// Validation on held-out rows and users during training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ValidationConfig {
    /// Number of steps between validations; the last step is validated too. 0 (the default): no validation.
    pub every: usize,
    /// Whether to validate before the first step. Default: false.
    pub at_start: bool,
    /// Validation of judged summaries of held-out users. Default: none, which computes only the loss on validation rows.
    pub summaries: Option<SummaryValidation>,
}

impl ValidationConfig {
    pub(crate) fn check(&self) -> CheckResult {
        self.summaries.as_ref().map_or(Ok(()), SummaryValidation::check).under("summaries")
    }
}

/// How well a judge predicts held-out users' choices from summaries by the model in training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SummaryValidation {
    /// JSON Lines file of the users, in the format of `xplore eval`. Required.
    pub users: PathBuf,
    /// Maximum number of users, from the start of the file; 0 uses all. Default: 64.
    pub max_users: usize,
    /// Prompt set of the summaries: a built-in name or a folder. Empty (the default): the set of the model in training, or plain if
    /// it has none.
    pub prompts: String,
    /// Which part of the histories the model reads. Default: full.
    pub settings: Vec<Setting>,
    /// Sampling of the summaries. Defaults: temperature 0.6, top_k 20, top_p 0.95.
    pub sampling: SamplingConfig,
    /// The judge. Required.
    pub judge: JudgeConfig,
}

impl Default for SummaryValidation {
    fn default() -> Self {
        Self {
            users: PathBuf::new(),
            max_users: 64,
            prompts: String::new(),
            settings: vec![Setting::Full],
            sampling: SamplingConfig::default(),
            judge: JudgeConfig::default(),
        }
    }
}

impl SummaryValidation {
    fn check(&self) -> CheckResult {
        given(!self.users.as_os_str().is_empty(), "users", "the path of a JSONL file of users")?;
        check_settings(&self.settings)?;
        self.sampling.check().under("sampling")?;
        self.judge.check().under("judge")
    }
}
