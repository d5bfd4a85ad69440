//! What a configuration says about judging.

use std::path::{Path, PathBuf};

use configs::{EvalConfig, JudgeConfig, JudgePrices, ModelSource, RlConfig, RlJudge, SamplingConfig, Setting};
use evals::EvalUser;

use crate::error::Error;
use crate::parts;

/// A judge of a configuration.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NamedConfig {
    /// Key of its settings.
    pub key: String,
    /// Name in tables.
    pub name: String,
    /// Settings.
    pub config: JudgeConfig,
    /// Prices per million tokens. An evaluation has none.
    pub prices: JudgePrices,
}

/// The judges of a configuration, and the users, models and sampling to examine them with.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgeSetup {
    pub(crate) judges: Vec<NamedConfig>,
    pub(crate) seed: u64,
    /// File of the users; empty if the configuration names none.
    users: PathBuf,
    /// Key of the file of the users.
    users_key: &'static str,
    /// Maximum number of its users; 0 for all.
    max_users: usize,
    /// Prompt set of the models that write summaries.
    pub(crate) prompts: String,
    /// Sampling of the summaries.
    pub(crate) sampling: SamplingConfig,
    /// Part of the histories that the summaries are written from.
    pub(crate) setting: Setting,
    /// Models that `--model` can name.
    pub(crate) models: Vec<(String, ModelSource)>,
    /// Dtype, device and limits of a model that is given by its path.
    pub(crate) source: ModelSource,
}

impl JudgeSetup {
    /// Returns the judges, users, models and sampling of an evaluation.
    pub fn of_eval(config: &EvalConfig) -> Self {
        let judge = |(index, judge): (usize, &configs::EvalJudge)| NamedConfig {
            key: format!("judges[{index}].judge"),
            name: judge.name.clone(),
            config: judge.judge.clone(),
            prices: JudgePrices::default(),
        };
        Self {
            judges: config.judges.iter().enumerate().map(judge).collect(),
            seed: config.seed,
            users: config.users.clone(),
            users_key: "users",
            max_users: config.max_users,
            prompts: config.prompts.clone(),
            sampling: config.sampling.clone(),
            setting: summarized(&config.settings),
            models: config.models.iter().map(|model| (model.name.clone(), model.model.clone())).collect(),
            source: config.models.first().map(|model| model.model.clone()).unwrap_or_default(),
        }
    }

    /// Returns the judges of an RL run, and the users and the sampling of its validation.
    pub fn of_rl(config: &RlConfig) -> Self {
        let judges = config.panel_judges().into_iter();
        let named = |(key, judge): (String, RlJudge)| {
            let RlJudge { name, judge: config, prices, .. } = judge;
            NamedConfig { key, name, config, prices }
        };
        let judges = judges.map(named).collect();
        let validation = config.validation.summaries.clone().unwrap_or_default();
        Self {
            judges,
            seed: config.seed,
            users: validation.users,
            users_key: "validation.summaries.users",
            max_users: validation.max_users,
            prompts: match validation.prompts.is_empty() {
                true => config.prompts.clone(),
                false => validation.prompts,
            },
            sampling: validation.sampling,
            setting: summarized(&validation.settings),
            models: Vec::new(),
            source: config.model.clone(),
        }
    }

    /// Reads the users of `given`, or else those that the configuration names, up to its maximum number of users.
    ///
    /// # Errors
    /// Returns an error if neither names a file, or the file cannot be read.
    pub fn users(&self, given: Option<&Path>) -> Result<Vec<EvalUser>, Error> {
        if let Some(path) = given {
            return parts::rows(path);
        }
        if self.users.as_os_str().is_empty() {
            let key = self.users_key;
            return Err(Error::usage(format!("no users: give --input FILE, or set {key} in the configuration")));
        }
        let mut users: Vec<EvalUser> = parts::rows(&self.users)?;
        if self.max_users > 0 {
            users.truncate(self.max_users);
        }
        Ok(users)
    }
}

/// Returns the first setting in which a model writes summaries.
fn summarized(settings: &[Setting]) -> Setting {
    settings.iter().copied().find(|setting| *setting != Setting::Direct).unwrap_or(Setting::Full)
}

#[cfg(test)]
mod tests {
    use configs::validation::SummaryValidation;
    use configs::{EvalJudge, EvalModel};

    use super::*;

    #[test]
    fn an_evaluation_gives_its_judges_users_and_models() {
        let model =
            EvalModel { name: "rl".into(), model: ModelSource { path: "runs/rl".into(), ..Default::default() } };
        let config = EvalConfig {
            users: "users.jsonl".into(),
            settings: vec![Setting::Direct, Setting::Streaming],
            models: vec![model.clone()],
            judges: vec![EvalJudge { name: "second".into(), ..EvalJudge::default() }],
            ..EvalConfig::default()
        };
        let setup = JudgeSetup::of_eval(&config);
        assert_eq!((setup.judges[0].key.as_str(), setup.judges[0].name.as_str()), ("judges[0].judge", "second"));
        assert_eq!((setup.setting, setup.seed), (Setting::Streaming, config.seed));
        assert_eq!(setup.models, [(model.name, model.model)]);
    }

    #[test]
    fn an_rl_run_gives_its_judge_and_the_users_of_its_validation() {
        let mut config = RlConfig { prompts: "compact".into(), ..RlConfig::default() };
        let setup = JudgeSetup::of_rl(&config);
        assert_eq!((setup.judges[0].key.as_str(), setup.judges[0].name.as_str()), ("judge", "judge"));
        let refused = setup.users(None).unwrap_err().to_string();
        assert!(refused.contains("validation.summaries.users") && refused.contains("--input"), "{refused}");
        let summaries = SummaryValidation { users: "held.jsonl".into(), prompts: "plain".into(), ..Default::default() };
        config.validation.summaries = Some(summaries);
        let other = JudgeSetup::of_rl(&config);
        assert_eq!((setup.prompts.as_str(), other.prompts.as_str()), ("compact", "plain"));
        assert_eq!(other.users, Path::new("held.jsonl"));
    }
}
