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
#[derive(Clone, Debug, PartialEq)]
pub struct JudgeSettings {
    /// Answering mode. A judge that reasons decodes greedily. If it gives no answer, it is asked once more as in
    /// [`JudgeMode::Forced`], with the prefix appended to its reasoning.
    pub mode: JudgeMode,
    /// Maximum number of new tokens of a judge that reasons or samples, including the answer.
    pub max_new_tokens: usize,
    /// Sampling temperature of [`JudgeMode::Sampled`]; 0 is greedy decoding.
    pub temperature: f64,
    /// Number of most likely tokens that [`JudgeMode::Sampled`] samples from; 0 keeps all.
    pub top_k: usize,
    /// Nucleus sampling of [`JudgeMode::Sampled`]; 1 keeps all.
    pub top_p: f64,
    /// Order in which the two items are shown. Two orders remove the judge's position bias at twice the cost.
    pub orders: ItemOrders,
    /// Seed of [`ItemOrders::One`] and [`JudgeMode::Sampled`]. Order and sampled answer depend on the seed and the question only.
    pub seed: u64,
    /// Text directly before the answer letter, for example `{"selection": "Item ` or `answer`. A space at its end belongs to the
    /// letter; if it ends in a letter or a digit, a space follows it.
    pub answer_prefix: String,
    /// Letters of the first and the second item shown.
    pub choices: [String; 2],
    /// Probability that stands for a missing answer.
    pub no_answer: f64,
}

impl JudgeSettings {
    /// Returns settings with the letters A and B, 64 new tokens, temperature 1 without truncation, seed 0, and probability 0.5 for
    /// a missing answer.
    pub fn new(mode: JudgeMode, orders: ItemOrders, answer_prefix: impl Into<String>) -> Self {
        Self {
            mode,
            max_new_tokens: 64,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            orders,
            seed: 0,
            answer_prefix: answer_prefix.into(),
            choices: ["A".into(), "B".into()],
            no_answer: 0.5,
        }
    }

    /// Returns the answer prefix without the spaces at its end, and the choices with the spaces that separate them from it.
    fn answers(&self) -> (&str, [String; 2]) {
        let prefix = self.answer_prefix.trim_end();
        let space = match &self.answer_prefix[prefix.len()..] {
            "" if prefix.ends_with(char::is_alphanumeric) => " ",
            space => space,
        };
        (prefix, self.choices.each_ref().map(|choice| format!("{space}{choice}")))
    }

    /// Returns the probability that the judge picks the user's choice, read from its answer as the mode says, or `None` without an
    /// answer. `chosen_first` is whether the user's choice was shown first. In [`JudgeMode::Reasoned`], an answer that the judge was
    /// forced to give after its reasoning is read as in [`JudgeMode::Forced`].
    pub fn read(&self, completion: &Completion, chosen_first: bool) -> Option<f64> {
        let of_chosen = |p: f64| if chosen_first { p } else { 1.0 - p };
        match self.mode {
            JudgeMode::Forced => answer::forced(completion, &self.answers().1).map(of_chosen),
            JudgeMode::Reasoned => answer::reasoned(completion, &self.answer_prefix, &self.choices).map(of_chosen),
            JudgeMode::Sampled => answer::sampled(completion, &self.choices, usize::from(!chosen_first)),
        }
    }

    /// Returns the choice that an answer selects, or `None` without an answer: in [`JudgeMode::Sampled`] the last one that the judge
    /// generated, otherwise the more likely one (`None` if both are equally likely).
    pub fn selection(&self, completion: &Completion) -> Option<&str> {
        let selected = match self.mode {
            JudgeMode::Sampled => answer::last_generated(completion, &self.choices),
            JudgeMode::Forced | JudgeMode::Reasoned => match self.read(completion, true)? {
                p if p > 0.5 => Some(0),
                p if p < 0.5 => Some(1),
                _ => None,
            },
        };
        selected.map(|choice| self.choices[choice].as_str())
    }

    fn sampling(&self) -> Sampling {
        let &Self { temperature, top_k, top_p, max_new_tokens, .. } = self;
        Sampling { temperature, top_k, top_p, ..Sampling::all(max_new_tokens) }
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
        if !(0.0..=1.0).contains(&self.no_answer) {
            return bad("the probability that stands for a missing answer must be from 0 to 1");
        }
        if self.sampling().check().is_err() {
            return bad("temperature must be 0 or more, and top_p above 0, at most 1");
        }
        match self.mode {
            JudgeMode::Reasoned if self.answer_prefix.trim().is_empty() => {
                bad("a reasoning judge needs a non-empty answer prefix, which locates its answer")
            }
            JudgeMode::Reasoned | JudgeMode::Sampled if self.max_new_tokens == 0 => {
                bad("a judge that reasons or samples needs at least one new token")
            }
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
    /// Probability that the judge picks the user's choice; [`JudgeSettings::no_answer`] if the judge gave no answer.
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
    /// Returns the verdict of a judge that shows no items, such as a function of the text.
    pub fn new(p_chosen: f64) -> Self {
        Self { p_chosen, orders: Vec::new(), malformed: false }
    }

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
    /// [`JudgeSettings::no_answer`] and is marked as malformed.
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
        let requests = asked.iter().map(|&(q, first)| self.request(q, first)).collect::<Result<Vec<_>, _>>()?;
        let of_chosen = |(p_first, &(_, first)): (Option<f64>, &(&Question, bool))| {
            p_first.map(|p| if first { p } else { 1.0 - p })
        };
        let p_chosen: Vec<Option<f64>> = if self.settings.mode == JudgeMode::Forced {
            self.forced_answers(&requests)?.into_iter().zip(asked).map(of_chosen).collect()
        } else {
            let completions = self.ask(&requests)?;
            let read = |(c, &(_, first)): (&Completion, &(&Question, bool))| self.settings.read(c, first);
            let mut p_chosen: Vec<Option<f64>> = completions.iter().zip(asked).map(read).collect();
            if self.settings.mode == JudgeMode::Reasoned {
                let silent: Vec<usize> = (0..p_chosen.len()).filter(|&i| p_chosen[i].is_none()).collect();
                let forced = |&i: &usize| self.forced(requests[i].messages.clone(), &completions[i].text);
                let forced: Vec<_> = silent.iter().map(forced).collect();
                for (&i, p_first) in silent.iter().zip(self.forced_answers(&forced)?) {
                    p_chosen[i] = of_chosen((p_first, &asked[i]));
                }
            }
            p_chosen
        };
        let verdict = |(&(_, chosen_first), p): (&(&Question, bool), Option<f64>)| {
            let p_chosen = p.unwrap_or(self.settings.no_answer);
            OrderVerdict { chosen_first, p_chosen, malformed: p.is_none() }
        };
        Ok(asked.iter().zip(p_chosen).map(verdict).collect())
    }

    /// Returns the probability of the first answer after the prefix that ends each conversation.
    ///
    /// A completer without the tokenizer ignores [`CompletionRequest::choices`]. If its next token is the space before the answer,
    /// it is asked again after that space.
    fn forced_answers(&self, requests: &[CompletionRequest]) -> Result<Vec<Option<f64>>, JudgeError> {
        let (_, answers) = self.settings.answers();
        let completions = self.ask(requests)?;
        let mut p_first: Vec<Option<f64>> = completions.iter().map(|c| answer::forced(c, &answers)).collect();
        let space = answers[0].strip_suffix(&self.settings.choices[0]).unwrap_or_default();
        let goes_on = |&i: &usize| completions[i].tokens.first().is_some_and(|t| !space.is_empty() && t.text == space);
        let members: Vec<usize> = (0..requests.len()).filter(goes_on).collect();
        let after_space = |&i: &usize| {
            let mut messages = requests[i].messages.clone();
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
        let (chosen, rejected) = (question.chosen.as_str(), question.rejected.as_str());
        let (a, b) = if chosen_first { (chosen, rejected) } else { (rejected, chosen) };
        let mut messages = self.prompts.judge(question.query.as_deref(), &question.preference, a, b)?;
        let (prefix, _) = self.settings.answers();
        if self.settings.mode == JudgeMode::Forced && !prefix.is_empty() {
            messages.push(Message::assistant(prefix));
        }
        Ok(messages)
    }

    fn orders(&self, question: &Question) -> &'static [bool] {
        if self.settings.orders == ItemOrders::Both {
            return &[true, false];
        }
        if self.draw("item order", question).below(2) == 0 { &[true] } else { &[false] }
    }

    /// Returns a draw that depends on the seed and the question only, so that a question that is asked again gets the same one.
    fn draw(&self, purpose: &str, question: &Question) -> Draw {
        let Question { query, preference, chosen, rejected } = question;
        let draw = Draw::new(self.settings.seed).text(purpose).text(query.as_deref().unwrap_or_default());
        draw.text(preference).text(chosen).text(rejected)
    }

    fn request(&self, question: &Question, chosen_first: bool) -> Result<CompletionRequest, JudgeError> {
        let messages = self.messages(question, chosen_first)?;
        Ok(match self.settings.mode {
            JudgeMode::Forced => self.compare_answers(messages),
            // When the letter itself is generated, five alternatives include the other letter.
            JudgeMode::Reasoned => without_thinking(messages, Sampling::greedy(self.settings.max_new_tokens), 5),
            JudgeMode::Sampled => {
                let seed = self.draw("judge's answer", question).with(u64::from(chosen_first)).bits();
                CompletionRequest { seed, ..without_thinking(messages, self.settings.sampling(), 1) }
            }
        })
    }

    /// Appends the judge's reasoning and the answer prefix to the question.
    fn forced(&self, mut messages: Vec<Message>, written: &str) -> CompletionRequest {
        let separator = if written.is_empty() || written.ends_with(char::is_whitespace) { "" } else { " " };
        let (prefix, _) = self.settings.answers();
        messages.push(Message::assistant(format!("{written}{separator}{prefix}")));
        self.compare_answers(messages)
    }

    /// Requests the probabilities of the answers, or, of a completer that does not compare choices, the single next token. 20
    /// alternatives are the maximum of OpenAI-compatible servers.
    fn compare_answers(&self, messages: Vec<Message>) -> CompletionRequest {
        let (_, answers) = self.settings.answers();
        CompletionRequest { choices: Some(answers), ..without_thinking(messages, Sampling::greedy(1), 20) }
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

/// Returns a request without thinking, as in AlignXplore+: a judge that reasons does so in its visible answer.
fn without_thinking(messages: Vec<Message>, sampling: Sampling, top_logprobs: usize) -> CompletionRequest {
    CompletionRequest { top_logprobs, thinking: Some(false), ..CompletionRequest::new(messages, sampling) }
}
