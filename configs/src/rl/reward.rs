//! The reward of a summary.

use std::fmt;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::Table;

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
    /// Number of choices by which a summary is judged: the target of its stage and, above 1, further ones sampled with the seed
    /// from the row's `targets`, the same for the whole group. The judge's probabilities are averaged. Default: 1, as published.
    pub targets_per_stage: usize,
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
            targets_per_stage: 1,
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
        for (index, term) in self.terms.iter().enumerate() {
            let at = format!("terms[{index}]");
            given(!term.name.is_empty(), "name", "the name of a reward term").under(&at)?;
            ensure(term.weight.is_finite(), "weight", term.weight, "a finite number").under(&at)?;
            let twice = self.terms[..index].iter().any(|earlier| earlier.name == term.name);
            let found = format!("\"{}\", which is already listed", term.name);
            ensure(!twice, "name", found, "each term once, with the sum of its weights").under(&at)?;
        }
        if let MalformedReward::Value(value) = self.malformed {
            ensure(value.is_finite(), "malformed", value, "a finite number or \"minimum\"")?;
        }
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

/// One term of the reward.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TermConfig {
    /// Registered name of the term. Default: judge.
    pub name: String,
    /// Weight of the term in the sum; negative for a penalty. Default: 1.
    pub weight: f64,
    /// Parameters of the term, by name. The built-in terms take none. Default: none.
    #[serde(skip_serializing_if = "Table::is_empty")]
    pub params: Table,
}

impl Default for TermConfig {
    fn default() -> Self {
        Self { name: "judge".into(), weight: 1.0, params: Table::new() }
    }
}
