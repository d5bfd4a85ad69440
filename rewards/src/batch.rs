//! Inputs of reward terms.

use chat::reasoning::Reasoned;
use chat::{HistoryItems, Interaction, Message};
use configs::rl::reward::FormatGate;
use serde::Serialize;

use crate::gate;
use crate::panel::PanelVerdict;
use crate::query::PanelRequest;

/// A response and its context.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct RewardResponse<'a> {
    /// Full response, including the reasoning.
    pub text: &'a str,
    /// Length of the response in tokens.
    pub tokens: usize,
    /// Maximum number of tokens of a response.
    pub token_limit: usize,
    /// Index of the stage, from 0.
    pub stage: usize,
    /// Index of the response's group in the batch. A group consists of the responses to the same prompt.
    pub group: usize,
    /// ID of the user.
    pub uid: &'a str,
    /// Domain of the stage's own target, if known.
    pub domain: Option<&'a str>,
    /// Task of the stage's own target, if known.
    pub task: Option<&'a str>,
    /// Interactions that the prompt contains, oldest first.
    pub history: &'a [Interaction],
    /// Messages that the prompt contains, oldest first, if the user's history is one of messages.
    #[serde(skip_serializing_if = "<[Message]>::is_empty")]
    pub messages: &'a [Message],
    /// Summary of the previous stage, which the prompt contains.
    pub past_summary: Option<&'a str>,
    /// Later choices that the run's judges predict from the summary; the stage's own target first.
    pub targets: &'a [Interaction],
    /// The panel's verdict on each of `targets`. Empty if the response failed the format gate and was therefore not judged, and
    /// while terms ask their own questions ([`crate::RewardTerm::judgments`]).
    pub verdicts: &'a [PanelVerdict],
    /// Choices of the user in other domains, sampled from the row's `transfer`; the same for the whole group.
    pub transfer: &'a [Interaction],
    /// Targets of the stage whose summary is `past_summary`; empty in the first stage.
    pub past_targets: &'a [Interaction],
    /// Reference summary of the stage, such as a teacher's, if the row has one.
    pub reference: Option<&'a str>,
    /// The format gate of the run, by which the response is split into reasoning and summary.
    pub gate: FormatGate,
    /// Whether the response passed the format gate.
    pub well_formed: bool,
    /// Probability that the run's judges pick the user's choices, mean over `verdicts`; `None` where they are empty.
    pub p_chosen: Option<f64>,
}

impl<'a> RewardResponse<'a> {
    /// Returns what the prompt contains of the history.
    pub fn items(&self) -> HistoryItems<'a> {
        HistoryItems::of(self.history, self.messages)
    }

    /// Returns the reasoning, or `None` if the response is malformed.
    pub fn reasoning(&self) -> Option<&'a str> {
        self.parts().map(|parts| parts.reasoning)
    }

    /// Returns the summary, or `None` if the response is malformed. It is empty only if the gate accepts empty summaries.
    pub fn summary(&self) -> Option<&'a str> {
        self.parts().map(|parts| parts.summary)
    }

    fn parts(&self) -> Option<Reasoned<'a>> {
        gate::split(self.gate, self.text)
    }
}

/// A question that a term asks the run's judges about a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgeRequest {
    /// Index of the response in the batch.
    pub response: usize,
    /// The query, and the judges that it goes to.
    pub request: PanelRequest,
}

impl JudgeRequest {
    /// Creates a request about the response at index `response` of the batch.
    pub fn new(response: usize, request: PanelRequest) -> Self {
        Self { response, request }
    }
}

/// The responses of one stage of a training step.
#[derive(Clone, Copy, Debug)]
pub struct RewardBatch<'a> {
    /// Index of the step, from 0.
    pub step: u64,
    /// The responses; those of a group are consecutive.
    pub responses: &'a [RewardResponse<'a>],
    /// The answers to the requests of [`crate::RewardTerm::judgments`], in the order of the requests.
    pub verdicts: &'a [PanelVerdict],
}
