//! Settings of a judge, and how its answers are read.

use chat::{Completion, Sampling};
use configs::judge::{ItemOrders, JudgeMode};
use serde::Serialize;

use super::JudgeError;
use crate::answer;

/// Settings of a judge.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
    pub(super) fn answers(&self) -> (&str, [String; 2]) {
        separated(&self.answer_prefix, &self.choices)
    }

    /// Returns the settings with those that have no effect in this mode set to 0, so that settings with the same answers are equal.
    pub(crate) fn effective(&self) -> Self {
        let mut settings = self.clone();
        if self.mode != JudgeMode::Sampled {
            (settings.temperature, settings.top_k, settings.top_p) = (0.0, 0, 0.0);
            if self.orders == ItemOrders::Both {
                settings.seed = 0;
            }
        }
        if self.mode == JudgeMode::Forced {
            settings.max_new_tokens = 0;
        }
        settings
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

    pub(super) fn sampling(&self) -> Sampling {
        let &Self { temperature, top_k, top_p, max_new_tokens, .. } = self;
        Sampling { temperature, top_k, top_p, ..Sampling::all(max_new_tokens) }
    }

    pub(super) fn check(&self) -> Result<(), JudgeError> {
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

/// Returns `prefix` without the spaces at its end, and `choices` with the spaces that separate them from it: those at its end, or
/// one if it ends in a letter or a digit.
pub(super) fn separated<'p>(prefix: &'p str, choices: &[String; 2]) -> (&'p str, [String; 2]) {
    let trimmed = prefix.trim_end();
    let space = match &prefix[trimmed.len()..] {
        "" if trimmed.ends_with(char::is_alphanumeric) => " ",
        space => space,
    };
    (trimmed, choices.each_ref().map(|choice| format!("{space}{choice}")))
}
