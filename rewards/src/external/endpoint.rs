//! An endpoint that answers requests that are posted to it.

use std::time::Duration;

use super::Failure;

/// Maximum length of an answer, bytes.
const MAX_ANSWER: u64 = 64 << 20;

/// A connection to an endpoint.
pub struct Endpoint {
    agent: ureq::Agent,
    url: String,
}

impl Endpoint {
    /// Creates a client without sending anything.
    pub fn new(url: &str) -> Self {
        Self { agent: ureq::Agent::config_builder().http_status_as_error(false).build().new_agent(), url: url.into() }
    }

    /// Posts a line and returns the body of the response.
    ///
    /// # Errors
    /// Returns [`Failure::Lost`] if the endpoint cannot be reached, does not answer within `timeout`, or is overloaded or broken
    /// (408, 409, 425, 429, 5xx), and [`Failure::Refused`] for any other status.
    pub fn exchange(&self, line: &str, timeout: Duration) -> Result<String, Failure> {
        let failed = |error: ureq::Error| match error {
            ureq::Error::Timeout(_) => Failure::Lost(format!("it did not answer within {} s", timeout.as_secs_f64())),
            error if is_transient(&error) => Failure::Lost(error.to_string()),
            error => Failure::Refused(error.to_string()),
        };
        let request = self.agent.post(&self.url).config().timeout_global(Some(timeout)).build();
        let mut response = request.header("Content-Type", "application/json").send(line).map_err(failed)?;
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(MAX_ANSWER).read_to_string().map_err(failed)?;
        if (200..300).contains(&status) {
            return Ok(text);
        }
        let said = text.trim().chars().take(500).collect::<String>();
        let message = format!("it returned status {status}: {said}");
        match matches!(status, 408 | 409 | 425 | 429) || status >= 500 {
            true => Err(Failure::Lost(message)),
            false => Err(Failure::Refused(message)),
        }
    }
}

/// Returns whether a request that failed with `error` may succeed if it is sent again.
fn is_transient(error: &ureq::Error) -> bool {
    use ureq::Error::{BadUri, BodyExceedsLimit, Http, InvalidProxyUrl, RedirectFailed, TooManyRedirects};
    !matches!(error, BadUri(_) | BodyExceedsLimit(_) | Http(_) | InvalidProxyUrl | RedirectFailed | TooManyRedirects)
}
