//! Reward terms that another program or an endpoint computes.

use serde::{Deserialize, Serialize};

use super::reward::TermConfig;
use crate::check::{CheckResult, Defect, at_least, ensure};

/// Handling of responses that a program or an endpoint did not score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The run ends with an error.
    #[default]
    Stop,
    /// Their score is `fallback`.
    Fallback,
}

/// Where an external term is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExternalSource {
    /// A program and its arguments. It reads requests from standard input and writes answers to standard output.
    Command(Vec<String>),
    /// The URL that requests are posted to.
    Url(String),
}

/// An external reward term: the keys of a [`TermConfig`] with `command` or `url`, with their defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct ExternalConfig {
    /// Where the term is computed.
    pub source: ExternalSource,
    /// Number of processes of the program, or of concurrent requests to the endpoint.
    pub workers: usize,
    /// Maximum number of responses per request; a group is never split. 0: all responses of a stage.
    pub batch_size: usize,
    /// Time limit of an answer, seconds.
    pub timeout_seconds: f64,
    /// Time limit of the answer to the handshake, seconds.
    pub start_timeout_seconds: f64,
    /// Number of times that a request without an answer is sent again.
    pub retries: usize,
    /// Score of responses that remain without one; `None` ends the run with an error.
    pub fallback: Option<f64>,
}

impl ExternalConfig {
    /// Creates the configuration of a term with the defaults.
    pub fn new(source: ExternalSource) -> Self {
        Self {
            source,
            workers: 1,
            batch_size: 64,
            timeout_seconds: 120.0,
            start_timeout_seconds: 300.0,
            retries: 1,
            fallback: None,
        }
    }
}

impl TermConfig {
    /// Returns the configuration of an external term; `None` for a term that is computed in this process.
    pub fn external(&self) -> Option<ExternalConfig> {
        let source = match (&self.command[..], &self.url[..]) {
            ([], "") => return None,
            ([], url) => ExternalSource::Url(url.into()),
            (command, _) => ExternalSource::Command(command.to_vec()),
        };
        let default = ExternalConfig::new(source);
        Some(ExternalConfig {
            workers: self.workers.unwrap_or(default.workers),
            batch_size: self.batch_size.unwrap_or(default.batch_size),
            timeout_seconds: self.timeout_seconds.unwrap_or(default.timeout_seconds),
            start_timeout_seconds: self.start_timeout_seconds.unwrap_or(default.start_timeout_seconds),
            retries: self.retries.unwrap_or(default.retries),
            fallback: self.fallback,
            ..default
        })
    }

    /// Checks the keys of external terms.
    pub(super) fn check_external(&self) -> CheckResult {
        let Some(external) = self.external() else { return self.check_without_external() };
        let both = !self.command.is_empty() && !self.url.is_empty();
        ensure(!both, "url", format!("\"{}\"", self.url), "either command or url")?;
        ensure(
            self.term.is_empty(),
            "term",
            format!("\"{}\"", self.term),
            "none with command or url, which compute the term",
        )?;
        match &external.source {
            ExternalSource::Command(command) => {
                let program = command.first().is_some_and(|program| !program.is_empty());
                ensure(
                    program,
                    "command",
                    "without a program",
                    "a program and its arguments, such as [\"python\", \"mine.py\"]",
                )?;
            }
            ExternalSource::Url(url) => {
                let address = url.starts_with("http://") || url.starts_with("https://");
                ensure(address, "url", format!("\"{url}\""), "a URL such as http://node7:8000/score")?;
            }
        }
        at_least("workers", external.workers, 1)?;
        let one_request = external.batch_size == 0 && external.workers > 1;
        ensure(!one_request, "workers", external.workers, "1 with batch_size = 0, which sends a stage in one request")?;
        seconds("timeout_seconds", external.timeout_seconds)?;
        seconds("start_timeout_seconds", external.start_timeout_seconds)?;
        match (self.on_failure.unwrap_or_default(), self.fallback) {
            (OnFailure::Stop, Some(score)) => {
                ensure(false, "fallback", score, "none with on_failure = \"stop\"; set on_failure = \"fallback\"")
            }
            (OnFailure::Fallback, None) => Err(Defect::new(
                "fallback",
                "is not set; expected the score of responses that get none (on_failure = \"fallback\")",
            )),
            (OnFailure::Fallback, Some(score)) => ensure(score.is_finite(), "fallback", score, "a finite number"),
            (OnFailure::Stop, None) => Ok(()),
        }
    }

    /// Checks that a term of this process has no key that only external terms use.
    fn check_without_external(&self) -> CheckResult {
        let given = [
            ("workers", self.workers.is_some()),
            ("batch_size", self.batch_size.is_some()),
            ("timeout_seconds", self.timeout_seconds.is_some()),
            ("start_timeout_seconds", self.start_timeout_seconds.is_some()),
            ("retries", self.retries.is_some()),
            ("on_failure", self.on_failure.is_some()),
            ("fallback", self.fallback.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((key, _)) => Err(Defect::new(key, "is set; expected a term with command or url, which alone uses it")),
            None => Ok(()),
        }
    }
}

fn seconds(key: &str, value: f64) -> CheckResult {
    ensure(value > 0.0 && value <= 86_400.0, key, value, "above 0, at most 86400 (one day)")
}
