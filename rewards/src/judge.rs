//! The judge: a frozen language model that predicts a user's choice between two items, given a summary.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use chat::completer::CompleterError;
use chat::prompts::PromptError;
use chat::{Completer, Completion, CompletionRequest, Message, PromptSet, Question, Sampling};
use configs::judge::{ItemOrders, JudgeMode};
use serde::{Deserialize, Serialize};

use crate::{Draw, answer};

/// Settings of a judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgeSettings {
    /// Answering mode. A judge that reasons decodes greedily. If it gives no answer, it is asked once more as in
    /// [`JudgeMode::Forced`], with the prefix appended to its reasoning.
    pub mode: JudgeMode,
    /// Maximum number of new tokens of a judge that reasons, including the answer.
    pub max_new_tokens: usize,
    /// Order in which the two items are shown. Two orders remove the judge's position bias at twice the cost.
    pub orders: ItemOrders,
    /// Seed of [`ItemOrders::One`]. The order depends on the seed and the question only.
    pub seed: u64,
    /// Text directly before the answer letter, for example `{"selection": "Item ` or `answer`.
    pub answer_prefix: String,
    /// Letters of the first and the second item shown.
    pub choices: [String; 2],
}

impl JudgeSettings {
    /// Returns settings with the letters A and B, 64 new tokens, and seed 0.
    pub fn new(mode: JudgeMode, orders: ItemOrders, answer_prefix: impl Into<String>) -> Self {
        let choices = ["A".into(), "B".into()];
        Self { mode, max_new_tokens: 64, orders, seed: 0, answer_prefix: answer_prefix.into(), choices }
    }

    fn check(&self) -> Result<(), JudgeError> {
        let bad = |what| Err(JudgeError::Settings(what));
        let [first, second] = &self.choices;
        if first.trim().is_empty() || second.trim().is_empty() || first == second {
            return bad("the two choices must be different, non-empty strings, such as A and B");
        }
        if self.choices.iter().any(|c| c.trim() != c) {
            return bad("the choices must have no leading or trailing spaces: tokens are trimmed before comparison");
        }
        match self.mode {
            JudgeMode::Reasoned if self.answer_prefix.trim().is_empty() => {
                bad("a reasoning judge needs a non-empty answer prefix, which locates its answer")
            }
            JudgeMode::Reasoned if self.max_new_tokens == 0 => bad("a reasoning judge needs at least one new token"),
            _ => Ok(()),
        }
    }
}

/// An error of a judge.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// The settings are not valid.
    #[error("judge settings: {0}")]
    Settings(&'static str),
    /// The judge prompt cannot be rendered.
    #[error("judge prompt: {0}")]
    Prompt(#[from] PromptError),
    /// The model failed.
    #[error("judge `{judge}`: {source}")]
    Model {
        /// Name of the judge.
        judge: String,
        /// The underlying error.
        source: CompleterError,
    },
    /// The number of completions differs from the number of requests.
    #[error(
        "judge `{judge}` answered {answered} of {asked} requests; its completer must answer every request, in order"
    )]
    Answers {
        /// Name of the judge.
        judge: String,
        /// Number of requests sent.
        asked: usize,
        /// Number of completions received.
        answered: usize,
    },
    /// The target has no rejected item and cannot be judged.
    #[error("target {index} has no `rejected` item; a judge compares two items: add one or remove the target")]
    NoRejected {
        /// Index of the target in the call, from 0.
        index: usize,
    },
}

/// The judge's verdict on one question, shown in one order.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OrderVerdict {
    /// Whether the user's choice was shown first.
    pub chosen_first: bool,
    /// Probability that the judge picks the user's choice; 0.5 if the judge gave no answer.
    pub p_chosen: f64,
    /// Whether the judge gave no answer.
    pub malformed: bool,
}

/// The judge's verdict on one question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Probability that the judge picks the user's choice, mean over `orders`.
    pub p_chosen: f64,
    /// Verdicts in the orders shown (one or two).
    pub orders: Vec<OrderVerdict>,
    /// Whether the judge gave no answer in at least one order.
    pub malformed: bool,
}

impl Verdict {
    fn over(orders: Vec<OrderVerdict>) -> Self {
        let p_chosen = orders.iter().map(|o| o.p_chosen).sum::<f64>() / orders.len() as f64;
        let malformed = orders.iter().any(|o| o.malformed);
        Self { p_chosen, orders, malformed }
    }
}

/// Returns the question whether the user described by `preference` picks what they picked at `target`, or `None` for a target
/// without a rejected item.
pub fn question(target: &chat::Interaction, preference: &str) -> Option<Question> {
    Some(Question {
        query: target.query.clone(),
        preference: preference.into(),
        chosen: target.chosen.clone(),
        rejected: target.rejected.clone()?,
    })
}

/// A frozen model with fixed prompts and settings.
pub struct Judge<'a> {
    model: &'a dyn Completer,
    prompts: &'a PromptSet,
    settings: JudgeSettings,
}

impl<'a> Judge<'a> {
    /// Returns a judge that prompts `model` with the `judge` template of `prompts`.
    ///
    /// # Errors
    /// Returns [`JudgeError::Settings`] if the settings are not valid.
    pub fn new(model: &'a dyn Completer, prompts: &'a PromptSet, settings: JudgeSettings) -> Result<Self, JudgeError> {
        settings.check()?;
        Ok(Self { model, prompts, settings })
    }

    /// Returns the model's name.
    pub fn name(&self) -> &str {
        self.model.name()
    }

    /// Returns the settings.
    pub fn settings(&self) -> &JudgeSettings {
        &self.settings
    }

    /// Returns one verdict per question, in order. Equal questions are asked once. All requests go to the model in one call.
    ///
    /// # Errors
    /// Returns a [`JudgeError`] if a prompt cannot be rendered or the model fails. A missing answer is not an error: its verdict is
    /// 0.5 and is marked as malformed.
    pub fn score(&self, questions: &[Question]) -> Result<Vec<Verdict>, JudgeError> {
        let mut places = HashMap::new();
        let mut asked: Vec<(&Question, bool)> = Vec::new();
        for question in questions {
            if let Entry::Vacant(place) = places.entry(question) {
                let start = asked.len();
                asked.extend(self.orders(question).iter().map(|&chosen_first| (question, chosen_first)));
                place.insert(start..asked.len());
            }
        }
        let seen = self.verdicts(&asked)?;
        Ok(questions.iter().map(|q| Verdict::over(seen[places[q].clone()].to_vec())).collect())
    }

    /// Returns one verdict per question, shown with the user's choice first or second.
    fn verdicts(&self, asked: &[(&Question, bool)]) -> Result<Vec<OrderVerdict>, JudgeError> {
        let JudgeSettings { mode, answer_prefix, choices, .. } = &self.settings;
        let requests = asked.iter().map(|&(q, first)| self.request(q, first)).collect::<Result<Vec<_>, _>>()?;
        let completions = self.ask(&requests)?;
        let read = |completion: &Completion| match mode {
            JudgeMode::Forced => answer::forced(completion, choices),
            JudgeMode::Reasoned => answer::reasoned(completion, answer_prefix, choices),
        };
        let mut p_first: Vec<Option<f64>> = completions.iter().map(read).collect();
        if *mode != JudgeMode::Forced {
            let silent: Vec<usize> = (0..p_first.len()).filter(|&i| p_first[i].is_none()).collect();
            let forced = |&i: &usize| self.forced(requests[i].messages.clone(), &completions[i].text);
            let forced: Vec<_> = silent.iter().map(forced).collect();
            for (&i, completion) in silent.iter().zip(self.ask(&forced)?) {
                p_first[i] = answer::forced(&completion, choices);
            }
        }
        let verdict = |(&(_, chosen_first), p_first): (&(&Question, bool), Option<f64>)| {
            let p_chosen = p_first.map_or(0.5, |p| if chosen_first { p } else { 1.0 - p });
            OrderVerdict { chosen_first, p_chosen, malformed: p_first.is_none() }
        };
        Ok(asked.iter().zip(p_first).map(verdict).collect())
    }

    /// Returns the conversation that asks a question, for counting its tokens or displaying it.
    ///
    /// # Errors
    /// Returns [`JudgeError::Prompt`] if the template cannot be rendered.
    pub fn messages(&self, question: &Question, chosen_first: bool) -> Result<Vec<Message>, JudgeError> {
        let (chosen, rejected) = (question.chosen.as_str(), question.rejected.as_str());
        let (a, b) = if chosen_first { (chosen, rejected) } else { (rejected, chosen) };
        let mut messages = self.prompts.judge(question.query.as_deref(), &question.preference, a, b)?;
        if self.settings.mode == JudgeMode::Forced && !self.settings.answer_prefix.is_empty() {
            messages.push(Message::assistant(self.settings.answer_prefix.clone()));
        }
        Ok(messages)
    }

    fn orders(&self, question: &Question) -> &'static [bool] {
        if self.settings.orders == ItemOrders::Both {
            return &[true, false];
        }
        let Question { query, preference, chosen, rejected } = question;
        let draw = Draw::new(self.settings.seed).text("item order").text(query.as_deref().unwrap_or_default());
        if draw.text(preference).text(chosen).text(rejected).below(2) == 0 { &[true] } else { &[false] }
    }

    fn request(&self, question: &Question, chosen_first: bool) -> Result<CompletionRequest, JudgeError> {
        let messages = self.messages(question, chosen_first)?;
        Ok(match self.settings.mode {
            JudgeMode::Forced => letter_after(messages),
            // When the letter itself is generated, five alternatives include the other letter.
            JudgeMode::Reasoned => greedy(messages, self.settings.max_new_tokens, 5),
        })
    }

    /// Appends the judge's reasoning and the answer prefix to the question.
    fn forced(&self, mut messages: Vec<Message>, written: &str) -> CompletionRequest {
        let separator = if written.is_empty() || written.ends_with(char::is_whitespace) { "" } else { " " };
        messages.push(Message::assistant(format!("{written}{separator}{}", self.settings.answer_prefix)));
        letter_after(messages)
    }

    fn ask(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, JudgeError> {
        let judge = || self.name().to_owned();
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let completions =
            self.model.complete(requests).map_err(|source| JudgeError::Model { judge: judge(), source })?;
        if completions.len() != requests.len() {
            return Err(JudgeError::Answers { judge: judge(), asked: requests.len(), answered: completions.len() });
        }
        Ok(completions)
    }
}

/// Requests the single next token. 20 alternatives are the maximum of OpenAI-compatible servers.
fn letter_after(messages: Vec<Message>) -> CompletionRequest {
    greedy(messages, 1, 20)
}

/// Returns a request with greedy decoding. Thinking is off, as in AlignXplore+: a judge that reasons does so in its visible answer.
fn greedy(messages: Vec<Message>, max_tokens: usize, top_logprobs: usize) -> CompletionRequest {
    let thinking = Some(false);
    CompletionRequest { top_logprobs, thinking, ..CompletionRequest::new(messages, Sampling::greedy(max_tokens)) }
}
