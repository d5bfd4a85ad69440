//! The judge: a frozen model that sees a summary and two items and says which one the person would take.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use chat::completer::CompleterError;
use chat::prompts::PromptError;
use chat::{Completer, Completion, CompletionRequest, Message, PromptSet, Question, Sampling};
use serde::Serialize;

use crate::{Draw, answer};

/// How the judge comes to its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JudgeMode {
    /// One forward pass: the answer prefix is put into the judge's mouth and the two letters are compared there.
    Forced,
    /// The judge first writes what it likes, greedily, then the answer prefix and a letter. Where it comes to no answer, it
    /// is asked once more as in [`JudgeMode::Forced`], with the prefix after what it wrote.
    Reasoned {
        /// At most so many tokens, answer included.
        max_new_tokens: usize,
    },
}

/// In which order the two items are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orders {
    /// Both orders, averaged: removes the judge's position bias at twice the cost.
    Both,
    /// One order, drawn for each question (as AlignXplore+ does). The draw depends on seed and question alone.
    One {
        /// Seed of the draws.
        seed: u64,
    },
}

/// How a judge is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgeSettings {
    /// How the judge comes to its answer.
    pub mode: JudgeMode,
    /// In which order the two items are shown.
    pub orders: Orders,
    /// The text directly before the answer letter, for example `{"selection": "Item ` or `answer`.
    pub answer_prefix: String,
    /// The letters of the first and the second item shown.
    pub choices: [String; 2],
}

impl JudgeSettings {
    /// Settings with the letters A and B.
    pub fn new(mode: JudgeMode, orders: Orders, answer_prefix: impl Into<String>) -> Self {
        Self { mode, orders, answer_prefix: answer_prefix.into(), choices: ["A".into(), "B".into()] }
    }

    fn check(&self) -> Result<(), JudgeError> {
        let bad = |what| Err(JudgeError::Settings(what));
        let [first, second] = &self.choices;
        if first.trim().is_empty() || second.trim().is_empty() || first == second {
            return bad("the two choices must be different, non-empty texts, such as A and B");
        }
        if self.choices.iter().any(|c| c.trim() != c) {
            return bad("the choices must have no spaces around them: tokens are compared with their spaces trimmed");
        }
        match self.mode {
            JudgeMode::Reasoned { .. } if self.answer_prefix.trim().is_empty() => {
                bad("a judge that reasons needs a non-empty answer prefix, by which its answer is found")
            }
            JudgeMode::Reasoned { max_new_tokens: 0 } => bad("a judge that reasons needs at least one new token"),
            _ => Ok(()),
        }
    }
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// Settings that cannot work.
    #[error("judge settings: {0}")]
    Settings(&'static str),
    /// The judge prompt cannot be made.
    #[error("judge prompt: {0}")]
    Prompt(#[from] PromptError),
    /// The model failed.
    #[error("judge `{judge}`: {source}")]
    Model {
        /// The judge's name.
        judge: String,
        /// What it said.
        source: CompleterError,
    },
    /// The model answered a different number of requests than it was asked.
    #[error(
        "judge `{judge}` answered {answered} of {asked} requests; its completer must answer every request, in order"
    )]
    Answers {
        /// The judge's name.
        judge: String,
        /// Requests sent.
        asked: usize,
        /// Completions received.
        answered: usize,
    },
    /// A target without the item passed over cannot be judged.
    #[error("target {index} has no `rejected` item; a judge needs both, so give it one or remove the target")]
    NoRejected {
        /// Which target of the call, from 0.
        index: usize,
    },
}

/// What the judge thinks of one question shown in one order.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct OrderVerdict {
    /// Whether the person's choice was shown first.
    pub chosen_first: bool,
    /// Probability that the judge picks the person's choice; 0.5 where it gave no answer.
    pub p_chosen: f64,
    /// Whether the judge gave no answer.
    pub malformed: bool,
}

/// What the judge thinks of one question.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Probability that the judge picks the person's choice, mean over the orders shown.
    pub p_chosen: f64,
    /// The orders shown (one or two).
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

/// The question whether the person described by `preference` takes what they took at `target`; `None` for a target
/// without a rejected item.
pub fn question(target: &chat::Interaction, preference: &str) -> Option<Question> {
    Some(Question {
        query: target.query.clone(),
        preference: preference.into(),
        chosen: target.chosen.clone(),
        rejected: target.rejected.clone()?,
    })
}

/// A frozen model asked in a fixed way.
pub struct Judge<'a> {
    model: &'a dyn Completer,
    prompts: &'a PromptSet,
    settings: JudgeSettings,
}

impl<'a> Judge<'a> {
    /// A judge that asks `model` with the set's `judge` template.
    ///
    /// # Errors
    /// [`JudgeError::Settings`] for settings that cannot work.
    pub fn new(model: &'a dyn Completer, prompts: &'a PromptSet, settings: JudgeSettings) -> Result<Self, JudgeError> {
        settings.check()?;
        Ok(Self { model, prompts, settings })
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        self.model.name()
    }

    /// How the judge is asked.
    pub fn settings(&self) -> &JudgeSettings {
        &self.settings
    }

    /// One verdict a question, in order. Equal questions are asked once; all go to the model in one call.
    ///
    /// # Errors
    /// [`JudgeError`] if a prompt cannot be made or the model fails. A judge that merely gives no answer is no error:
    /// its verdict is 0.5 and marked as malformed.
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

    /// A verdict for each question, shown with the person's choice first or second.
    fn verdicts(&self, asked: &[(&Question, bool)]) -> Result<Vec<OrderVerdict>, JudgeError> {
        let JudgeSettings { mode, answer_prefix, choices, .. } = &self.settings;
        let requests = asked.iter().map(|&(q, first)| self.request(q, first)).collect::<Result<Vec<_>, _>>()?;
        let completions = self.ask(&requests)?;
        let read = |completion: &Completion| match mode {
            JudgeMode::Forced => answer::forced(completion, choices),
            JudgeMode::Reasoned { .. } => answer::reasoned(completion, answer_prefix, choices),
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

    /// The conversation in which a question is put, for counting tokens and for showing.
    ///
    /// # Errors
    /// [`JudgeError::Prompt`] if the template does not render.
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
        let Orders::One { seed } = self.settings.orders else { return &[true, false] };
        let Question { query, preference, chosen, rejected } = question;
        let draw = Draw::new(seed).text("item order").text(query.as_deref().unwrap_or_default());
        if draw.text(preference).text(chosen).text(rejected).below(2) == 0 { &[true] } else { &[false] }
    }

    fn request(&self, question: &Question, chosen_first: bool) -> Result<CompletionRequest, JudgeError> {
        let messages = self.messages(question, chosen_first)?;
        Ok(match self.settings.mode {
            JudgeMode::Forced => letter_after(messages),
            // Where the letter itself is generated, five alternatives hold the other one.
            JudgeMode::Reasoned { max_new_tokens } => greedy(messages, max_new_tokens, 5),
        })
    }

    /// The question with what the judge wrote on it, and the answer prefix after that.
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

/// Asks for the one token that follows. Twenty alternatives are the most that OpenAI-compatible servers give.
fn letter_after(messages: Vec<Message>) -> CompletionRequest {
    greedy(messages, 1, 20)
}

/// Thinking is off as in AlignXplore+: a judge that reasons does so in the open.
fn greedy(messages: Vec<Message>, max_tokens: usize, top_logprobs: usize) -> CompletionRequest {
    let thinking = Some(false);
    CompletionRequest { top_logprobs, thinking, ..CompletionRequest::new(messages, Sampling::greedy(max_tokens)) }
}
