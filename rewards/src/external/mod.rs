//! Reward terms that a program or an endpoint computes, without rebuilding Xplore.
//!
//! - `protocol`: the lines that both sides exchange: a handshake, then a request and an answer at a time. `requests`: which responses
//!   a request holds.
//! - `process`: a program, whose standard input and output carry the lines; `stderr_tail` keeps the last lines of its standard error.
//! - `endpoint`: a URL that the lines are posted to. `worker`: either of the two.
//!
//! A term has `workers` of either kind. They are started once, before the first step, and share the requests of a stage. One rank
//! asks; the other ranks get its answers, so that all of them compute with the same bits.

mod endpoint;
mod process;
mod protocol;
mod requests;
mod stderr_tail;
mod worker;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use configs::rl::{ExternalConfig, ExternalSource};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::endpoint::Endpoint;
use self::process::Process;
use self::protocol::Answer;
pub use self::protocol::VERSION;
use self::requests::split;
use self::worker::ExternalWorker;
use crate::batch::{RewardBatch, RewardResponse};
use crate::error::RewardError;
use crate::terms::RewardTerm;

/// Pause between two handshakes with an endpoint that is starting.
const POLL: Duration = Duration::from_millis(250);
/// Number of requests in a row that are lost before the others of the stage are not sent any more.
const MAX_LOST: usize = 3;

/// The scores of an external term.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExternalScores {
    /// Name of the term.
    pub term: String,
    /// One score per response, in order.
    pub scores: Vec<f64>,
    /// Metrics of the term: the means of those of its answers, weighted by the number of responses; `retries`; with a fallback,
    /// the fraction of responses that have it.
    pub metrics: Vec<(String, f64)>,
}

/// Why a request has no scores.
#[derive(Debug)]
enum Failure {
    /// The worker is lost: it ended, did not answer in time, or wrote something else. Another attempt may succeed.
    Lost(String),
    /// The worker answered, but with an error or with scores that cannot be used. It would answer the same again.
    Refused(String),
}

impl Failure {
    fn message(&self) -> &str {
        match self {
            Self::Lost(message) | Self::Refused(message) => message,
        }
    }
}

/// The answer to one request, or why it has none, and the number of attempts after the first.
struct Scored {
    answer: Result<Answer, Failure>,
    retries: usize,
}

/// What the workers of a stage share.
#[derive(Default)]
struct StageProgress {
    /// Index of the next request.
    next: AtomicUsize,
    /// Whether a failure ends the run.
    stop: AtomicBool,
    /// Number of requests in a row that were lost.
    lost: AtomicUsize,
}

/// A reward term that a program or an endpoint computes.
pub struct ExternalTerm {
    name: String,
    params: Value,
    config: ExternalConfig,
    /// One entry per worker; `None` until it is started, and after it was lost.
    workers: Vec<Mutex<Option<ExternalWorker>>>,
    next_id: AtomicU64,
    /// Whether a retry was reported.
    warned: AtomicBool,
}

impl ExternalTerm {
    /// Creates the term `name` without starting its workers. `params` is passed on to them.
    pub fn new(name: &str, params: &Value, config: ExternalConfig) -> Self {
        let workers = (0..config.workers.max(1)).map(|_| Mutex::new(None)).collect();
        Self {
            name: name.into(),
            params: params.clone(),
            config,
            workers,
            next_id: AtomicU64::new(0),
            warned: AtomicBool::new(false),
        }
    }

    /// Starts the workers and waits until each has answered the handshake.
    ///
    /// # Errors
    /// Returns [`RewardError::External`] if a worker cannot be started, does not answer in time, or speaks another version of the
    /// protocol.
    pub fn start(&self) -> Result<(), RewardError> {
        let started: Vec<Result<(), Failure>> = thread::scope(|scope| {
            let threads: Vec<_> =
                self.workers.iter().map(|worker| scope.spawn(move || self.start_worker(&mut lock(worker)))).collect();
            let lost = |_| Err(Failure::Lost("the thread that starts it panicked".into()));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(lost)).collect()
        });
        match started.into_iter().find_map(Result::err) {
            None => Ok(()),
            Some(failure) => Err(self.error(failure.message().into())),
        }
    }

    fn start_worker(&self, worker: &mut Option<ExternalWorker>) -> Result<(), Failure> {
        if worker.is_none() {
            *worker = Some(self.open()?);
        }
        Ok(())
    }

    /// Returns the scores of `responses`, which are those of a stage of step `step`, counted from 0. Starts workers that are not
    /// running.
    ///
    /// # Errors
    /// Returns [`RewardError::External`] if responses remain without a score and the term has no fallback. With a fallback, a term
    /// that loses three requests in a row is not asked the others, each of which would cost its time limit again.
    pub fn ask(&self, step: u64, responses: &[RewardResponse<'_>]) -> Result<ExternalScores, RewardError> {
        let requests = split(responses, self.config.batch_size);
        let progress = StageProgress::default();
        let answers: Vec<Mutex<Option<Scored>>> = requests.iter().map(|_| Mutex::new(None)).collect();
        thread::scope(|scope| {
            for worker in self.workers.iter().take(requests.len()) {
                let (requests, answers, progress) = (&requests, &answers, &progress);
                scope.spawn(move || {
                    let mut worker = lock(worker);
                    while !progress.stop.load(Ordering::Relaxed) {
                        let index = progress.next.fetch_add(1, Ordering::Relaxed);
                        let Some(range) = requests.get(index) else { break };
                        let scored = self.score_unless_lost(progress, &mut worker, step, &responses[range.clone()]);
                        *lock(&answers[index]) = Some(scored);
                    }
                });
            }
        });
        let answers = answers.into_iter().map(|answer| answer.into_inner().unwrap_or_else(PoisonError::into_inner));
        self.gather(step, &requests, answers.collect())
    }

    /// Sends one request, unless those before it were lost.
    fn score_unless_lost(
        &self,
        progress: &StageProgress,
        worker: &mut Option<ExternalWorker>,
        step: u64,
        responses: &[RewardResponse<'_>],
    ) -> Scored {
        if progress.lost.load(Ordering::Relaxed) >= MAX_LOST {
            let message = format!("not asked: the {MAX_LOST} requests before it were lost");
            return Scored { answer: Err(Failure::Lost(message)), retries: 0 };
        }
        let scored = self.score_request(worker, step, responses);
        match &scored.answer {
            Err(Failure::Lost(_)) => {
                progress.lost.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) | Err(Failure::Refused(_)) => progress.lost.store(0, Ordering::Relaxed),
        }
        // Without a fallback, the first failure ends the run.
        progress.stop.fetch_or(scored.answer.is_err() && self.config.fallback.is_none(), Ordering::Relaxed);
        scored
    }

    /// Sends one request, again after a failure that may pass.
    fn score_request(
        &self,
        worker: &mut Option<ExternalWorker>,
        step: u64,
        responses: &[RewardResponse<'_>],
    ) -> Scored {
        let mut retries = 0;
        loop {
            match self.attempt(worker, step, responses) {
                Ok(answer) => return Scored { answer: Ok(answer), retries },
                Err(Failure::Lost(message)) if retries < self.config.retries => {
                    // Of many requests that fail for the same reason, one warning is enough.
                    match self.warned.swap(true, Ordering::Relaxed) {
                        false => tracing::warn!("reward term `{}`: {message}; trying again", self.name),
                        true => tracing::debug!("reward term `{}`: {message}; trying again", self.name),
                    }
                    self.pause(retries);
                    retries += 1;
                }
                Err(failure) => return Scored { answer: Err(failure), retries },
            }
        }
    }

    /// Waits before a request to an endpoint is sent again: 0.5 s, and twice as long each time. A process is restarted at once.
    fn pause(&self, retries: usize) {
        if let ExternalSource::Url(_) = self.config.source {
            thread::sleep(Duration::from_millis(500 << retries.min(6)));
        }
    }

    /// Sends one request once. A process that is lost is stopped; the next attempt starts another one.
    fn attempt(
        &self,
        worker: &mut Option<ExternalWorker>,
        step: u64,
        responses: &[RewardResponse<'_>],
    ) -> Result<Answer, Failure> {
        let running = match worker {
            Some(running) => running,
            None => worker.insert(self.open()?),
        };
        // A process that wrote a line too many is detected by the id of its next answer.
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let line = protocol::request((&self.name, &self.params), id, step, responses);
        let told = running.exchange(&line, seconds(self.config.timeout_seconds));
        let answered = told.and_then(|line| protocol::answer(&line, id, responses));
        let Err(Failure::Lost(message)) = answered else { return answered };
        let message = running.with_stderr(&message);
        if let ExternalWorker::Process(_) = running {
            *worker = None;
        }
        Err(Failure::Lost(message))
    }

    /// Starts a worker and exchanges the handshake. An endpoint may still be starting: it is asked until the time limit.
    fn open(&self) -> Result<ExternalWorker, Failure> {
        let mut worker = match &self.config.source {
            ExternalSource::Command(command) => {
                ExternalWorker::Process(Process::start(command).map_err(Failure::Lost)?)
            }
            ExternalSource::Url(url) => ExternalWorker::Endpoint(Endpoint::new(url)),
        };
        let line = protocol::handshake(&self.name, &self.params);
        let (begin, limit) = (Instant::now(), seconds(self.config.start_timeout_seconds));
        let mut waits = false;
        loop {
            let left = if waits { limit.saturating_sub(begin.elapsed()).max(POLL) } else { limit };
            let told = worker.exchange(&line, left);
            if let (ExternalWorker::Endpoint(_), Err(Failure::Lost(message))) = (&worker, &told)
                && begin.elapsed() + POLL < limit
            {
                if !waits {
                    let most = limit.as_secs_f64();
                    tracing::warn!(
                        "reward term `{}`: {message}; waiting for the endpoint, at most {most} s",
                        self.name
                    );
                }
                waits = true;
                thread::sleep(POLL);
                continue;
            }
            let greeted = told.and_then(|line| protocol::check_handshake(&line));
            let Err(failure) = greeted else { return Ok(worker) };
            let message = format!("the handshake failed: {}", failure.message());
            return Err(Failure::Lost(worker.with_stderr(&message)));
        }
    }

    /// Puts the answers together, in the order of the requests.
    fn gather(
        &self,
        step: u64,
        requests: &[Range<usize>],
        answers: Vec<Option<Scored>>,
    ) -> Result<ExternalScores, RewardError> {
        let (mut scores, mut sums) = (Vec::new(), BTreeMap::<String, (f64, f64)>::new());
        let (mut retries, mut without, mut reason) = (0, 0, None);
        let count = requests.last().map_or(0, |range| range.end);
        // Requests after one that ends the run were not sent and have no answer.
        for (range, scored) in requests.iter().zip(answers.into_iter().flatten()) {
            retries += scored.retries;
            match (scored.answer, self.config.fallback) {
                (Ok(answer), _) => {
                    scores.extend(answer.scores);
                    for (key, value) in answer.metrics {
                        let (sum, weight) = sums.entry(key).or_default();
                        *sum += value * range.len() as f64;
                        *weight += range.len() as f64;
                    }
                }
                (Err(failure), None) => {
                    return Err(self.error(format!("step {}: {}", step + 1, failure.message())));
                }
                (Err(failure), Some(fallback)) => {
                    without += range.len();
                    reason.get_or_insert(failure);
                    scores.extend(std::iter::repeat_n(fallback, range.len()));
                }
            }
        }
        if let Some(reason) = reason {
            tracing::warn!(
                "reward term `{}`: step {}: {without} of {count} responses have the fallback score: {}",
                self.name,
                step + 1,
                reason.message()
            );
        }
        let mut metrics: Vec<(String, f64)> =
            sums.into_iter().map(|(key, (sum, weight))| (key, sum / weight)).collect();
        metrics.push((protocol::RETRIES.into(), retries as f64));
        if self.config.fallback.is_some() {
            metrics.push((protocol::FALLBACK.into(), without as f64 / count.max(1) as f64));
        }
        Ok(ExternalScores { term: self.name.clone(), scores, metrics })
    }

    fn error(&self, message: String) -> RewardError {
        let origin = match &self.config.source {
            ExternalSource::Command(command) => protocol::first_words(&command.join(" ")),
            ExternalSource::Url(url) => url.clone(),
        };
        RewardError::External { term: self.name.clone(), origin, message }
    }
}

impl RewardTerm for ExternalTerm {
    /// Asks the workers. A composition asks them before, and only on one rank.
    fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError> {
        Ok(self.ask(batch.step, batch.responses)?.scores)
    }

    fn external(&self) -> Option<&ExternalTerm> {
        Some(self)
    }

    /// Any number: the program decides.
    fn range(&self) -> (f64, f64) {
        (f64::NEG_INFINITY, f64::INFINITY)
    }
}

impl Drop for ExternalTerm {
    fn drop(&mut self) {
        // All programs end at the same time. Each is waited for when it is dropped.
        for worker in &mut self.workers {
            if let Some(worker) = worker.get_mut().unwrap_or_else(PoisonError::into_inner) {
                worker.close_input();
            }
        }
    }
}

/// Locks a mutex whose contents stay valid if a thread panics while it holds the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns a duration of at most a day, which is the maximum of the config.
fn seconds(seconds: f64) -> Duration {
    let day = Duration::from_secs(86_400);
    Duration::try_from_secs_f64(seconds).unwrap_or(day).min(day)
}
