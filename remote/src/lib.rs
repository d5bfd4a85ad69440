//! A [`Completer`] for a model behind an OpenAI-compatible endpoint (`xplore serve`, vLLM, a hosted service).
//!
//! Requests are sent concurrently, each with a timeout. Transient failures (connection lost, 408, 409, 425, 429, 5xx)
//! are retried with exponential backoff. With a journal, every answer is written to disk as it arrives, so an
//! interrupted job only repeats the requests it has no answer for.

mod journal;
mod wire;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use backon::{BlockingRetryable, ExponentialBuilder};
use chat::completer::{CompleterError, Usage};
use chat::{Completer, Completion, CompletionRequest};
use serde_json::Value as Json;

use journal::Journal;

/// The address of the endpoint, and the limits of its requests.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// The base URL with the version, e.g. `http://node7:8000/v1`.
    pub url: String,
    /// The name of the model at the endpoint.
    pub model: String,
    /// The bearer token.
    pub api_key: Option<String>,
    /// The maximum number of requests in flight.
    pub concurrency: usize,
    /// The timeout of a request.
    pub timeout: Duration,
    /// The maximum number of retries after the first attempt.
    pub retries: usize,
    /// The pause before the first retry; each further pause is twice as long, with random jitter added.
    pub first_pause: Duration,
    /// Fields that requests do not send, such as `temperature`, so that the server's own defaults apply.
    pub server_defaults: Vec<&'static str>,
}

impl ClientSettings {
    /// Creates settings with the defaults: 32 concurrent requests, a timeout of ten minutes, and six retries starting
    /// at half a second.
    pub fn new(url: &str, model: &str) -> Self {
        Self {
            url: url.trim_end_matches('/').into(),
            model: model.into(),
            api_key: None,
            concurrency: 32,
            timeout: Duration::from_secs(600),
            retries: 6,
            first_pause: Duration::from_millis(500),
            server_defaults: Vec::new(),
        }
    }
}

/// A model behind an OpenAI-compatible endpoint.
#[derive(Debug)]
pub struct RemoteModel {
    settings: ClientSettings,
    agent: ureq::Agent,
    journal: Option<Mutex<Journal>>,
    /// Whether a retry was reported.
    warned: AtomicBool,
    /// Tokens of the answers that were sent over the network.
    usage: Mutex<Usage>,
}

/// The error of a failed attempt.
#[derive(Debug)]
struct Failed {
    message: String,
    /// Whether the failure is transient, so that a retry may succeed.
    passing: bool,
}

impl RemoteModel {
    /// Creates a client without sending anything.
    pub fn new(settings: ClientSettings) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(settings.timeout))
            .http_status_as_error(false)
            .max_idle_connections_per_host(settings.concurrency.max(1))
            .build()
            .new_agent();
        Self { settings, agent, journal: None, warned: AtomicBool::new(false), usage: Mutex::default() }
    }

    /// Writes every answer to `file`, and reuses the answers that it already holds.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened, or a line of it is not a journal's (an incomplete last line is
    /// dropped).
    pub fn with_journal(mut self, file: &Path) -> Result<Self, CompleterError> {
        let journal = Journal::open(file).map_err(|e| CompleterError::Model(format!("{}: {e}", file.display())))?;
        self.journal = Some(Mutex::new(journal));
        Ok(self)
    }

    fn ask(&self, request: &CompletionRequest) -> Result<Completion, String> {
        let mut body = wire::body(request, &self.settings.model)?;
        if let Some(fields) = body.as_object_mut() {
            fields.retain(|field, _| !self.settings.server_defaults.contains(&field.as_str()));
        }
        let kept = self.with_the_journal(|journal| journal.get(&body));
        if let Some(answer) = kept.flatten() {
            return wire::completion(&answer, request);
        }
        let pauses = ExponentialBuilder::default()
            .with_min_delay(self.settings.first_pause)
            .with_max_delay(Duration::from_secs(60))
            .with_max_times(self.settings.retries)
            .with_jitter();
        let retried = |failed: &Failed, pause: Duration| {
            // Of many concurrent requests that fail for the same reason, one warning is enough.
            match self.warned.swap(true, Ordering::Relaxed) {
                false => tracing::warn!("{}; retrying, at most {} times", failed.message, self.settings.retries),
                true => tracing::debug!("{}; retrying in {:.1} s", failed.message, pause.as_secs_f64()),
            }
        };
        let sent = (|| self.send(&body)).retry(pauses).when(|failed: &Failed| failed.passing).notify(retried).call();
        let answer = sent.map_err(|failed| failed.message)?;
        {
            // The sum is complete even if a thread panicked while holding it.
            let mut usage = self.usage.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            *usage = usage.plus(wire::usage(&answer));
        }
        let completion = wire::completion(&answer, request)?;
        if let Some(kept) = self.with_the_journal(|journal| journal.put(&body, &answer)) {
            kept.map_err(|e| format!("cannot write the journal: {e}; free disk space and restart"))?;
        }
        Ok(completion)
    }

    fn with_the_journal<T>(&self, f: impl FnOnce(&mut Journal) -> T) -> Option<T> {
        // A thread that panicked while holding the journal leaves at worst an incomplete last line.
        self.journal.as_ref().map(|journal| f(&mut journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner)))
    }

    fn send(&self, body: &Json) -> Result<Json, Failed> {
        let url = format!("{}/chat/completions", self.settings.url);
        let mut request = self.agent.post(&url);
        if let Some(key) = &self.settings.api_key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let lost = |e: ureq::Error| Failed { message: format!("{url}: {e}"), passing: is_transient(&e) };
        let mut response = request.send_json(body).map_err(lost)?;
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(256 << 20).read_to_string().map_err(lost)?;
        if (200..300).contains(&status) {
            let parsed = serde_json::from_str(&text);
            return parsed
                .map_err(|e| Failed { message: format!("{url}: the response is not JSON: {e}"), passing: false });
        }
        let said = serde_json::from_str::<Json>(&text).ok();
        let said = said.as_ref().and_then(|json| json["error"]["message"].as_str().or(json["message"].as_str()));
        let said = said.unwrap_or(text.trim()).chars().take(500).collect::<String>();
        let passing = matches!(status, 408 | 409 | 425 | 429) || status >= 500;
        Err(Failed { message: format!("{url} returned status {status}: {said}"), passing })
    }
}

/// Returns whether a request that failed with `error` may succeed if it is sent again.
fn is_transient(error: &ureq::Error) -> bool {
    use ureq::Error::{
        BadUri, BodyExceedsLimit, Http, InvalidProxyUrl, RedirectFailed, RequireHttpsOnly, TooManyRedirects,
    };
    !matches!(
        error,
        BadUri(_)
            | BodyExceedsLimit(_)
            | Http(_)
            | InvalidProxyUrl
            | RedirectFailed
            | RequireHttpsOnly(_)
            | TooManyRedirects
    )
}

impl Completer for RemoteModel {
    fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let answers: Vec<Mutex<Option<Result<Completion, String>>>> =
            requests.iter().map(|_| Mutex::new(None)).collect();
        thread::scope(|scope| {
            for _ in 0..self.settings.concurrency.clamp(1, requests.len().max(1)) {
                scope.spawn(|| {
                    // After a failure no new request is sent; the journal keeps the answers of those in flight.
                    while !failed.load(Ordering::Relaxed) {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(request) = requests.get(index) else { break };
                        let answer = self.ask(request);
                        failed.fetch_or(answer.is_err(), Ordering::Relaxed);
                        if let Ok(mut place) = answers[index].lock() {
                            *place = Some(answer);
                        }
                    }
                });
            }
        });
        let mut completions = Vec::with_capacity(requests.len());
        let mut unasked = None;
        for (index, place) in answers.into_iter().enumerate() {
            match place.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
                Some(Ok(completion)) => completions.push(completion),
                Some(Err(message)) => return Err(CompleterError::Request { index, message }),
                None => unasked = unasked.or(Some(index)),
            }
        }
        match unasked {
            None => Ok(completions),
            Some(index) => Err(CompleterError::Request { index, message: "not sent: another request failed".into() }),
        }
    }

    fn name(&self) -> &str {
        &self.settings.model
    }

    fn usage(&self) -> Usage {
        *self.usage.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_succeed_is_not_sent_again() {
        assert!(!is_transient(&ureq::Error::BadUri("no scheme".into())));
        assert!(is_transient(&ureq::Error::ConnectionFailed));
        let settings =
            ClientSettings { first_pause: Duration::from_secs(60), ..ClientSettings::new("no scheme", "tiny") };
        let client = RemoteModel::new(settings);
        let failed = client.send(&Json::Null).unwrap_err();
        assert!(!failed.passing && failed.message.contains("no scheme"), "{failed:?}");
    }
}
