//! The judge: a frozen model that says which of two items a person would take.

use serde::{Deserialize, Serialize};

use crate::check::{Defect, Under, Verdict, at_least, ensure, given};
use crate::endpoint::EndpointConfig;
use crate::model::ModelSource;

/// How the judge's answer is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JudgeMode {
    /// One forward pass: the probabilities of the two answers right after the forced `answer_prefix`.
    #[default]
    Forced,
    /// The judge first writes at most `max_new_tokens` greedy tokens of evidence, up to `answer_prefix`; then as
    /// `forced`. Where it comes to no answer, the prefix is put after what it wrote.
    Reasoned,
}

/// In which order the two items are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ItemOrders {
    /// In both orders; the score is the mean, free of position bias.
    Both,
    /// In one order, drawn at random from the run's seed, as published.
    One,
}

/// Where the weights of a judge in this process are while nothing is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JudgePlacement {
    /// On its device.
    #[default]
    Resident,
    /// In the host's memory (pinned, where the device is a GPU): they come to the device to judge.
    Offload,
}

/// A judge and how it is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JudgeConfig {
    /// The judge's model, in this process. Published: Qwen3-8B, thinking off. Either this or `endpoint`.
    pub model: ModelSource,
    /// The judge's model, served by somebody else. Default: not given.
    pub endpoint: EndpointConfig,
    /// Where `model` is between judgements. Default: resident.
    pub placement: JudgePlacement,
    /// How the answer is read. Default: forced.
    pub mode: JudgeMode,
    /// Longest evidence in tokens; read by `reasoned` only. Default: 64.
    pub max_new_tokens: usize,
    /// In which order the items are shown. Default: both. Published: one.
    pub orders: ItemOrders,
    /// The text right before the answer. `forced` puts it into the judge's mouth (empty: the answer is the judge's first
    /// token); `reasoned` looks for it. Default: `{"selection": "Item `, the published answer format; the small judges
    /// of the quickstart say `answer`.
    pub answer_prefix: String,
    /// The answers for the first and the second item, without spaces around them, as tokens are compared without theirs.
    /// Default: ["A", "B"].
    pub choices: [String; 2],
    /// Prompt set, built in or a folder. Default: plain.
    pub prompts: String,
}

impl Default for JudgeConfig {
    fn default() -> Self {
        Self {
            model: ModelSource::default(),
            endpoint: EndpointConfig::default(),
            placement: JudgePlacement::default(),
            mode: JudgeMode::default(),
            max_new_tokens: 64,
            orders: ItemOrders::Both,
            answer_prefix: "{\"selection\": \"Item ".into(),
            choices: ["A".into(), "B".into()],
            prompts: crate::prompts::DEFAULT.into(),
        }
    }
}

impl JudgeConfig {
    pub(crate) fn check(&self) -> Verdict {
        if self.endpoint.is_given() {
            let path = &self.model.path;
            let expected = "nothing beside endpoint.url: a judge is either in this process or behind an endpoint";
            ensure(path.is_empty(), "model.path", format!("`{path}`"), expected)?;
            self.endpoint.check().under("endpoint")?;
        } else {
            self.model.check().under("model")?;
        }
        self.check_question()
    }

    /// Everything but the model, which some runs train themselves.
    pub(crate) fn check_question(&self) -> Verdict {
        if self.mode == JudgeMode::Reasoned {
            at_least("max_new_tokens", self.max_new_tokens, 1)?;
            let something = !self.answer_prefix.trim().is_empty();
            ensure(something, "answer_prefix", "empty", "the text after which a reasoned answer is looked for")?;
        }
        let [first, second] = &self.choices;
        let usable = |choice: &String| !choice.is_empty() && choice.trim() == choice;
        if first == second || !usable(first) || !usable(second) {
            let found = format!("[\"{first}\", \"{second}\"]");
            let expected = "two different answers, not empty, without spaces around them";
            return Err(Defect::new("choices", format!("is {found}; expected {expected}")));
        }
        given(!self.prompts.is_empty(), "prompts", crate::prompts::EXPECTED)
    }
}
