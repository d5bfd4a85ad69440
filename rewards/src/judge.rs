//! The judge: a frozen language model that predicts a user's choice between two items, given a summary.

mod asking;
mod choice;
mod settings;
mod verdict;

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use chat::completer::CompleterError;
use chat::prompts::PromptError;
use chat::{Completer, Completion, CompletionRequest, Message, PromptSet, Question, Sampling};
use configs::judge::JudgeMode;
use rayon::prelude::*;

use self::asking::{Asking, JudgePrompt, without_thinking};
pub use self::settings::JudgeSettings;
pub use self::verdict::{OrderVerdict, Verdict};
use crate::answer;
use crate::query::JudgeQuery;

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
        /// Index among the targets of its response, from 0.
        index: usize,
    },
    /// No judge has this name.
    #[error("no judge is named `{name}`; the judges of this run: {}; add one under [[judges]] or correct the name", known.join(", "))]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// The judges of the run.
        known: Vec<String>,
    },
    /// No judge of the panel serves the task.
    #[error(
        "no judge of the panel serves {}; add the task to `tasks` of a judge, or leave `tasks` of a judge with a weight above 0 empty",
        served(task.as_deref())
    )]
    NoJudge {
        /// The task of the choice.
        task: Option<String>,
    },
    /// The verdict cache cannot be used.
    #[error("{path}: {message}")]
    Cache {
        /// The file or folder.
        path: String,
        /// What failed, and the fix.
        message: String,
    },
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
    /// Same as [`Self::answer`].
    pub fn score(&self, questions: &[Question]) -> Result<Vec<Verdict>, JudgeError> {
        self.answer(&questions.iter().cloned().map(JudgeQuery::Choice).collect::<Vec<_>>())
    }

    /// Returns one verdict per query, in order. Equal queries are asked once. All requests go to the model in one call.
    ///
    /// # Errors
    /// Returns a [`JudgeError`] if a prompt cannot be rendered or the model fails, as a model at an endpoint does when asked for a
    /// likelihood. A missing answer is not an error: its verdict is [`JudgeSettings::no_answer`] and is marked as malformed.
    pub fn answer<Q: Borrow<JudgeQuery>>(&self, queries: &[Q]) -> Result<Vec<Verdict>, JudgeError> {
        let queries: Vec<&JudgeQuery> = queries.iter().map(Borrow::borrow).collect();
        let asking = self.asking();
        let mut ranges = HashMap::new();
        let mut asked: Vec<JudgePrompt<'_>> = Vec::new();
        for &query in &queries {
            if let Entry::Vacant(range) = ranges.entry(query) {
                let start = asked.len();
                match query {
                    JudgeQuery::Choice(question) => {
                        let shown = |&chosen_first: &bool| JudgePrompt::Choice { question, chosen_first };
                        asked.extend(asking.orders(question).iter().map(shown));
                    }
                    JudgeQuery::Answer { messages, choices } => asked.push(JudgePrompt::Answer { messages, choices }),
                    JudgeQuery::Likelihood { messages, text } => asked.push(JudgePrompt::Likelihood { messages, text }),
                }
                range.insert(start..asked.len());
            }
        }
        let read = self.read(&asked)?;
        let no_answer = self.settings.no_answer;
        let verdict = |query: &JudgeQuery| {
            let range = ranges[query].clone();
            let orders =
                asked[range.clone()].iter().zip(&read[range.clone()]).filter_map(|(asked, read)| match asked {
                    JudgePrompt::Choice { chosen_first, .. } => Some(OrderVerdict {
                        chosen_first: *chosen_first,
                        p_chosen: read.p.unwrap_or(no_answer),
                        malformed: read.p.is_none(),
                    }),
                    JudgePrompt::Answer { .. } | JudgePrompt::Likelihood { .. } => None,
                });
            match query {
                JudgeQuery::Choice(_) => Verdict::over(orders.collect()),
                JudgeQuery::Answer { .. } | JudgeQuery::Likelihood { .. } => {
                    let ParsedAnswer { p, tokens } = read[range.start];
                    Verdict { malformed: p.is_none(), tokens, ..Verdict::new(p.unwrap_or(no_answer)) }
                }
            }
        };
        Ok(queries.into_iter().map(verdict).collect())
    }

    /// Asks the model, and reads its answers.
    fn read(&self, asked: &[JudgePrompt<'_>]) -> Result<Vec<ParsedAnswer>, JudgeError> {
        let asking = self.asking();
        let requests = asked.par_iter().map(|asked| asking.request(asked)).collect::<Result<Vec<_>, _>>()?;
        let completions = self.ask(&requests)?;
        let forces = self.settings.mode == JudgeMode::Forced;
        let read = |(asked, (request, completion)): (&JudgePrompt<'_>, (&CompletionRequest, &Completion))| match asked {
            // `forced_answers` reads these below.
            JudgePrompt::Choice { .. } if forces => ParsedAnswer { p: None, tokens: 0 },
            JudgePrompt::Choice { chosen_first, .. } => {
                ParsedAnswer { p: self.settings.read(completion, *chosen_first), tokens: 0 }
            }
            JudgePrompt::Answer { .. } => {
                let p = request.choices.as_ref().and_then(|texts| answer::in_any_case(completion, texts));
                ParsedAnswer { p, tokens: 0 }
            }
            JudgePrompt::Likelihood { .. } => {
                let (sum, tokens) = completion
                    .tokens
                    .iter()
                    .fold((0.0_f64, 0_usize), |(sum, n), t| (sum + f64::from(t.logprob), n + 1));
                ParsedAnswer { p: (tokens > 0).then(|| (sum / tokens as f64).exp()), tokens }
            }
        };
        let mut found: Vec<ParsedAnswer> = asked.iter().zip(requests.iter().zip(&completions)).map(read).collect();
        if forces {
            let is_choice = |&i: &usize| matches!(asked[i], JudgePrompt::Choice { .. });
            let choices: Vec<usize> = (0..found.len()).filter(is_choice).collect();
            let answered: Vec<_> = choices.iter().map(|&i| (&requests[i], &completions[i])).collect();
            for (&i, p_first) in choices.iter().zip(self.forced_answers(&answered)?) {
                found[i].p = of_chosen(&asked[i], p_first);
            }
        }
        if self.settings.mode == JudgeMode::Reasoned {
            let silent = |&i: &usize| found[i].p.is_none() && matches!(asked[i], JudgePrompt::Choice { .. });
            let silent: Vec<usize> = (0..found.len()).filter(silent).collect();
            let forced = |&i: &usize| self.forced(requests[i].messages.clone(), &completions[i].text);
            let forced: Vec<_> = silent.iter().map(forced).collect();
            let completions = self.ask(&forced)?;
            let answered: Vec<_> = forced.iter().zip(&completions).collect();
            for (&i, p_first) in silent.iter().zip(self.forced_answers(&answered)?) {
                found[i].p = of_chosen(&asked[i], p_first);
            }
        }
        Ok(found)
    }

    /// Returns the probability of the first answer after the prefix that ends each conversation.
    ///
    /// A completer without the tokenizer ignores [`CompletionRequest::choices`]. If its next token is the space before the answer,
    /// it is asked again after that space.
    fn forced_answers(&self, answered: &[(&CompletionRequest, &Completion)]) -> Result<Vec<Option<f64>>, JudgeError> {
        let (_, answers) = self.settings.answers();
        let mut p_first: Vec<Option<f64>> = answered.iter().map(|(_, c)| answer::forced(c, &answers)).collect();
        let space = answers[0].strip_suffix(&self.settings.choices[0]).unwrap_or_default();
        let goes_on = |&i: &usize| answered[i].1.tokens.first().is_some_and(|t| !space.is_empty() && t.text == space);
        let members: Vec<usize> = (0..answered.len()).filter(goes_on).collect();
        let after_space = |&i: &usize| {
            let mut messages = answered[i].0.messages.clone();
            if let Some(prefix) = messages.last_mut() {
                prefix.content.push_str(space);
            }
            without_thinking(messages, Sampling::greedy(1), 20)
        };
        let again: Vec<_> = members.iter().map(after_space).collect();
        for (&i, completion) in members.iter().zip(self.ask(&again)?) {
            p_first[i] = answer::forced(&completion, &self.settings.choices);
        }
        Ok(p_first)
    }

    /// Returns the conversation that asks a question, for counting its tokens or displaying it.
    ///
    /// # Errors
    /// Returns [`JudgeError::Prompt`] if the template cannot be rendered.
    pub fn messages(&self, question: &Question, chosen_first: bool) -> Result<Vec<Message>, JudgeError> {
        self.asking().messages(question, chosen_first)
    }

    fn asking(&self) -> Asking<'_> {
        Asking { prompts: self.prompts, settings: &self.settings }
    }

    /// Appends the judge's reasoning and the answer prefix to the question.
    fn forced(&self, mut messages: Vec<Message>, written: &str) -> CompletionRequest {
        let separator = if written.is_empty() || written.ends_with(char::is_whitespace) { "" } else { " " };
        let (prefix, _) = self.settings.answers();
        messages.push(Message::assistant(format!("{written}{separator}{prefix}")));
        self.asking().compare_answers(messages)
    }

    fn ask(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, JudgeError> {
        self.answered(requests, |requests| self.model.complete(requests))
    }

    /// Returns what `send` answers, one for each request.
    fn answered<T>(
        &self,
        requests: &[CompletionRequest],
        send: impl FnOnce(&[CompletionRequest]) -> Result<Vec<T>, CompleterError>,
    ) -> Result<Vec<T>, JudgeError> {
        let judge = || self.name().to_owned();
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let answers = send(requests).map_err(|source| JudgeError::Model { judge: judge(), source })?;
        if answers.len() != requests.len() {
            return Err(JudgeError::Answers { judge: judge(), asked: requests.len(), answered: answers.len() });
        }
        Ok(answers)
    }
}

fn served(task: Option<&str>) -> String {
    task.map_or_else(|| "choices without a task".into(), |task| format!("the task `{task}`"))
}

/// Returns the probability of the user's choice, given that of the first item shown.
fn of_chosen(asked: &JudgePrompt<'_>, p_first: Option<f64>) -> Option<f64> {
    let chosen_first = matches!(asked, JudgePrompt::Choice { chosen_first: true, .. });
    p_first.map(|p| if chosen_first { p } else { 1.0 - p })
}

/// What was read from an answer of the model.
#[derive(Clone, Copy)]
struct ParsedAnswer {
    /// The probability; `None` without an answer.
    p: Option<f64>,
    /// Number of scored tokens.
    tokens: usize,
}
