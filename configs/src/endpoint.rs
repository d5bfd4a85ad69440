//! A model served by another process.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::check::{CheckResult, at_least, ensure, given};

/// An OpenAI-compatible endpoint: `xplore serve` on another node, vLLM, or a hosted service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EndpointConfig {
    /// Base URL including the API version, such as `http://node7:8000/v1`. Empty (the default): the model runs in this process.
    pub url: String,
    /// Name of the model at the endpoint. Required with `url`.
    pub model: String,
    /// Name of the environment variable that holds the bearer token. Empty (the default): no token is sent.
    pub api_key_env: String,
    /// Maximum number of concurrent requests. Default: 32.
    pub concurrency: usize,
    /// Timeout of a request in seconds. Default: 600.
    pub timeout_seconds: f64,
    /// Number of retries after the first attempt, with increasing backoff. Default: 6.
    pub retries: usize,
    /// File that stores every response, so that an interrupted run sends only the requests that have no response yet. Empty (the
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
    /// Returns whether an endpoint is configured.
    pub fn is_given(&self) -> bool {
        !self.url.is_empty()
    }

    pub(crate) fn check(&self) -> CheckResult {
        let address = self.url.starts_with("http://") || self.url.starts_with("https://");
        ensure(address, "url", format!("`{}`", self.url), "a URL such as http://node7:8000/v1")?;
        given(!self.model.is_empty(), "model", "the name of the model at the endpoint")?;
        at_least("concurrency", self.concurrency, 1)?;
        let seconds = self.timeout_seconds;
        ensure(seconds > 0.0 && seconds <= 86_400.0, "timeout_seconds", seconds, "above 0, at most 86400 (one day)")
    }
}
