//! The synthesis of SFT rows by a teacher, and the teacher's model.

use serde::{Deserialize, Serialize};

use super::SynthesisConfig;
use crate::check::{CheckResult, Under, at_least, ensure, given};
use crate::endpoint::EndpointConfig;
use crate::judge::{JudgeConfig, JudgePrices};
use crate::model::ModelSource;
use crate::sampling::SamplingConfig;

/// How the verifier decides whether a summary predicts a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyBy {
    /// The probability of the choice, read as `verifier.mode` says, is above 0.5.
    #[default]
    Probability,
    /// The verifier writes an answer, as published, with the lengths and the sampling of `verifier`, whose `mode` and `no_answer` do
    /// not matter: an answer that cannot be parsed is wrong.
    Answer,
}

/// What happens to a user whose request fails after all retries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The step ends with an error. Running it again sends the missing requests.
    #[default]
    Stop,
    /// The user is left out and counted. Running the step again does not retry it unless forced.
    Skip,
}

/// Generate, verify, merge, re-test. The defaults are the published values, except those of `verify` and `separator`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TeachConfig {
    /// Thresholds of targets, candidates and re-test.
    pub thresholds: SynthesisConfig,
    /// Minimum number of interactions in a third of a history; users with fewer are left out. Default: 3.
    pub least_third: usize,
    /// Sampling of the teacher. Default: temperature 0.6, top_k 20, top_p 0.95, 4096 tokens.
    pub sampling: SamplingConfig,
    /// The text between reasoning and summary in the answer to a merge prompt; it is the one that the prompt set asks for. Default:
    /// `|PREFERENCE|`, as in the built-in sets. Published: `|PreferenceSEP|`.
    pub separator: String,
    /// How summaries are verified: probability or answer. Default: probability. Published: answer.
    pub verify: VerifyBy,
    /// Number of users whose requests are sent together. Changes the speed, not the result. Default: 64.
    pub users_per_batch: usize,
    /// Maximum number of users, the first ones of the file; 0 takes all. Default: 0.
    pub max_users: usize,
    /// What happens to a user whose request fails after all retries: stop or skip. Default: stop.
    pub on_error: OnError,
    /// Prices of the verifier, for the report. Default: none.
    pub verifier_prices: JudgePrices,
}

impl Default for TeachConfig {
    fn default() -> Self {
        Self {
            thresholds: SynthesisConfig::default(),
            least_third: 3,
            sampling: SamplingConfig::default(),
            separator: "|PREFERENCE|".into(),
            verify: VerifyBy::default(),
            users_per_batch: 64,
            max_users: 0,
            on_error: OnError::default(),
            verifier_prices: JudgePrices::default(),
        }
    }
}

impl TeachConfig {
    pub(super) fn check(&self) -> CheckResult {
        self.thresholds.check().under("thresholds")?;
        at_least("least_third", self.least_third, 1)?;
        self.sampling.check().under("sampling")?;
        given(!self.separator.trim().is_empty(), "separator", "the text between reasoning and summary")?;
        at_least("users_per_batch", self.users_per_batch, 1)?;
        self.verifier_prices.check().under("verifier_prices")
    }
}

/// The model that writes summaries: in this process, at an endpoint, or the program of the built-in world. Set exactly one of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TeacherConfig {
    /// Whether the teacher is that of the built-in world: a program that reads the world's words. Default: false.
    pub world: bool,
    /// The model, in this process.
    pub model: ModelSource,
    /// The model, served by another process. Default: not set.
    pub endpoint: EndpointConfig,
    /// Prices of the teacher, for the report. Default: none.
    pub prices: JudgePrices,
}

impl TeacherConfig {
    /// Returns model and endpoint as those of a judge, for functions that load either.
    pub fn as_judge(&self) -> JudgeConfig {
        JudgeConfig { model: self.model.clone(), endpoint: self.endpoint.clone(), ..JudgeConfig::default() }
    }

    pub(super) fn check(&self) -> CheckResult {
        self.prices.check().under("prices")
    }

    pub(super) fn check_required(&self) -> CheckResult {
        if self.world {
            let alone = *self == Self { world: true, ..Self::default() };
            let expected = "false with model, endpoint or prices: the world's teacher is no model";
            return ensure(alone, "world", true, expected);
        }
        if !self.endpoint.is_given() {
            return self.model.check().under("model");
        }
        let expected = "no path with endpoint.url: a teacher runs either in this process or at an endpoint";
        ensure(self.model.path.is_empty(), "model.path", format!("`{}`", self.model.path), expected)?;
        self.endpoint.check().under("endpoint")
    }
}
