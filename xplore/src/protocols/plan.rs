//! What each round of an evaluation reads, computed without a model.

use std::cell::RefCell;
use std::path::Path;

use chat::completer::Scripted;
use chat::records::{Checked, RowDefect};
use chat::tokenizer::Tokenizer;
use chat::{Completion, CompletionRequest, FinishReason, Message, PromptSet};
use configs::judge::{JudgeConfig, JudgeMode};
pub use evals::HistorySplit;
use evals::{EvalUser, NamedJudge, PromptLimit, UserPreview, preview};
use rewards::Judge;
use serde::Deserialize;

use super::Rows;
use crate::error::Error;
use crate::parts;

/// A user of an evaluation.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct PlanRow {
    /// The user, as in the file of `xplore eval`.
    #[serde(flatten)]
    pub user: EvalUser,
    /// Past summary in the prompt of the second round of `streaming`. Default: none.
    #[serde(default)]
    pub past: Option<String>,
}

impl Checked for PlanRow {
    fn defect(&self) -> Option<RowDefect> {
        self.user.defect()
    }
}

/// What a plan depends on.
#[derive(Clone, Copy)]
pub struct PlanSettings<'a> {
    /// How histories are split.
    pub split: HistorySplit,
    /// The prompts of the summaries and, in the setting `direct`, of history and judge.
    pub prompts: &'a PromptSet,
    /// Maximum length of a prompt; `None` sets no limit, as `xplore eval` does.
    pub limit: Option<usize>,
    /// Tokenizer that measures prompts in tokens, chat template included; `None` counts words, separated by whitespace.
    pub tokenizer: Option<&'a Tokenizer>,
}

/// Returns what an evaluation reads about the users of a file of JSON lines, or of standard input. In the setting `direct`, the
/// judge's prompt is that of mode `sampled`, which has no answer prefix.
///
/// # Errors
/// Returns an error if the input cannot be read, a row is not valid or too short for the split, a prompt does not render, or the
/// chat template of the tokenizer rejects it.
pub fn users(settings: PlanSettings<'_>, input: Option<&Path>) -> Result<Vec<UserPreview>, Error> {
    let rows: Rows<PlanRow> = Rows::read(input)?;
    let failed = RefCell::new(None);
    let count = |messages: &[Message]| match settings.tokenizer {
        None => messages.iter().map(|message| message.content.split_whitespace().count()).sum::<usize>(),
        Some(tokenizer) => match tokenizer.encode_chat(messages, None) {
            Ok(ids) => ids.len(),
            Err(error) => {
                *failed.borrow_mut() = Some(error);
                usize::MAX
            }
        },
    };
    let limit = PromptLimit { tokens: settings.limit.unwrap_or(usize::MAX), count: &count };
    // The model of the judge is never asked.
    let model = Scripted::new("none", |_: &CompletionRequest| Completion {
        text: String::new(),
        tokens: Vec::new(),
        finish: FinishReason::Stop,
    });
    let config = JudgeConfig { mode: JudgeMode::Sampled, ..JudgeConfig::default() };
    let judge = Judge::new(&model, settings.prompts, parts::judge_settings(&config, 0))?;
    let judge = NamedJudge { name: "judge", judge: &judge, limit: Some(limit) };
    let previews = rows.map(|row: &PlanRow| {
        let past = row.past.as_deref();
        Ok(preview(&row.user, past, settings.split, settings.prompts, limit, &judge)?)
    })?;
    match failed.into_inner() {
        None => Ok(previews),
        Some(error) => Err(lm::LmError::from(error).into()),
    }
}
