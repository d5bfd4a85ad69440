//! The reward of a summary.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::Table;

use super::composing::{Normalization, WeightSchedule};
use super::external::OnFailure;
use crate::check::{CheckResult, Defect, Under, at_least, ensure, fraction, given, not_negative};

/// Which responses are well-formed. Malformed ones are not judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FormatGate {
    /// Exactly one `<think>…</think>`, nothing but whitespace before it, and a summary after it that is not empty.
    #[default]
    Strict,
    /// The gate of the released code: the response begins with `<think>`, holds `<think>` and `</think>` once each, and has at
    /// least one character between them and one after them. Whitespace counts, so a summary may be empty; it is judged.
    Published,
}

/// The value of `reward.malformed` that stands for the minimum of the group.
const MINIMUM: &str = "minimum";

/// The reward of a malformed response.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MalformedReward {
    /// This value.
    Value(f64),
    /// The lowest reward of the well-formed responses of its group; 0 if there is none.
    Minimum,
}

impl Default for MalformedReward {
    fn default() -> Self {
        Self::Value(0.0)
    }
}

impl Serialize for MalformedReward {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => to.serialize_f64(*value),
            Self::Minimum => to.serialize_str(MINIMUM),
        }
    }
}

impl<'de> Deserialize<'de> for MalformedReward {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(NumberOrMinimum)
    }
}

/// Reads a number or the name, so that an error names both.
struct NumberOrMinimum;

impl Visitor<'_> for NumberOrMinimum {
    type Value = MalformedReward;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a number or \"{MINIMUM}\"")
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<MalformedReward, E> {
        Ok(MalformedReward::Value(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<MalformedReward, E> {
        Ok(MalformedReward::Value(value as f64))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<MalformedReward, E> {
        Ok(MalformedReward::Value(value as f64))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<MalformedReward, E> {
        match value {
            MINIMUM => Ok(MalformedReward::Minimum),
            other => Err(E::invalid_value(Unexpected::Str(other), &self)),
        }
    }
}

/// The reward of a summary: the weighted sum of its terms, plus the credit from the next stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RewardConfig {
    /// The terms of the reward. Default: [{ name = "judge", weight = 1 }].
    pub terms: Vec<TermConfig>,
    /// Which responses are well-formed. Default: strict. Published: published.
    pub gate: FormatGate,
    /// The reward of a malformed response: a number, or "minimum" for the lowest reward of the well-formed responses of its group.
    /// With negative weights, a well-formed response can have less than 0; with "minimum", a malformed one never has more than it.
    /// Default: 0, as published.
    pub malformed: MalformedReward,
    /// ε that is added to the standard deviation of terms with `normalize`. Default: 1e-6.
    pub normalize_eps: f64,
    /// Number of steps after which a run warns of a term that had the same score for all well-formed responses of each group, of a
    /// gate (`requires`) that never opened, and of a task weight whose task never occurred. 0: no warnings. Default: 10.
    pub warn_after: usize,
    /// Number of choices by which a summary is judged: the target of its stage and, above 1, further ones sampled with the seed
    /// from the row's `targets`, the same for the whole group. The judge's probabilities are averaged. Default: 1, as published.
    pub targets_per_stage: usize,
    /// Maximum number of choices in other domains that reward terms such as `cross_task` judge a summary by, sampled with the seed
    /// from the row's `transfer`, the same for the whole group. 0: none. Default: 1.
    pub transfer_per_stage: usize,
    /// λ: the fraction of the next stage's mean reward that the carried summary receives as credit. Default: 0.9.
    pub carry_discount: f64,
    /// Credit, before the discount, of the summaries of the group that are not carried: the reward expected by chance. Ignored if
    /// `rollout.carry` is "each". Default: 0.5.
    pub carry_baseline: f64,
    /// Multiplier of the advantages of each stage. Empty (the default): 1 for all stages.
    pub stage_weights: Vec<f64>,
    /// Soft overlong penalty (DAPO, arXiv 2503.14476, eq. 13): within this number of tokens before `rollout.max_new_tokens`, the
    /// reward decreases linearly by up to `overlong_penalty`. 0 (the default): no penalty.
    pub overlong_band: usize,
    /// Penalty of a response at the limit. Default: 1.
    pub overlong_penalty: f64,
}

impl Default for RewardConfig {
    fn default() -> Self {
        Self {
            terms: vec![TermConfig::default()],
            gate: FormatGate::default(),
            malformed: MalformedReward::default(),
            normalize_eps: 1e-6,
            warn_after: 10,
            targets_per_stage: 1,
            transfer_per_stage: 1,
            carry_discount: 0.9,
            carry_baseline: 0.5,
            stage_weights: Vec::new(),
            overlong_band: 0,
            overlong_penalty: 1.0,
        }
    }
}

impl RewardConfig {
    pub(crate) fn check(&self) -> CheckResult {
        if self.terms.is_empty() {
            return Err(Defect::new("terms", "is empty; expected at least one term"));
        }
        let names: Vec<&str> = self.terms.iter().map(|term| term.name.as_str()).collect();
        for (index, term) in self.terms.iter().enumerate() {
            let at = format!("terms[{index}]");
            given(!term.name.is_empty(), "name", "the name of a reward term").under(&at)?;
            ensure(term.weight.is_finite(), "weight", term.weight, "a finite number").under(&at)?;
            term.check_external().under(&at)?;
            let twice = self.terms[..index].iter().any(|earlier| earlier.name == term.name);
            let found = format!("\"{}\", which is already listed", term.name);
            let expected = "each name once: the sum of the weights, or another name with `term` for the same term";
            ensure(!twice, "name", found, expected).under(&at)?;
            term.check_composition(&names).under(&at)?;
        }
        if let MalformedReward::Value(value) = self.malformed {
            ensure(value.is_finite(), "malformed", value, "a finite number or \"minimum\"")?;
        }
        not_negative("normalize_eps", self.normalize_eps)?;
        at_least("targets_per_stage", self.targets_per_stage, 1)?;
        fraction("carry_discount", self.carry_discount)?;
        not_negative("carry_baseline", self.carry_baseline)?;
        for (index, weight) in self.stage_weights.iter().enumerate() {
            not_negative(&format!("stage_weights[{index}]"), *weight)?;
        }
        not_negative("overlong_penalty", self.overlong_penalty)
    }

    /// Returns the multiplier of the advantages of `stage`, counted from 0.
    pub fn stage_weight(&self, stage: usize) -> f64 {
        self.stage_weights.get(stage).copied().unwrap_or(1.0)
    }
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One term of the reward.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TermConfig {
    /// Name of the term in metrics and records; the registered name unless `term` gives it. Default: judge.
    pub name: String,
    /// Registered name of the term, where `name` is another one: a term that is listed twice with different parameters. Empty (the
    /// default): the same as `name`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub term: String,
    /// Weight of the term in the sum; negative for a penalty. Default: 1.
    pub weight: f64,
    /// Parameters of the term, by name; docs/reinforcement.md lists those of the built-in terms. Default: none.
    #[serde(skip_serializing_if = "Table::is_empty")]
    pub params: Table,
    /// Gate: name of another term whose score must be above `requires_above`; otherwise the score of this term is 0. Empty (the
    /// default): no gate.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub requires: String,
    /// The score above which the gate opens. Default: 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub requires_above: f64,
    /// Limits `[low, high]` of the score, before gate and normalization. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<[f64; 2]>,
    /// Normalization of the scores: none, running or group. Default: none.
    #[serde(skip_serializing_if = "is_default")]
    pub normalize: Normalization,
    /// A factor of the weight as a function of the step. Default: constant.
    #[serde(skip_serializing_if = "WeightSchedule::is_constant")]
    pub schedule: WeightSchedule,
    /// Factors of the weight by the task of the stage's own target; 1 for other tasks. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub task_weights: BTreeMap<String, f64>,
    /// Factors of the weight by stage, one for each of `rollout.stages`. Empty (the default): 1 for all stages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stage_weights: Vec<f64>,
    /// Program that computes the term, and its arguments, such as `["python", "my_reward.py"]`. It reads requests as JSON lines from
    /// standard input and writes answers to standard output. `name` is then any name that is not registered. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// URL that computes the term: requests are posted to it as JSON. Empty (the default): none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// Number of processes of `command`, or of concurrent requests to `url`. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
    /// Maximum number of responses per request to `command` or `url`; the responses to one prompt stay together. 0: all responses
    /// of a stage. Default: 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// Time limit of an answer of `command` or `url`, in seconds. Default: 120.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
    /// Time limit of the start of `command`, or of the first answer of `url`, in seconds. Default: 300.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_timeout_seconds: Option<f64>,
    /// Number of times that a request is sent again if `command` (which is restarted) or `url` does not answer it. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<usize>,
    /// Handling of responses that `command` or `url` did not score: "stop" ends the run, "fallback" gives them the score
    /// `fallback`. Default: stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
    /// Score of responses that `command` or `url` did not score, if `on_failure` is "fallback". Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<f64>,
}

impl TermConfig {
    /// Returns the registered name of the term.
    pub fn registered_name(&self) -> &str {
        if self.term.is_empty() { &self.name } else { &self.term }
    }
}

impl Default for TermConfig {
    fn default() -> Self {
        Self {
            name: "judge".into(),
            term: String::new(),
            weight: 1.0,
            params: Table::new(),
            requires: String::new(),
            requires_above: 0.0,
            clip: None,
            normalize: Normalization::default(),
            schedule: WeightSchedule::default(),
            task_weights: BTreeMap::new(),
            stage_weights: Vec::new(),
            command: Vec::new(),
            url: String::new(),
            workers: None,
            batch_size: None,
            timeout_seconds: None,
            start_timeout_seconds: None,
            retries: None,
            on_failure: None,
            fallback: None,
        }
    }
}
