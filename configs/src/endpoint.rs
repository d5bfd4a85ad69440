//! A model that somebody else serves.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::check::{Verdict, at_least, ensure, given};

/// An OpenAI-compatible endpoint: `xplore serve` on another node, vLLM, a hosted service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EndpointConfig {
    /// Base address with the version, such as `http://node7:8000/v1`. Empty (the default): the model is in this process.
    pub url: String,
    /// The model's name there. Required with `url`.
    pub model: String,
    /// The environment variable that holds the bearer token. Empty (the default): none is sent.
    pub api_key_env: String,
    /// Requests in flight at once. Default: 32.
    pub concurrency: usize,
    /// Seconds after which a request has failed. Default: 600.
    pub timeout_seconds: f64,
    /// Tries after the first, with growing pauses. Default: 6.
    pub retries: usize,
    /// File in which every answer is kept, so that a run that was stopped asks only what it had not asked. Empty (the
    /// default): none.
    pub journal: PathBuf,
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            model: String::new(),
            api_key_env: String::new(),
            concurrency: 32,
            timeout_seconds: 600.0,
            retries: 6,
            journal: PathBuf::new(),
        }
    }
}

impl EndpointConfig {
    /// Whether one is given.
    pub fn is_given(&self) -> bool {
        !self.url.is_empty()
    }

    pub(crate) fn check(&self) -> Verdict {
        let address = self.url.starts_with("http://") || self.url.starts_with("https://");
        ensure(address, "url", format!("`{}`", self.url), "an address such as http://node7:8000/v1")?;
        given(!self.model.is_empty(), "model", "the model's name at the endpoint")?;
        at_least("concurrency", self.concurrency, 1)?;
        let seconds = self.timeout_seconds;
        ensure(seconds > 0.0 && seconds <= 86_400.0, "timeout_seconds", seconds, "more than 0, at most 86400 (a day)")
    }
}
