//! The models that `signal` and `prune` ask: the verifier, and the policy whose pass rates are measured.
//!
//! Their answers are kept in journals in the folder of the step, so a step that was killed asks only for what has no answer yet. An
//! interrupt ends the step between two small batches of questions.

use std::path::PathBuf;
use std::rc::Rc;

use chat::tokenizer::Tokenizer;
use chat::{Completer, Message, PromptSet, Question};
use configs::judge::{ItemOrders, JudgeMode, JudgePlacement};
use configs::{JudgeConfig, ModelSource, SynthStep};
use data_synth::signal::Verify;
use lm::pretrained::{self, Located};
use lm::{LmError, ModelConfig};
use rewards::{Judge, JudgeSettings};

use super::models::INTERRUPTED;
use super::{StepContext, models, teach};
use crate::error::Error;
use crate::{parts, runtime, wording};

/// The number of questions after which a step looks whether a stop was requested.
const QUESTIONS_PER_CALL: usize = 256;

/// The number of tokens that a question has besides its prompt, such as those of the answer.
const TOKENS_OF_AN_ANSWER: usize = 16;

/// A model that several callers share.
type SharedModel = Rc<dyn Completer>;

/// The judge that answers questions about choices, with its prompts and settings.
pub(super) struct Verifier {
    model: SharedModel,
    /// The prompt set with the judge template.
    pub prompts: PromptSet,
    settings: JudgeSettings,
    /// `None` for a model at an endpoint, whose context is not known.
    room: Option<Room>,
}

impl Verifier {
    /// Loads the model of the verifier for a step, or connects to its endpoint, with the journal of the step. In the step `signal` it
    /// sees the items in both orders.
    ///
    /// # Errors
    /// Returns an error if the model cannot be loaded, the API key of the endpoint is missing, the journal cannot be read, or the prompt
    /// set does not exist.
    pub fn load(context: &StepContext<'_>, step: SynthStep) -> Result<Self, Error> {
        Self::beside(None, context, step)
    }

    /// Loads the verifier like [`Self::load`]. If `loaded` is the same model in this process, they share its weights.
    fn beside(
        loaded: Option<(&SharedModel, &ModelSource)>,
        context: &StepContext<'_>,
        step: SynthStep,
    ) -> Result<Self, Error> {
        let (mut config, file) = (context.config.verifier.clone(), journal(context, step, "verifier"));
        let served = config.endpoint.is_given();
        if served && config.endpoint.journal.as_os_str().is_empty() {
            config.endpoint.journal.clone_from(&file);
        }
        let resident = !served && config.placement == JudgePlacement::Resident;
        let model: SharedModel = match loaded.filter(|(_, source)| resident && **source == config.model) {
            Some((model, _)) => Rc::clone(model),
            None => Rc::from(models::completer(&config)?),
        };
        let model = if served { model } else { teach::journaled(model, &config.model, &file)? };
        let written = if config.mode == JudgeMode::Forced { 0 } else { config.max_new_tokens };
        let room = if served { None } else { Some(Room::of(&config.model, written, Some(false))?) };
        let mut settings = parts::judge_settings(&config, context.config.seed);
        if step == SynthStep::Signal {
            // An order that is drawn for each question would add the judge's position bias to the difference of two answers.
            settings.orders = ItemOrders::Both;
        }
        Ok(Self { model, prompts: wording::of_judge(&config)?, settings, room })
    }

    /// Returns the judge.
    ///
    /// # Errors
    /// Returns an error if the settings are not valid.
    pub fn judge(&self) -> Result<Judge<'_>, Error> {
        Ok(Judge::new(&*self.model, &self.prompts, self.settings.clone())?)
    }

    /// Returns whether a question fits into the context of the model, as far as it is known. A question that cannot be put into words
    /// counts as one that fits: asking it tells why.
    pub fn fits(&self, judge: &Judge<'_>, question: &Question) -> bool {
        let Some(room) = &self.room else { return true };
        [true, false].into_iter().all(|first| judge.messages(question, first).map_or(true, |asked| room.fits(&asked)))
    }
}

/// The policy whose pass rates are measured.
pub(super) struct Policy {
    /// The model, in this process.
    pub model: SharedModel,
    /// The room for its prompts.
    pub room: Room,
}

/// Loads policy and verifier of the step `prune` with their journals. If they are the same model in this process, they share its
/// weights.
///
/// # Errors
/// Same as [`Verifier::load`].
pub(super) fn with_policy(context: &StepContext<'_>) -> Result<(Policy, Verifier), Error> {
    let (step, config) = (SynthStep::Prune, &context.config.prune.policy);
    let source = &config.model;
    let loaded: SharedModel =
        Rc::from(models::completer(&JudgeConfig { model: source.clone(), ..JudgeConfig::default() })?);
    let verifier = Verifier::beside(Some((&loaded, source)), context, step)?;
    let model = teach::journaled(loaded, source, &journal(context, step, "policy"))?;
    Ok((Policy { model, room: Room::of(source, config.sampling.max_new_tokens, None)? }, verifier))
}

/// Returns the journal of a model in the folder of a step.
fn journal(context: &StepContext<'_>, step: SynthStep, role: &str) -> PathBuf {
    context.of(step).join("journal").join(format!("{role}.jsonl"))
}

/// The room for a prompt in the context of a model in this process.
pub(super) struct Room {
    tokenizer: Tokenizer,
    tokens: usize,
    thinking: Option<bool>,
}

impl Room {
    /// Returns the room beside `max_new_tokens` tokens of an answer, for which at most half of the context is set aside.
    fn of(source: &ModelSource, max_new_tokens: usize, thinking: Option<bool>) -> Result<Self, Error> {
        let Located { folder, adapter } = pretrained::locate(&source.path)?;
        let own = adapter.filter(|adapter| adapter.join("tokenizer.json").is_file());
        let context = ModelConfig::load(&folder)?.context();
        let tokenizer = Tokenizer::load(own.as_ref().unwrap_or(&folder)).map_err(LmError::from)?;
        let answer = (max_new_tokens + TOKENS_OF_AN_ANSWER).min(context / 2);
        Ok(Self { tokenizer, tokens: context - answer, thinking })
    }

    /// Returns whether a conversation fits. One that the chat template refuses counts as one that fits: asking it tells why.
    pub fn fits(&self, messages: &[Message]) -> bool {
        let Ok(opening) = self.tokenizer.template().open(messages, self.thinking) else { return true };
        self.tokenizer.encode(&opening).map_or(true, |ids| ids.len() <= self.tokens)
    }
}

/// Returns the judge as a function from questions to the probability of the item that the user chose. It fails once a stop was
/// requested, after the questions that were asked together.
pub(super) fn probabilities<'a>(judge: &'a Judge<'a>) -> impl Fn(&[Question]) -> Result<Vec<f64>, String> + 'a {
    let ask = models::probabilities(judge);
    move |questions: &[Question]| in_parts(questions, &runtime::stop_requested, &ask)
}

fn in_parts(questions: &[Question], stop: &dyn Fn() -> bool, ask: Verify<'_>) -> Result<Vec<f64>, String> {
    let mut found = Vec::with_capacity(questions.len());
    for part in questions.chunks(QUESTIONS_PER_CALL) {
        if stop() {
            return Err(INTERRUPTED.into());
        }
        found.extend(ask(part)?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_stop_ends_the_questions_between_two_parts() {
        let question = |i: usize| Question {
            query: None,
            preference: String::new(),
            chosen: i.to_string(),
            rejected: "other".into(),
        };
        let questions: Vec<Question> = (0..600).map(question).collect();
        let asked = Cell::new(0);
        let ask = |part: &[Question]| {
            asked.set(asked.get() + part.len());
            Ok(part.iter().map(|question| question.chosen.parse::<f64>().unwrap()).collect::<Vec<f64>>())
        };
        let all = in_parts(&questions, &|| false, &ask).unwrap();
        assert_eq!(all, (0..600).map(f64::from).collect::<Vec<f64>>());
        asked.set(0);
        let error = in_parts(&questions, &|| asked.get() > 0, &ask).unwrap_err();
        assert_eq!((error.as_str(), asked.get()), (INTERRUPTED, QUESTIONS_PER_CALL));
    }

    #[test]
    fn the_room_is_that_of_the_context_less_the_answer() {
        let place = fixtures::policy::model_and_rows();
        let source = ModelSource { path: place.path().join("model").display().to_string(), ..ModelSource::default() };
        let context = ModelConfig::load(&place.path().join("model")).unwrap().context();
        let room = |new_tokens| Room::of(&source, new_tokens, None).unwrap();
        assert_eq!(room(0).tokens, context - TOKENS_OF_AN_ANSWER);
        assert_eq!(room(4).tokens, context - TOKENS_OF_AN_ANSWER - 4);
        assert_eq!(room(1 << 20).tokens, context - context / 2);
        let words = |count: usize| [Message::user("boats ".repeat(count))];
        assert!(room(0).fits(&words(1)) && !room(0).fits(&words(2 * context)));
    }
}
