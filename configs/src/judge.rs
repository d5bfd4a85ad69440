//! The judges: frozen models that predict which of two items a user would choose.

mod panel;

use serde::{Deserialize, Serialize};

pub(crate) use self::panel::{DEFAULT_PANEL_TEMPERATURE, PanelCheck};
pub use self::panel::{JudgePrices, PanelRule, RlJudge, serves};
use crate::check::{CheckResult, Defect, Under, at_least, ensure, fraction, not_negative};
use crate::endpoint::EndpointConfig;
use crate::model::ModelSource;
use crate::sampling::check_top_p;

/// How the judge's answer is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JudgeMode {
    /// One forward pass, which reads the probabilities of the two answers after the forced `answer_prefix`. The tokens compared are
    /// those that the judge's tokenizer gives for the whole answer, so a space at the end of the prefix belongs to the answer's
    /// token if the tokenizer merges them.
    #[default]
    Forced,
    /// The judge first writes at most `max_new_tokens` tokens of evidence by greedy decoding, up to `answer_prefix`; then the
    /// answer is read as in `forced`. If the judge writes no answer, the prefix is appended to its output.
    Reasoned,
    /// The judge generates freely, at most `max_new_tokens` tokens, as published. The score is the probability of the last token
    /// that is the right answer; if there is none, 1 − the probability of the last token that is the wrong answer.
    Sampled,
}

/// The order in which the two items are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ItemOrders {
    /// Both orders. The score is their mean, which has no position bias.
    Both,
    /// One order, sampled with the run's seed, as published.
    One,
}

/// Where the weights of a judge in this process are kept while nothing is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JudgePlacement {
    /// On the judge's device.
    #[default]
    Resident,
    /// In host memory (pinned if the device is a GPU). The weights move to the device to judge.
    Offload,
}

/// Configuration of a judge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JudgeConfig {
    /// The judge's model, in this process. Published: Qwen3-8B, thinking off. Set either this or `endpoint`.
    pub model: ModelSource,
    /// The judge's model, served by another process. Default: not set.
    pub endpoint: EndpointConfig,
    /// Where the weights of `model` are kept between judgments. Default: resident.
    pub placement: JudgePlacement,
    /// How the answer is read. Default: forced.
    pub mode: JudgeMode,
    /// Maximum length of the evidence, or of the sampled answer, in tokens; `forced` does not use it. Default: 64. Published: 16.
    pub max_new_tokens: usize,
    /// Sampling temperature of `sampled`; 0 is greedy decoding. Default: not set, which leaves it to the server of an endpoint, as
    /// published; a model in this process then samples at 1.
    pub temperature: Option<f64>,
    /// Number of most likely tokens that `sampled` samples from; 0 keeps all. Default: not set, which leaves it to the server of an
    /// endpoint; a model in this process then keeps all.
    pub top_k: Option<usize>,
    /// Nucleus sampling of `sampled`: keep the smallest set of tokens whose probabilities sum to at least this value; 1 keeps all.
    /// Default: not set, which leaves it to the server of an endpoint; a model in this process then keeps all.
    pub top_p: Option<f64>,
    /// The score of a question to which the judge gave no answer, from 0 to 1. Default: 0.5, which chance would give. Published: 0.
    pub no_answer: f64,
    /// The order in which the items are shown. Default: both. Published: one.
    pub orders: ItemOrders,
    /// The text right before the answer. `forced` prefills it in the judge's turn (if empty, the answer is the judge's first
    /// token); `reasoned` searches for it; `sampled` does not use it, except that `teach.verify = "answer"` takes the field and the
    /// name of an item from it. If it ends in a letter or a digit, a space separates it from the answer. Default:
    /// `{"selection": "Item `, the published answer format; the small judges of the quickstart use `answer`.
    pub answer_prefix: String,
    /// The answers for the first and the second item, without surrounding spaces, because tokens are compared without theirs.
    /// Default: ["A", "B"].
    pub choices: [String; 2],
    /// Prompt set: a built-in name or a folder. Empty (the default): the set that `model` carries if it has a judge template,
    /// otherwise plain. What a model behind `endpoint` carries is not known, so name its set.
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
            temperature: None,
            top_k: None,
            top_p: None,
            no_answer: 0.5,
            orders: ItemOrders::Both,
            answer_prefix: "{\"selection\": \"Item ".into(),
            choices: ["A".into(), "B".into()],
            prompts: String::new(),
        }
    }
}

impl JudgeConfig {
    pub(crate) fn check(&self) -> CheckResult {
        if self.endpoint.is_given() {
            let path = &self.model.path;
            let expected = "no path with endpoint.url: a judge runs either in this process or at an endpoint";
            ensure(path.is_empty(), "model.path", format!("`{path}`"), expected)?;
            self.endpoint.check().under("endpoint")?;
        } else {
            self.model.check().under("model")?;
        }
        self.check_question()
    }

    /// Checks everything but the model, which some runs train themselves.
    pub(crate) fn check_question(&self) -> CheckResult {
        if self.mode != JudgeMode::Forced {
            at_least("max_new_tokens", self.max_new_tokens, 1)?;
        }
        self.temperature.map_or(Ok(()), |temperature| not_negative("temperature", temperature))?;
        self.top_p.map_or(Ok(()), check_top_p)?;
        fraction("no_answer", self.no_answer)?;
        if self.mode == JudgeMode::Reasoned {
            let something = !self.answer_prefix.trim().is_empty();
            ensure(something, "answer_prefix", "empty", "the text that precedes the answer in a reasoned judgment")?;
        }
        let [first, second] = &self.choices;
        let usable = |choice: &String| !choice.is_empty() && choice.trim() == choice;
        if first == second || !usable(first) || !usable(second) {
            let found = format!("[\"{first}\", \"{second}\"]");
            let expected = "two different non-empty strings without leading or trailing spaces";
            return Err(Defect::new("choices", format!("is {found}; expected {expected}")));
        }
        Ok(())
    }
}
