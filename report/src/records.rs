//! The rows of `eval.json`, `eval-gains.json` and `examples.json`.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

/// Where a summary came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Model {
    /// No summary; in the direct setting, the raw history instead.
    None,
    /// The summary of another person, drawn at random.
    Random,
    /// The model after supervised fine-tuning.
    Sft,
    /// The model after reinforcement learning.
    Rl,
    /// The person's true preferences written out: an upper bound.
    Oracle,
}

impl Model {
    /// The name that tables and legends show.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Model::None => "no summary",
            Model::Random => "random person",
            Model::Sft => "SFT",
            Model::Rl => "RL",
            Model::Oracle => "oracle",
        }
    }
}

/// What the judge or the summarizer reads of a person's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Setting {
    /// The judge reads the raw history, without a summary.
    Direct,
    /// One summary of the whole history.
    Full,
    /// A summary updated stage by stage.
    Streaming,
}

impl Setting {
    /// The name that tables and charts show.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Setting::Direct => "direct",
            Setting::Full => "full history",
            Setting::Streaming => "streaming",
        }
    }
}

/// Which choices are predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Targets {
    /// Choices in the domain that the summary was written from.
    InDomain,
    /// The same person's choices in another domain.
    Transfer,
}

impl Targets {
    /// The name that tables and charts show.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Targets::InDomain => "in-domain targets",
            Targets::Transfer => "transferred targets",
        }
    }
}

/// Who answers for the person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judge {
    /// The judge that gave the rewards.
    Training,
    /// A judge that never gave a reward.
    Second,
}

impl Judge {
    /// The name that tables and charts show.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Judge::Training => "training judge",
            Judge::Second => "second judge",
        }
    }
}

/// One accuracy of `eval.json`. Shares, 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalRow {
    /// Where the summaries came from.
    pub model: Model,
    /// What of the history was read.
    pub setting: Setting,
    /// Which choices were predicted.
    pub targets: Targets,
    /// Who predicted them.
    pub judge: Judge,
    /// Share of targets answered as the person did.
    #[serde(deserialize_with = "share")]
    pub accuracy: f64,
    /// Lower end of the 95 % interval over people.
    #[serde(deserialize_with = "share")]
    pub ci_low: f64,
    /// Upper end of the 95 % interval over people.
    #[serde(deserialize_with = "share")]
    pub ci_high: f64,
    /// Number of people.
    pub people: u64,
    /// Number of targets judged.
    pub targets_judged: u64,
}

/// One difference of `eval-gains.json`: accuracy of `model` less accuracy of `baseline` on the same targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GainRow {
    /// What of the history was read.
    pub setting: Setting,
    /// Which choices were predicted.
    pub targets: Targets,
    /// Who predicted them.
    pub judge: Judge,
    /// What is compared against.
    pub baseline: Model,
    /// What is compared.
    pub model: Model,
    /// Difference of shares, −1 to 1.
    #[serde(deserialize_with = "difference")]
    pub gain: f64,
    /// Lower end of the 95 % interval over people.
    #[serde(deserialize_with = "difference")]
    pub ci_low: f64,
    /// Upper end of the 95 % interval over people.
    #[serde(deserialize_with = "difference")]
    pub ci_high: f64,
    /// Number of people.
    pub people: u64,
}

/// What a model wrote about a person.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The text between the `<think>` tags.
    #[serde(default)]
    pub reasoning: String,
    /// The summary.
    pub summary: String,
}

/// One person of `examples.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// The person.
    pub uid: String,
    /// The person's true preferences, in words.
    pub truth: String,
    /// What the models read, oldest first.
    #[serde(default)]
    pub history: Vec<String>,
    /// What the SFT model wrote.
    #[serde(default)]
    pub sft: Option<Written>,
    /// What the RL model wrote.
    #[serde(default)]
    pub rl: Option<Written>,
}

/// A share, 0 to 1. Checked while the field is parsed, so that the parser's error has its line.
fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    within(deserializer, 0.0)
}

/// A difference of shares, −1 to 1.
fn difference<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    within(deserializer, -1.0)
}

fn within<'de, D: Deserializer<'de>>(deserializer: D, low: f64) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if (low..=1.0).contains(&value) {
        return Ok(value);
    }
    Err(Error::custom(format!("found {value}; expected a share from {low} to 1, such as 0.714 for 71.4 %")))
}
