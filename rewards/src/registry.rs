//! The reward terms that a config can name.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::RewardError;
use crate::terms::{
    Accuracy, Brevity, Consistency, Copying, CrossJudge, CrossTask, Drift, Format, JudgeChoice, LengthBand, LogOdds,
    Margin, Novelty, ResponseLikelihood, Retention, RewardTerm, TeacherSimilarity,
};

/// Builds a term from its `params`.
type Constructor = Box<dyn Fn(&Value) -> Result<Box<dyn RewardTerm>, RewardError> + Send + Sync>;

/// A registry of reward terms by name.
///
/// ```
/// use rewards::{Registry, RewardBatch, RewardError, RewardTerm};
/// use serde::Deserialize;
///
/// /// 1 for a summary of at most `words` words.
/// #[derive(Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Short {
///     words: usize,
/// }
///
/// impl RewardTerm for Short {
///     fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError> {
///         let words = |summary: &str| summary.split_whitespace().count();
///         let short = |summary: Option<&str>| summary.is_some_and(|s| words(s) <= self.words);
///         Ok(batch.responses.iter().map(|r| f64::from(u8::from(short(r.summary())))).collect())
///     }
/// }
///
/// let mut registry = Registry::default();
/// registry.register::<Short>("short")?;
/// // [[reward.terms]]
/// // name = "short"
/// // params = { words = 40 }
/// let term = registry.build("short", &serde_json::json!({ "words": 40 }))?;
/// # let batch = RewardBatch { step: 0, responses: &[], verdicts: &[] };
/// assert!(term.score(&batch)?.is_empty());
/// assert!(registry.build("short", &serde_json::json!({ "word": 40 })).is_err());
/// # Ok::<(), RewardError>(())
/// ```
pub struct Registry {
    terms: Vec<(String, Constructor)>,
}

impl Default for Registry {
    /// Returns a registry with the terms of this crate.
    fn default() -> Self {
        let mut registry = Self { terms: Vec::new() };
        registry.add::<JudgeChoice>("judge");
        registry.add::<Accuracy>("accuracy");
        registry.add::<LogOdds>("log_odds");
        registry.add::<Margin>("margin");
        registry.add::<CrossTask>("cross_task");
        registry.add::<CrossJudge>("cross_judge");
        registry.add::<ResponseLikelihood>("response_likelihood");
        registry.add::<Retention>("retention");
        registry.add::<Consistency>("consistency");
        registry.add::<Drift>("drift");
        registry.add::<Format>("format");
        registry.add::<Brevity>("brevity");
        registry.add::<LengthBand>("length_band");
        registry.add::<Copying>("copying");
        registry.add::<Novelty>("novelty");
        registry.add::<TeacherSimilarity>("teacher_similarity");
        registry
    }
}

impl Registry {
    /// Registers the term `T`, whose fields are the `params` of a config.
    ///
    /// # Errors
    /// Returns [`RewardError::Registered`] if the name is taken.
    pub fn register<T: RewardTerm + DeserializeOwned + 'static>(&mut self, name: &str) -> Result<(), RewardError> {
        if self.terms.iter().any(|(known, _)| known == name) {
            return Err(RewardError::Registered(name.into()));
        }
        self.add::<T>(name);
        Ok(())
    }

    fn add<T: RewardTerm + DeserializeOwned + 'static>(&mut self, name: &str) {
        let term = name.to_owned();
        let constructor: Constructor = Box::new(move |params| match T::deserialize(params) {
            Ok(made) => Ok(Box::new(made)),
            Err(error) => Err(RewardError::Params { term: term.clone(), message: error.to_string() }),
        });
        self.terms.push((name.into(), constructor));
    }

    /// Returns the registered names.
    pub fn names(&self) -> Vec<String> {
        self.terms.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Builds a term. `params` is a JSON object, empty if the config has no parameters.
    ///
    /// # Errors
    /// Returns [`RewardError::Unknown`], which suggests the nearest name, or [`RewardError::Params`].
    pub fn build(&self, name: &str, params: &Value) -> Result<Box<dyn RewardTerm>, RewardError> {
        let found = self.terms.iter().find(|(known, _)| known == name);
        let (_, constructor) = found.ok_or_else(|| RewardError::Unknown { name: name.into(), known: self.names() })?;
        constructor(params)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_misspelt_name_gets_the_nearest_and_the_list() {
        let message = |name| Registry::default().build(name, &json!({})).err().map(|e| e.to_string());
        let known = "known terms: judge, accuracy, log_odds, margin, cross_task, cross_judge, response_likelihood, retention, \
                     consistency, drift, format, brevity, length_band, copying, novelty, teacher_similarity";
        let of = |name: &str, meant: &str| Some(format!("unknown reward term `{name}`{meant}; {known}"));
        assert_eq!(message("brevety"), of("brevety", " (did you mean `brevity`?)"));
        assert_eq!(message("xyz"), of("xyz", ""));
    }

    #[test]
    fn terms_refuse_parameters_that_they_do_not_have() {
        for name in Registry::default().names() {
            let error = Registry::default().build(&name, &json!({"scale": 2})).err().unwrap().to_string();
            assert!(error.contains(&format!("reward term `{name}`: params")) && error.contains("scale"), "{error}");
        }
    }

    #[test]
    fn a_name_is_registered_once() {
        let error = Registry::default().register::<Format>("judge").unwrap_err();
        assert_eq!(error, RewardError::Registered("judge".into()));
    }
}
