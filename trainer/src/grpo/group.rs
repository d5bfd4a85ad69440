//! Groups of sampled summaries.

use chat::{HistoryItems, Interaction, Message};
use rewards::{PanelVerdict, Parent, Reward};
use serde::{Deserialize, Serialize};

/// A sampled summary and its reward.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Generated tokens, including the end of the turn.
    #[serde(skip)]
    pub ids: Vec<u32>,
    /// Log-probability of each token when it was sampled (logits over temperature), nats.
    #[serde(skip)]
    pub rollout: Vec<f32>,
    /// Log-probabilities by the training code before the first update of the step; empty if not needed.
    #[serde(skip)]
    pub old: Vec<f32>,
    /// Log-probabilities under the frozen reference; empty without one.
    #[serde(skip)]
    pub reference: Vec<f32>,
    /// Decoded text of the tokens.
    pub text: String,
    /// Whether generation stopped at the length limit.
    pub truncated: bool,
    /// Probability that the judges pick the user's choice, the mean over the targets; `None` if the summary failed the format
    /// gate.
    pub p_chosen: Option<f64>,
    /// The verdict of the run's panel on each target; empty if the summary failed the format gate.
    #[serde(default)]
    pub verdicts: Vec<PanelVerdict>,
    /// Fraction of the targets to which a judge gave no answer; 0 if the summary was not judged.
    #[serde(default)]
    pub no_answer: f64,
    /// The reward of the sample itself, without credit. Whether the sample is well-formed is known before it is judged.
    pub reward: Reward,
}

impl Sample {
    /// Returns whether the judge found the user's choice more likely.
    pub fn right(&self) -> bool {
        self.p_chosen.is_some_and(|p| p > 0.5)
    }
}

/// A group: the samples of one prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Index of the user in the step.
    pub user: usize,
    /// The user's uid.
    pub uid: String,
    /// Stage, from 0.
    pub stage: usize,
    /// Whether another stage follows.
    pub continues: bool,
    /// The sample whose summary is the past summary in the prompt.
    pub parent: Option<Parent>,
    /// Prompt tokens.
    #[serde(skip)]
    pub prompt: Vec<u32>,
    /// The samples of the group.
    pub samples: Vec<Sample>,
    /// Indices of the samples that became past summaries of the next stage.
    pub carried: Vec<usize>,
    /// The contents of the prompt, and the targets of the summaries.
    pub input: GroupInput,
}

/// The contents of a group's prompt and the targets of its summaries, for reward terms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupInput {
    /// Interactions that the stage reads, oldest first, also those that `prompt_overflow` left out of the prompt.
    pub history: Vec<Interaction>,
    /// Messages in the prompt, oldest first, if the user's history is one of messages; with `cut_left`, those before the cut.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    /// Past summary in the prompt.
    pub past_summary: Option<String>,
    /// Later choices that the judges predict from the summaries; the target of the stage first.
    pub targets: Vec<Interaction>,
    /// Choices in other domains, which reward terms may ask about.
    #[serde(default)]
    pub transfer: Vec<Interaction>,
    /// The targets of the summary in the prompt.
    #[serde(default)]
    pub past_targets: Vec<Interaction>,
    /// Reference summary of the stage.
    #[serde(default)]
    pub reference: Option<String>,
}

impl GroupInput {
    /// Returns the part of the user's history that the summaries are about.
    pub fn items(&self) -> HistoryItems<'_> {
        HistoryItems::of(&self.history, &self.messages)
    }
}
