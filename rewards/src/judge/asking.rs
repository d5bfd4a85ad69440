//! The requests that a judge sends.

use chat::prompts::PromptError;
use chat::{CompletionRequest, Message, PromptSet, Question, Role, Sampling};
use configs::judge::{ItemOrders, JudgeMode};

use super::settings::separated;
use super::{JudgeError, JudgeSettings};
use crate::Draw;

/// Makes requests from queries. It has no model, so several threads can use it.
#[derive(Clone, Copy)]
pub(super) struct Asking<'a> {
    pub prompts: &'a PromptSet,
    pub settings: &'a JudgeSettings,
}

impl Asking<'_> {
    /// Returns the conversation that asks a question, for counting its tokens or displaying it.
    ///
    /// # Errors
    /// Returns [`JudgeError::Prompt`] if the template cannot be rendered.
    pub fn messages(self, question: &Question, chosen_first: bool) -> Result<Vec<Message>, JudgeError> {
        let mut messages = self.unanswered(question, chosen_first)?;
        let (prefix, _) = self.settings.answers();
        if self.settings.mode == JudgeMode::Forced && !prefix.is_empty() {
            messages.push(Message::assistant(prefix));
        }
        Ok(messages)
    }

    /// Returns the conversation that asks a question, without the beginning of an answer.
    fn unanswered(self, question: &Question, chosen_first: bool) -> Result<Vec<Message>, PromptError> {
        let (chosen, rejected) = (question.chosen.as_str(), question.rejected.as_str());
        let (a, b) = if chosen_first { (chosen, rejected) } else { (rejected, chosen) };
        self.prompts.judge(question.query.as_deref(), &question.preference, a, b)
    }

    pub fn orders(self, question: &Question) -> &'static [bool] {
        if self.settings.orders == ItemOrders::Both {
            return &[true, false];
        }
        if self.draw("item order", question).below(2) == 0 { &[true] } else { &[false] }
    }

    /// Returns a draw that depends on the seed and the question only, so that a question that is asked again gets the same one.
    fn draw(self, purpose: &str, question: &Question) -> Draw {
        let Question { query, preference, chosen, rejected } = question;
        let draw = Draw::new(self.settings.seed).text(purpose).text(query.as_deref().unwrap_or_default());
        draw.text(preference).text(chosen).text(rejected)
    }

    pub fn request(self, asked: &JudgePrompt<'_>) -> Result<CompletionRequest, JudgeError> {
        match *asked {
            JudgePrompt::Choice { question, chosen_first } => self.request_of_choice(question, chosen_first),
            JudgePrompt::Answer { messages, choices } => {
                let mut messages = messages.to_vec();
                let opened = messages.last_mut().filter(|last| last.role == Role::Assistant);
                let choices = match opened {
                    Some(last) => {
                        let (prefix, choices) = separated(&last.content, choices);
                        let prefix = prefix.to_owned();
                        last.content = prefix;
                        choices
                    }
                    None => choices.clone(),
                };
                Ok(compare(messages, choices))
            }
            JudgePrompt::Likelihood { messages, text } => {
                let request = without_thinking(messages.to_vec(), Sampling::greedy(1), 1);
                Ok(CompletionRequest { continuation: Some(text.into()), ..request })
            }
        }
    }

    fn request_of_choice(self, question: &Question, chosen_first: bool) -> Result<CompletionRequest, JudgeError> {
        let messages = || self.messages(question, chosen_first);
        match self.settings.mode {
            JudgeMode::Forced => Ok(self.compare_answers(messages()?)),
            // When the letter itself is generated, five alternatives include the other letter.
            JudgeMode::Reasoned => Ok(without_thinking(messages()?, Sampling::greedy(self.settings.max_new_tokens), 5)),
            JudgeMode::Sampled => self.sampled_request(question, chosen_first, 1),
        }
    }

    /// Requests an answer that is sampled as in [`JudgeMode::Sampled`], with `top_logprobs` alternatives of each token.
    pub fn sampled_request(
        self,
        question: &Question,
        chosen_first: bool,
        top_logprobs: usize,
    ) -> Result<CompletionRequest, JudgeError> {
        let messages = self.unanswered(question, chosen_first)?;
        let seed = self.draw("judge's answer", question).with(u64::from(chosen_first)).bits();
        Ok(CompletionRequest { seed, ..without_thinking(messages, self.settings.sampling(), top_logprobs) })
    }

    /// Requests the probabilities of the answers that continue `messages`.
    pub fn compare_answers(self, messages: Vec<Message>) -> CompletionRequest {
        let (_, answers) = self.settings.answers();
        compare(messages, answers)
    }
}

/// A query as it is put to the model.
pub(super) enum JudgePrompt<'q> {
    Choice { question: &'q Question, chosen_first: bool },
    Answer { messages: &'q [Message], choices: &'q [String; 2] },
    Likelihood { messages: &'q [Message], text: &'q str },
}

/// Returns a request without thinking, as in AlignXplore+: a judge that reasons does so in its visible answer.
pub(super) fn without_thinking(messages: Vec<Message>, sampling: Sampling, top_logprobs: usize) -> CompletionRequest {
    CompletionRequest { top_logprobs, thinking: Some(false), ..CompletionRequest::new(messages, sampling) }
}

/// Requests the probabilities of the answers, or, of a completer that does not compare choices, the single next token. 20
/// alternatives are the maximum of OpenAI-compatible servers.
fn compare(messages: Vec<Message>, answers: [String; 2]) -> CompletionRequest {
    CompletionRequest { choices: Some(answers), ..without_thinking(messages, Sampling::greedy(1), 20) }
}
