//! What AlignXplore+ (arXiv 2601.04963) published: one table of settings, differences and scores, against which `xplore certify`, the
//! presets and docs/reproduce.md are held.

use std::fmt;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::error::ConfigError;
use crate::keys;
use crate::run::RunConfig;

/// The text of `configs/published/alignxplore-plus.toml`.
const EMBEDDED: &str = include_str!("../published/alignxplore-plus.toml");

static RECIPE: LazyLock<Published> =
    LazyLock::new(|| toml::from_str(EMBEDDED).expect("the file is part of the program, and a test reads it"));

/// A stage of the recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecipeStage {
    /// Supervised fine-tuning.
    Sft,
    /// Reinforcement learning.
    Rl,
    /// Evaluation.
    Eval,
}

impl fmt::Display for RecipeStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sft => "SFT",
            Self::Rl => "RL",
            Self::Eval => "evaluation",
        })
    }
}

/// Where a published value is stated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The paper.
    Paper,
    /// The released code.
    Code,
    /// Released files: models, data sets, README.
    Release,
    /// Nowhere; it follows from the other sources or from the defaults of a library.
    Inference,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Paper => "paper",
            Self::Code => "released code",
            Self::Release => "released files",
            Self::Inference => "inferred",
        })
    }
}

/// A published setting and the config key that expresses it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedSetting {
    /// The stage.
    pub stage: RecipeStage,
    /// Name for display.
    pub name: String,
    /// Path of the config key.
    pub key: String,
    /// The published value; `None` if the key must not be set.
    pub value: Option<Value>,
    /// The value of the preset, if it deviates.
    pub preset: Option<Value>,
    /// Why the preset deviates; empty if it does not.
    #[serde(default)]
    pub deviation: String,
    /// Whether the value is a location, so that another location may hold the same files.
    #[serde(default)]
    pub path: bool,
    /// Where the value is stated.
    pub source: Source,
    /// Explanation of the value; may be empty.
    #[serde(default)]
    pub note: String,
    /// Why another value may matter.
    pub why: String,
}

impl PublishedSetting {
    /// Returns the value that the preset of the stage has.
    pub fn preset_value(&self) -> Option<&Value> {
        self.preset.as_ref().or(self.value.as_ref())
    }
}

/// A known difference from the published runs that no key expresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownDifference {
    /// The stage.
    pub stage: RecipeStage,
    /// Title.
    pub title: String,
    /// Description, in Markdown.
    pub text: String,
}

/// Keys that change memory, speed or output, but are not part of the recipe.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecutionKeys {
    /// The stage.
    pub stage: RecipeStage,
    /// Paths of the keys.
    pub keys: Vec<String>,
}

/// The published scores of AlignXplore+ on one benchmark, with Qwen3-8B as the judge.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Benchmark {
    /// Name on the command line.
    pub id: String,
    /// Name for display.
    pub name: String,
    /// First parts, up to `_`, of the names of its files.
    pub files: Vec<String>,
    /// Number of users.
    pub users: usize,
    /// Accuracy with summaries of full histories, percent.
    pub full: f64,
    /// Accuracy with summaries of histories read in two parts, percent.
    pub streaming: f64,
}

/// The published recipe.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// The settings, in the order of the stages.
    #[serde(rename = "setting")]
    pub settings: Vec<PublishedSetting>,
    /// Known differences.
    #[serde(rename = "difference")]
    pub differences: Vec<KnownDifference>,
    /// Keys that are not part of the recipe.
    #[serde(rename = "execution")]
    pub execution: Vec<ExecutionKeys>,
    /// Scores.
    #[serde(rename = "benchmark")]
    pub benchmarks: Vec<Benchmark>,
}

/// Returns the published recipe.
pub fn recipe() -> &'static Published {
    &RECIPE
}

/// Returns the stage of a resolved configuration; `None` if the text is not the configuration of one of the stages.
pub fn stage_of(resolved: &str) -> Option<RecipeStage> {
    let table: Table = toml::from_str(resolved).ok()?;
    let has = |key: &str| table.contains_key(key);
    // A quickstart has tables of all stages.
    if has("world") {
        None
    } else if has("rollout") {
        Some(RecipeStage::Rl)
    } else if has("judges") {
        Some(RecipeStage::Eval)
    } else {
        (has("train") && has("data")).then_some(RecipeStage::Sft)
    }
}

/// How the value of a run compares with the published one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Agreement {
    /// The published value.
    Same,
    /// Another location, which may hold the same files: their hashes tell.
    OtherLocation,
    /// The value of the preset, which deviates for a known reason.
    PresetDeviation,
    /// Another value.
    Different,
}

/// A published setting beside the value of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The published setting.
    pub setting: &'static PublishedSetting,
    /// The run's value; `None` if the key is not set.
    pub ours: Option<Value>,
    /// How the two compare.
    pub agreement: Agreement,
}

/// Compares a configuration with the published settings of a stage, in their order.
///
/// # Errors
/// [`ConfigError::Unwritable`] if the configuration cannot be written as TOML.
pub fn compare<T: RunConfig>(stage: RecipeStage, config: &T) -> Result<Vec<Comparison>, ConfigError> {
    let table = Table::try_from(config)?;
    let of_stage = recipe().settings.iter().filter(|setting| setting.stage == stage);
    Ok(of_stage.map(|setting| compare_one(setting, keys::lookup(&table, &setting.key))).collect())
}

fn compare_one(setting: &'static PublishedSetting, ours: Option<&Value>) -> Comparison {
    let agreement = if same(ours, setting.value.as_ref()) {
        Agreement::Same
    } else if setting.preset.is_some() && same(ours, setting.preset.as_ref()) {
        Agreement::PresetDeviation
    } else if setting.path {
        Agreement::OtherLocation
    } else {
        Agreement::Different
    };
    Comparison { setting, ours: ours.cloned(), agreement }
}

/// Returns whether two values are equal; a whole number equals the same number with a decimal point.
pub fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => equal(a, b),
        _ => false,
    }
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Integer(whole), Value::Float(number)) | (Value::Float(number), Value::Integer(whole)) => {
            *whole as f64 == *number
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Table(a), Value::Table(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| equal(value, other)))
        }
        _ => a == b,
    }
}

/// Formats a value as in a config file, on one line; "not set" for `None`.
pub fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "not set".into(), one_line)
}

fn one_line(value: &Value) -> String {
    match value {
        Value::Float(number) => format!("{number:?}"),
        Value::Array(items) => format!("[{}]", items.iter().map(one_line).collect::<Vec<_>>().join(", ")),
        Value::Table(table) => {
            let entries: Vec<_> = table.iter().map(|(key, value)| format!("{key} = {}", one_line(value))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        Value::String(text) => format!("\"{text}\""),
        Value::Integer(_) | Value::Boolean(_) | Value::Datetime(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        let mut table: Table = toml::from_str(&format!("v = {text}")).unwrap();
        table.remove("v").unwrap()
    }

    #[test]
    fn values_are_compared_as_numbers_and_shown_as_in_a_file() {
        let same = |a: &str, b: &str| same(Some(&value(a)), Some(&value(b)));
        assert!(same("1", "1.0") && same("[0.9, 1]", "[0.9, 1.0]") && same("{a = 1}", "{a = 1.0}"));
        assert!(!same("1", "\"1\"") && !same("[1]", "[1, 1]") && !same("{a = 1}", "{b = 1}") && !same("1e-6", "2e-6"));
        assert!(super::same(None, None) && !super::same(None, Some(&value("0"))));
        for text in ["2e-5", "0.01", "1.0", "4", "true", "\"bf16\"", "[]", "[0.9, 0.999]", "[{ name = \"judge\" }]"] {
            assert_eq!(shown(Some(&value(text))), text);
        }
        assert_eq!(shown(None), "not set");
    }

    #[test]
    fn the_stage_follows_from_the_tables() {
        let model = "[model]\npath='p'\n[data]\ntrain='r'\n";
        let sft: crate::SftConfig = crate::parse("sft.toml", model, &[]).unwrap();
        let rl = format!("{model}[judge.model]\npath='j'\n");
        let rl: crate::RlConfig = crate::parse("rl.toml", &rl, &[]).unwrap();
        let eval = "users='p'\n[[models]]\nname='a'\nmodel.path='m'\n[[judges]]\nname='b'\njudge.model.path='j'\n";
        let eval: crate::EvalConfig = crate::parse("eval.toml", eval, &[]).unwrap();
        assert_eq!(stage_of(&sft.resolved().unwrap()), Some(RecipeStage::Sft));
        assert_eq!(stage_of(&rl.resolved().unwrap()), Some(RecipeStage::Rl));
        assert_eq!(stage_of(&eval.resolved().unwrap()), Some(RecipeStage::Eval));
        for other in [crate::QUICKSTART, "", "name = 'sft'", "= no TOML"] {
            assert_eq!(stage_of(other), None);
        }
    }

    #[test]
    fn each_kind_of_agreement() {
        let setting = |key: &str| {
            let found = recipe().settings.iter().find(|setting| setting.stage == RecipeStage::Rl && setting.key == key);
            found.unwrap_or_else(|| panic!("{key} is not in the table"))
        };
        let agreement = |key: &str, ours: Option<&str>| compare_one(setting(key), ours.map(value).as_ref()).agreement;
        assert_eq!(agreement("optimizer.lr", Some("1e-6")), Agreement::Same);
        assert_eq!(agreement("optimizer.lr", Some("2e-6")), Agreement::Different);
        assert_eq!(agreement("optimizer.lr", None), Agreement::Different);
        assert_eq!(agreement("lora", None), Agreement::Same);
        assert_eq!(agreement("lora", Some("{ rank = 8 }")), Agreement::Different);
        assert_eq!(agreement("prompts", Some("\"prompts/rl\"")), Agreement::Same);
        assert_eq!(agreement("prompts", Some("\"plain\"")), Agreement::PresetDeviation);
        assert_eq!(agreement("prompts", Some("\"compact\"")), Agreement::Different);
        assert_eq!(agreement("judge.model.path", Some("\"models/qwen\"")), Agreement::OtherLocation);
    }
}
