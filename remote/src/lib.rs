//! A [`Completer`] for a model behind an OpenAI-compatible endpoint (`xplore serve`, vLLM, a hosted service).
//!
//! Requests are sent concurrently, each with a timeout. Transient failures (connection lost, a response that is not an answer, 408,
//! 409, 425, 429, 5xx) are retried with exponential backoff. With a journal, every answer is written to disk as it arrives, so an
//! interrupted job only repeats the requests it has no answer for.

mod failure;
#[cfg(test)]
mod tests;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use backon::{BlockingRetryable, ExponentialBuilder};
use chat::completer::{CompleterError, Done, Failures, JournalStats, Usage};
use chat::journal::{Journal, key};
use chat::{Completer, Completion, CompletionRequest};
use serde_json::Value as Json;

use crate::failure::{Cause, Failed, Outage};

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
    journal: Option<(PathBuf, Mutex<Journal>)>,
    /// Returns whether no further request should be sent.
    stop: fn() -> bool,
    outage: Outage,
    /// Whether a retry was reported.
    warned: AtomicBool,
    /// Tokens of the answers that were sent over the network.
    usage: Mutex<Usage>,
    stats: Mutex<JournalStats>,
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
        Self {
            outage: Outage::new(settings.concurrency),
            settings,
            agent,
            journal: None,
            stop: || false,
            warned: AtomicBool::new(false),
            usage: Mutex::default(),
            stats: Mutex::default(),
        }
    }

    /// Sends no request, and no retry of one, once `stop` returns true. The requests in flight are answered, and a call that has
    /// requests left fails with [`CompleterError::Model`].
    #[must_use]
    pub fn stop_if(self, stop: fn() -> bool) -> Self {
        Self { stop, ..self }
    }

    /// Writes every answer to `file`, and reuses the answers that it already holds.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened, or is not a journal. An incomplete last line is dropped.
    pub fn with_journal(mut self, file: &Path) -> Result<Self, CompleterError> {
        let journal = Journal::open(file).map_err(|e| CompleterError::Model(format!("{}: {e}", file.display())))?;
        if journal.damaged() > 0 {
            let (lines, file) = (journal.damaged(), file.display());
            tracing::warn!("{file}: {lines} lines are no entries of a journal; what they answered is asked again");
        }
        self.journal = Some((file.to_owned(), Mutex::new(journal)));
        Ok(self)
    }

    fn ask(&self, request: &CompletionRequest) -> Result<Completion, Failed> {
        let refused = |message| Failed { message, cause: Cause::Request };
        let mut body = wire::body(request, &self.settings.model).map_err(refused)?;
        if let Some(fields) = body.as_object_mut() {
            fields.retain(|field, _| !self.settings.server_defaults.contains(&field.as_str()));
        }
        let key = key(body.to_string());
        let kept = self.journal.as_ref().and_then(|(_, journal)| lock(journal).get::<Json>(&key));
        if let Some(answer) = kept {
            let completion = wire::completion(&answer, request).map_err(refused)?;
            let mut stats = lock(&self.stats);
            stats.reused += 1;
            stats.reused_usage = stats.reused_usage.plus(wire::usage(&answer));
            return Ok(completion);
        }
        let sent = self.send_patiently(&body, request);
        self.outage.note(sent.as_ref().err().map(|failed| failed.cause));
        let (answer, completion) = sent?;
        lock(&self.stats).sent += 1;
        if let Some((file, journal)) = &self.journal {
            lock(journal).put(&key, &answer).map_err(|e| {
                let message =
                    format!("{}: cannot write: {e}; free disk space and run the command again", file.display());
                Failed { message, cause: Cause::Journal }
            })?;
        }
        Ok(completion)
    }

    /// Sends a request, and sends it again after transient failures.
    fn send_patiently(&self, body: &Json, request: &CompletionRequest) -> Result<(Json, Completion), Failed> {
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
        let stop = self.stop;
        let answered = || -> Result<(Json, Completion), Failed> {
            if stop() {
                return Err(Failed::interrupted());
            }
            let answer = self.send(body)?;
            {
                // An answer that cannot be used is paid for as well.
                let mut usage = lock(&self.usage);
                *usage = usage.plus(wire::usage(&answer));
            }
            // Proxies answer with pages of their own, and services with an error in place of the choices, under status 200.
            let cause = if answer["choices"][0]["message"].is_object() { Cause::Request } else { Cause::Passing };
            let completion = wire::completion(&answer, request).map_err(|message| Failed { message, cause })?;
            Ok((answer, completion))
        };
        // An interrupt ends the pause.
        let pause = move |pause: Duration| {
            let begin = Instant::now();
            while !stop() && begin.elapsed() < pause {
                thread::sleep(pause.saturating_sub(begin.elapsed()).min(Duration::from_millis(100)));
            }
        };
        answered.retry(pauses).sleep(pause).when(|failed| failed.cause == Cause::Passing).notify(retried).call()
    }

    fn send(&self, body: &Json) -> Result<Json, Failed> {
        let url = format!("{}/chat/completions", self.settings.url);
        let mut request = self.agent.post(&url);
        if let Some(key) = &self.settings.api_key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let lost = |e: ureq::Error| Failed { message: format!("{url}: {e}"), cause: Cause::of_transport(&e) };
        let mut response = request.send_json(body).map_err(lost)?;
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(256 << 20).read_to_string().map_err(lost)?;
        if (200..300).contains(&status) {
            return serde_json::from_str(&text).map_err(|e| Failed {
                message: format!("{url}: the response is not JSON: {e}"),
                cause: Cause::Passing,
            });
        }
        let said = serde_json::from_str::<Json>(&text).ok();
        let said = said.as_ref().and_then(|json| json["error"]["message"].as_str().or(json["message"].as_str()));
        let said = said.unwrap_or(text.trim()).chars().take(500).collect::<String>();
        Err(Failed { message: format!("{url} returned status {status}: {said}"), cause: Cause::of_status(status) })
    }

    /// Sends all requests, and no new ones after a failure that ends the call: any, or with [`Failures::Keep`] one that says that
    /// further requests fail as well. The journal keeps the answers of those in flight. Returns the answers, of which those that were
    /// not sent have none, and the failure that ended the call with the index of its request.
    fn ask_all(
        &self,
        requests: &[CompletionRequest],
        failures: Failures,
        done: &mut Done<'_>,
    ) -> Result<(Vec<Option<Answer>>, Option<Ended>), CompleterError> {
        let (next, ended) = (AtomicUsize::new(0), OnceLock::new());
        let answers: Vec<OnceLock<Answer>> = requests.iter().map(|_| OnceLock::new()).collect();
        let ends = |failed: &Failed| {
            let down = failed.cause == Cause::Passing && self.outage.is_certain();
            failures == Failures::Stop || failed.cause.ends_all() || down
        };
        let work = |sender: mpsc::Sender<usize>| {
            while ended.get().is_none() {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(request) = requests.get(index) else { break };
                let answer = if (self.stop)() { Err(Failed::interrupted()) } else { self.ask(request) };
                if let Some(failed) = answer.as_ref().err().filter(|&failed| ends(failed)) {
                    // The first failure is the cause of what follows.
                    let _ = ended.set((index, failed.clone()));
                }
                // Each index is drawn once, and the receiver outlives the threads.
                let _ = answers[index].set(answer.map_err(|failed| failed.message));
                let _ = sender.send(index);
            }
        };
        thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            for _ in 0..self.settings.concurrency.clamp(1, requests.len().max(1)) {
                let (work, sender) = (&work, sender.clone());
                scope.spawn(move || work(sender));
            }
            drop(sender);
            let mut kept = Ok(());
            for index in receiver {
                if kept.is_ok()
                    && let Some(Ok(completion)) = answers[index].get()
                {
                    kept = done(index, completion);
                    if kept.is_err() {
                        let _ = ended.set((index, Failed::interrupted()));
                    }
                }
            }
            kept
        })?;
        Ok((answers.into_iter().map(OnceLock::into_inner).collect(), ended.into_inner()))
    }
}

/// The failure that ended a call, with the index of its request.
type Ended = (usize, Failed);

/// The answer to a request, or the message of its failure.
type Answer = Result<Completion, String>;

/// Locks what a thread may have panicked with: sums are complete, and a journal has at worst an incomplete last line.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Completer for RemoteModel {
    fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
        let answers = self.complete_with(requests, Failures::Stop, &mut |_, _| Ok(()))?;
        answers.into_iter().map(|answer| answer.map_err(CompleterError::Model)).collect()
    }

    fn complete_each(&self, requests: &[CompletionRequest]) -> Result<Vec<Answer>, CompleterError> {
        self.complete_with(requests, Failures::Keep, &mut |_, _| Ok(()))
    }

    fn complete_with(
        &self,
        requests: &[CompletionRequest],
        failures: Failures,
        done: &mut Done<'_>,
    ) -> Result<Vec<Answer>, CompleterError> {
        let before = self.outage.responses();
        let (answers, ended) = self.ask_all(requests, failures, done)?;
        let message = match ended {
            Some((index, Failed { message, cause: Cause::Request })) => {
                return Err(CompleterError::Request { index, message });
            }
            Some((_, Failed { message, cause: Cause::Passing })) if failures == Failures::Keep => {
                self.outage.describe(&message)
            }
            Some((_, Failed { message, .. })) => message,
            None => {
                let last = answers.iter().flatten().filter_map(|answer| answer.as_ref().err()).next_back();
                match last {
                    // No request of the call got a response.
                    Some(last) if self.outage.is_likely() && self.outage.responses() == before => {
                        self.outage.describe(last)
                    }
                    _ => return Ok(answers.into_iter().flatten().collect()),
                }
            }
        };
        Err(CompleterError::Model(message))
    }

    fn name(&self) -> &str {
        &self.settings.model
    }

    fn usage(&self) -> Usage {
        *lock(&self.usage)
    }

    fn journal_stats(&self) -> JournalStats {
        *lock(&self.stats)
    }
}
