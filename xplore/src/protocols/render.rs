//! Rows rendered to the exact messages of a prompt set.

use std::path::Path;

use chat::history_items::kind_defect;
use chat::prompts::Candidate;
use chat::records::{Checked, RowDefect};
use chat::{HistoryItems, Interaction, Message, PromptSet, RlRow};
use configs::{RolloutConfig, Setting};
use data_synth::synthesis;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use trainer::grpo::stages;

use super::{Refusal, Rows};
use crate::error::Error;

/// The use of a prompt, which determines the fields of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptKind {
    /// A row of the SFT set ([`SftInput`]).
    Sft,
    /// The prompts of a row of the RL set ([`RlInput`]).
    Rl,
    /// A question to the judge ([`JudgeInput`]).
    Judge,
    /// The teacher's prompt for a summary ([`TeachInput`]).
    Teach,
    /// The teacher's prompt to merge summaries ([`MergeInput`]).
    Merge,
    /// A prompt of the evaluation ([`EvalInput`]).
    Eval,
}

/// A row of the SFT set before it is rendered.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SftInput {
    /// Past summary. Default: none.
    pub past: Option<String>,
    /// Interactions to summarize, oldest first.
    #[serde(default)]
    pub interactions: Vec<Interaction>,
    /// Messages to summarize, oldest first, in place of `interactions`. Default: none.
    #[serde(default)]
    pub messages: Vec<Message>,
    /// Reasoning of the completion.
    pub reasoning: String,
    /// Summary of the completion.
    pub preference: String,
}

/// A row of the RL set, of two stages.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct RlInput {
    /// The row.
    #[serde(flatten)]
    pub row: RlRow,
    /// Summary that is carried into the second stage. Default: none.
    #[serde(default)]
    pub past: Option<String>,
}

/// A question to the judge.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeInput {
    /// Query of the choice. Default: none.
    pub query: Option<String>,
    /// Summary.
    pub preference: String,
    /// First item.
    pub item_a: String,
    /// Second item.
    pub item_b: String,
}

/// The interactions or messages that the teacher summarizes, and the later choice that it sees.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeachInput {
    /// Past summary. Default: none.
    pub past: Option<String>,
    /// Interactions to summarize, oldest first.
    #[serde(default)]
    pub interactions: Vec<Interaction>,
    /// Messages to summarize, oldest first, in place of `interactions`. Default: none.
    #[serde(default)]
    pub messages: Vec<Message>,
    /// Query of the later choice. Default: none.
    pub query: Option<String>,
    /// First item of the later choice.
    pub item_a: String,
    /// Second item of the later choice.
    pub item_b: String,
}

/// The candidates that the teacher merges.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeInput {
    /// Past summary. Default: none.
    pub past: Option<String>,
    /// Candidates.
    pub candidates: Vec<Candidate>,
}

/// A prompt of the evaluation: for a summary (`full`, `streaming`), or the question about a raw history (`direct`).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalInput {
    /// The setting. Default: full.
    pub setting: Option<Setting>,
    /// For `streaming`: the past summary. Default: none, as in the first round.
    pub past: Option<String>,
    /// Interactions, oldest first.
    #[serde(default)]
    pub interactions: Vec<Interaction>,
    /// Messages, oldest first, in place of `interactions`. Default: none.
    #[serde(default)]
    pub messages: Vec<Message>,
    /// For `direct`: the query of the choice. Default: none.
    pub query: Option<String>,
    /// For `direct`: the first item.
    pub item_a: Option<String>,
    /// For `direct`: the second item.
    pub item_b: Option<String>,
}

/// A rendered row.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Rendered {
    /// One conversation.
    Messages {
        /// Its turns.
        messages: Vec<Message>,
    },
    /// One prompt for each stage.
    Stages {
        /// The stages, in order.
        stages: Vec<StagePrompt>,
    },
}

/// The prompt of a stage, and what its summary is judged by.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StagePrompt {
    /// The turns of the prompt.
    pub messages: Vec<Message>,
    /// The target of the stage.
    pub target: Interaction,
}

/// Renders the rows of a file of JSON lines, or of standard input.
///
/// # Errors
/// Returns an error if the input cannot be read, a row is not valid, or the set lacks the template or it does not render.
pub fn rows(kind: PromptKind, prompts: &PromptSet, input: Option<&Path>) -> Result<Vec<Rendered>, Error> {
    let conversation = |messages: Vec<Message>| Rendered::Messages { messages };
    match kind {
        PromptKind::Sft => each(input, |row: &SftInput| Ok(conversation(sft(prompts, row)?))),
        PromptKind::Rl => each(input, |row: &RlInput| Ok(Rendered::Stages { stages: rl(prompts, row)? })),
        PromptKind::Judge => each(input, |row: &JudgeInput| {
            let query = row.query.as_deref();
            Ok(conversation(prompts.judge(query, &row.preference, &row.item_a, &row.item_b)?))
        }),
        PromptKind::Teach => each(input, |row: &TeachInput| {
            let (past, query) = (row.past.as_deref(), row.query.as_deref());
            let items = HistoryItems::of(&row.interactions, &row.messages);
            Ok(conversation(prompts.teach(past, items, query, &row.item_a, &row.item_b)?))
        }),
        PromptKind::Merge => {
            each(input, |row: &MergeInput| Ok(conversation(prompts.merge(row.past.as_deref(), &row.candidates)?)))
        }
        PromptKind::Eval => each(input, |row: &EvalInput| Ok(conversation(eval(prompts, row)?))),
    }
}

fn each<T: DeserializeOwned + Checked>(
    input: Option<&Path>,
    rule: impl Fn(&T) -> Result<Rendered, Refusal>,
) -> Result<Vec<Rendered>, Error> {
    Rows::<T>::read(input)?.map(rule)
}

/// Returns prompt and completion.
fn sft(prompts: &PromptSet, row: &SftInput) -> Result<Vec<Message>, Refusal> {
    let SftInput { past, interactions, messages, reasoning, preference } = row;
    let items = HistoryItems::of(interactions, messages);
    let row = synthesis::sft_row(prompts, past.as_deref(), items, reasoning, preference)?;
    Ok([row.prompt, row.completion].concat())
}

/// Returns the prompts of the two published stages.
fn rl(prompts: &PromptSet, input: &RlInput) -> Result<Vec<StagePrompt>, Refusal> {
    let stages = stages::cut(&input.row, &RolloutConfig::default());
    let field = if input.row.messages.is_empty() { "history" } else { "messages" };
    let stages = stages.ok_or_else(|| Refusal::row(field, "is too short for two stages"))?;
    let prompt = |(stage, cut): (usize, stages::Stage<'_>)| -> Result<StagePrompt, Refusal> {
        let past = input.past.as_deref().filter(|_| stage > 0);
        Ok(StagePrompt { messages: prompts.summarize(past, cut.window)?, target: cut.target.clone() })
    };
    stages.into_iter().enumerate().map(prompt).collect()
}

/// Returns the prompt of a round, or the question of the setting `direct`.
fn eval(prompts: &PromptSet, row: &EvalInput) -> Result<Vec<Message>, Refusal> {
    let setting = row.setting.unwrap_or(Setting::Full);
    let past = row.past.as_deref();
    let items = HistoryItems::of(&row.interactions, &row.messages);
    if past.is_some() && setting != Setting::Streaming {
        return Err(Refusal::row("past", format!("is only for the setting `streaming`; this row has `{setting}`")));
    }
    if setting == Setting::Direct {
        let missing = |field| Refusal::row(field, "is missing; the setting `direct` asks about two items");
        let item_a = row.item_a.as_deref().ok_or_else(|| missing("item_a"))?;
        let item_b = row.item_b.as_deref().ok_or_else(|| missing("item_b"))?;
        let history = prompts.history(items)?;
        return Ok(prompts.judge(row.query.as_deref(), &history, item_a, item_b)?);
    }
    let of_direct = [("query", &row.query), ("item_a", &row.item_a), ("item_b", &row.item_b)];
    if let Some((field, _)) = of_direct.into_iter().find(|(_, given)| given.is_some()) {
        return Err(Refusal::row(field, format!("is only for the setting `direct`; this row has `{setting}`")));
    }
    Ok(prompts.summarize(past, items)?)
}

impl Checked for SftInput {
    fn defect(&self) -> Option<RowDefect> {
        kind_defect("interactions", &self.interactions, &self.messages)
    }
}

impl Checked for RlInput {
    fn defect(&self) -> Option<RowDefect> {
        self.row.defect()
    }
}

impl Checked for JudgeInput {
    fn defect(&self) -> Option<RowDefect> {
        None
    }
}

impl Checked for TeachInput {
    fn defect(&self) -> Option<RowDefect> {
        kind_defect("interactions", &self.interactions, &self.messages)
    }
}

impl Checked for MergeInput {
    fn defect(&self) -> Option<RowDefect> {
        let message = "is empty; expected at least one {reasoning, preference}".to_owned();
        self.candidates.is_empty().then_some(RowDefect { field: "candidates", message })
    }
}

impl Checked for EvalInput {
    fn defect(&self) -> Option<RowDefect> {
        kind_defect("interactions", &self.interactions, &self.messages)
    }
}
