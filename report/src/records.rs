//! The rows of `eval.json`, `eval-gains.json` and `examples.json`.

use configs::eval::Setting;
use evals::TargetKind;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

/// The source of a summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Model {
    /// No summary; in the direct setting, the raw history instead.
    None,
    /// The summary of another user, sampled at random.
    Random,
    /// The model after supervised fine-tuning.
    Sft,
    /// The model after reinforcement learning.
    Rl,
    /// The user's true preferences in words: an upper bound.
    Oracle,
}

impl Model {
    /// Returns the name in tables and legends.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Model::None => "no summary",
            Model::Random => "random user",
            Model::Sft => "SFT",
            Model::Rl => "RL",
            Model::Oracle => "oracle",
        }
    }
}

/// Returns a setting's name in tables and charts.
pub(crate) fn setting_label(setting: Setting) -> &'static str {
    match setting {
        Setting::Direct => "direct",
        Setting::Full => "full history",
        Setting::Streaming => "streaming",
    }
}

/// Returns the name of a kind of targets in tables and charts.
pub(crate) fn targets_label(targets: TargetKind) -> &'static str {
    match targets {
        TargetKind::InDomain => "in-domain targets",
        TargetKind::Transfer => "transfer targets",
    }
}

/// The judge that predicts the user's choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JudgeRole {
    /// The judge that gave the rewards.
    Training,
    /// A judge that never gave a reward.
    Second,
}

impl JudgeRole {
    /// Returns the name in tables and charts.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            JudgeRole::Training => "training judge",
            JudgeRole::Second => "second judge",
        }
    }
}

/// One accuracy of `eval.json`. Shares are from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccuracyRow {
    /// The source of the summaries.
    pub model: Model,
    /// How the history was read.
    pub setting: Setting,
    /// Which choices were predicted.
    pub targets: TargetKind,
    /// The judge.
    pub judge: JudgeRole,
    /// The share of targets for which the judge predicts the user's choice.
    #[serde(deserialize_with = "share")]
    pub accuracy: f64,
    /// The lower end of the 95 % interval over users.
    #[serde(deserialize_with = "share")]
    pub ci_low: f64,
    /// The upper end of the 95 % interval over users.
    #[serde(deserialize_with = "share")]
    pub ci_high: f64,
    /// The number of users.
    pub users: u64,
    /// The number of targets judged.
    pub targets_judged: u64,
}

/// One difference of `eval-gains.json`: accuracy of `model` minus accuracy of `baseline` on the same targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GainRow {
    /// How the history was read.
    pub setting: Setting,
    /// Which choices were predicted.
    pub targets: TargetKind,
    /// The judge.
    pub judge: JudgeRole,
    /// The baseline.
    pub baseline: Model,
    /// The model that is compared with the baseline.
    pub model: Model,
    /// The difference of shares, from −1 to 1.
    #[serde(deserialize_with = "difference")]
    pub gain: f64,
    /// The lower end of the 95 % interval over users.
    #[serde(deserialize_with = "difference")]
    pub ci_low: f64,
    /// The upper end of the 95 % interval over users.
    #[serde(deserialize_with = "difference")]
    pub ci_high: f64,
    /// The number of users.
    pub users: u64,
}

/// The response of a model about a user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The text between the `<think>` tags.
    #[serde(default)]
    pub reasoning: String,
    /// The summary.
    pub summary: String,
}

/// One user of `examples.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// The id of the user.
    pub uid: String,
    /// The user's true preferences, in words.
    pub truth: String,
    /// The interactions that the models read, oldest first.
    #[serde(default)]
    pub history: Vec<String>,
    /// The response of the SFT model.
    #[serde(default)]
    pub sft: Option<Written>,
    /// The response of the RL model.
    #[serde(default)]
    pub rl: Option<Written>,
}

/// Deserializes a share from 0 to 1. Validates it during parsing, so that the parser's error has its line.
fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    within(deserializer, 0.0)
}

/// Deserializes a difference of shares from −1 to 1.
fn difference<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    within(deserializer, -1.0)
}

fn within<'de, D: Deserializer<'de>>(deserializer: D, low: f64) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if (low..=1.0).contains(&value) {
        return Ok(value);
    }
    Err(Error::custom(format!("found {value}; expected a fraction from {low} to 1, such as 0.714 for 71.4 %")))
}
