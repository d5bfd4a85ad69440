//! The evaluation of an ablation: a file, or the keys of one.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{origin, with_seed};
use crate::check::{CheckResult, Under, ensure};
use crate::error::ConfigError;
use crate::eval::{EvalConfig, EvalModel};
use crate::key_path::child;
use crate::load::{load, parse};
use crate::model::ModelSource;
use crate::run::RunConfig;

/// The models of a run replace this one, which lets an evaluation without models pass its checks.
const POLICY: &str = "policy";

/// The evaluation of an ablation.
#[derive(Clone, Debug, PartialEq)]
pub enum AblateEval {
    /// The path of a configuration of `xplore eval`.
    File(PathBuf),
    /// The keys of `xplore eval`, without models.
    Section(Box<EvalConfig>),
}

impl Default for AblateEval {
    fn default() -> Self {
        Self::Section(Box::default())
    }
}

impl AblateEval {
    pub(super) fn check(&self) -> CheckResult {
        match self {
            Self::File(path) => ensure(!path.as_os_str().is_empty(), "eval", "\"\"", "the path of a configuration"),
            Self::Section(eval) => {
                let count = format!("a list of {}", eval.models.len());
                ensure(eval.models.is_empty(), "eval.models", count, "no models: those of the runs are evaluated")?;
                let usual = EvalConfig::default();
                let own = "no such key: the folder of a run has its evaluation";
                ensure(eval.name == usual.name, "eval.name", format!("\"{}\"", eval.name), own)?;
                ensure(eval.out == usual.out, "eval.out", format!("\"{}\"", eval.out.display()), own)?;
                ensure(eval.seed == usual.seed, "eval.seed", eval.seed, "no such key: use `seeds` of the ablation")?;
                with_policy(eval).defect().map_or(Ok(()), Err).under("eval")
            }
        }
    }

    /// Returns the configuration of the evaluation with `seed`. `file` is the file of the ablation.
    pub(super) fn load(&self, file: &Path, seed: u64) -> Result<EvalConfig, ConfigError> {
        match self {
            Self::File(path) => {
                let models = format!("models=[{{name='{POLICY}',model={{path='{POLICY}'}}}}]");
                load(Path::new(&with_seed(&path.to_string_lossy(), seed)), &[models])
            }
            Self::Section(eval) => {
                let text = with_seed(&with_policy(eval).resolved()?, seed);
                parse(format!("{} [eval]", file.display()), &text, &[]).map_err(|error| of_section(file, error))
            }
        }
    }
}

/// Locates an error of the section in the file of the ablation. Its own line is that of a generated text.
fn of_section(file: &Path, error: ConfigError) -> ConfigError {
    match error {
        ConfigError::Value { key, problem, example, .. } => {
            let key = child("eval", &key);
            ConfigError::Value { origin: origin(file, &key), key, problem, example }
        }
        other => other,
    }
}

fn with_policy(eval: &EvalConfig) -> EvalConfig {
    let model = ModelSource { path: POLICY.into(), ..ModelSource::default() };
    EvalConfig { models: vec![EvalModel { name: POLICY.into(), model }], ..eval.clone() }
}

impl Serialize for AblateEval {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::File(path) => path.serialize(to),
            Self::Section(eval) => eval.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for AblateEval {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(PathOrTable)
    }
}

/// Reads either form, so that an error of a key in the table has the path of that key.
struct PathOrTable;

impl<'de> Visitor<'de> for PathOrTable {
    type Value = AblateEval;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the path of a configuration in quotes, or a table")
    }

    fn visit_str<E: Error>(self, path: &str) -> Result<AblateEval, E> {
        Ok(AblateEval::File(path.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AblateEval, A::Error> {
        EvalConfig::deserialize(MapAccessDeserializer::new(map)).map(|eval| AblateEval::Section(Box::new(eval)))
    }
}
