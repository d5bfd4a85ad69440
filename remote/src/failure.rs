//! What a failed request says about further ones.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The error of a request.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    pub message: String,
    pub cause: Cause,
}

impl Failed {
    /// Returns the error of a request that is not sent because a stop was requested.
    pub fn interrupted() -> Self {
        Self { message: "interrupted".into(), cause: Cause::Interrupted }
    }
}

/// The cause of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The endpoint is busy or cannot be reached; a retry may succeed.
    Passing,
    /// The endpoint refuses this request, or its answer cannot be used.
    Request,
    /// No request can succeed, as with a wrong address, API key or model name.
    Endpoint,
    /// The answer cannot be written to the journal.
    Journal,
    /// A stop was requested.
    Interrupted,
}

impl Cause {
    /// Returns the cause of a status other than 2xx.
    pub fn of_status(status: u16) -> Self {
        match status {
            408 | 409 | 425 | 429 | 500.. => Self::Passing,
            // A service may also forbid (403) a single request for what it says.
            401 | 402 | 404 | 405 => Self::Endpoint,
            _ => Self::Request,
        }
    }

    /// Returns the cause of an error of the connection.
    pub fn of_transport(error: &ureq::Error) -> Self {
        use ureq::Error::{
            BadUri, BodyExceedsLimit, Http, InvalidProxyUrl, RedirectFailed, RequireHttpsOnly, TooManyRedirects,
        };
        match error {
            BodyExceedsLimit(_) => Self::Request,
            BadUri(_) | Http(_) | InvalidProxyUrl | RedirectFailed | RequireHttpsOnly(_) | TooManyRedirects => {
                Self::Endpoint
            }
            _ => Self::Passing,
        }
    }

    /// Returns whether further requests fail as well.
    pub fn ends_all(self) -> bool {
        matches!(self, Self::Endpoint | Self::Journal | Self::Interrupted)
    }
}

/// Tells an endpoint that is down from one that fails on single requests, over all calls of a client.
#[derive(Debug)]
pub(crate) struct Outage {
    /// The number of requests that got no response, all retries included, since the last response.
    failures: AtomicUsize,
    /// The number of responses: answers and refusals.
    responses: AtomicUsize,
    /// The number of failures that is taken for an outage.
    most: usize,
}

/// The number of failures from which a call without any response is taken for an outage.
const LEAST: usize = 4;

impl Outage {
    /// Creates a counter for an endpoint with this many requests in flight.
    pub fn new(concurrency: usize) -> Self {
        Self {
            failures: AtomicUsize::new(0),
            responses: AtomicUsize::new(0),
            most: concurrency.saturating_mul(2).max(8),
        }
    }

    /// Counts the result of a request that was sent; `None` is an answer. What a journal answers says nothing about the endpoint.
    pub fn note(&self, failure: Option<Cause>) {
        match failure {
            Some(Cause::Passing) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
            }
            None | Some(Cause::Request) => {
                self.failures.store(0, Ordering::Relaxed);
                self.responses.fetch_add(1, Ordering::Relaxed);
            }
            Some(Cause::Endpoint | Cause::Journal | Cause::Interrupted) => {}
        }
    }

    /// Returns the number of responses so far.
    pub fn responses(&self) -> usize {
        self.responses.load(Ordering::Relaxed)
    }

    /// Returns whether the endpoint is down although some requests of the same call may have been answered.
    pub fn is_certain(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= self.most
    }

    /// Returns whether the endpoint is down if no request of a call was answered.
    pub fn is_likely(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= LEAST
    }

    /// Returns the message about an endpoint that is down.
    pub fn describe(&self, last: &str) -> String {
        let failures = self.failures.load(Ordering::Relaxed);
        format!(
            "{failures} requests failed one after another, so the endpoint seems down; run the command again when it is up (the \
             last failure: {last})"
        )
    }
}
