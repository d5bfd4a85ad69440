//! What is measured while training.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::check::{Under, Verdict, given};
use crate::eval::{Setting, check_settings};
use crate::judge::JudgeConfig;
use crate::sampling::SamplingConfig;

/// Measurements on held-out rows and people while training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ValidationConfig {
    /// Steps between measurements; the last step is measured too. 0 (the default): none.
    pub every: usize,
    /// Whether the model is measured before its first step. Default: false.
    pub at_start: bool,
    /// Summaries of held-out people, judged. Default: none, so that only the loss on validation rows is measured.
    pub summaries: Option<SummaryValidation>,
}

impl ValidationConfig {
    pub(crate) fn check(&self) -> Verdict {
        self.summaries.as_ref().map_or(Ok(()), SummaryValidation::check).under("summaries")
    }
}

/// How well a judge predicts held-out people's choices from summaries that the model in training writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SummaryValidation {
    /// JSON lines of the people, as `xplore eval` reads them. Required.
    pub people: PathBuf,
    /// Only the first so many people; 0 takes all. Default: 64.
    pub max_people: usize,
    /// Prompt set of the summaries, built in or a folder. Default: plain.
    pub prompts: String,
    /// What is read of the histories. Default: full.
    pub settings: Vec<Setting>,
    /// How summaries are drawn. Defaults: temperature 0.6, top_k 20, top_p 0.95.
    pub sampling: SamplingConfig,
    /// The judge. Required.
    pub judge: JudgeConfig,
}

impl Default for SummaryValidation {
    fn default() -> Self {
        Self {
            people: PathBuf::new(),
            max_people: 64,
            prompts: crate::prompts::DEFAULT.into(),
            settings: vec![Setting::Full],
            sampling: SamplingConfig::default(),
            judge: JudgeConfig::default(),
        }
    }
}

impl SummaryValidation {
    fn check(&self) -> Verdict {
        given(!self.people.as_os_str().is_empty(), "people", "the path of a JSONL file of people")?;
        given(!self.prompts.is_empty(), "prompts", crate::prompts::EXPECTED)?;
        check_settings(&self.settings)?;
        self.sampling.check().under("sampling")?;
        self.judge.check().under("judge")
    }
}
