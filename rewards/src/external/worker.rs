//! A program or an endpoint that computes a term.

use std::time::Duration;

use super::Failure;
use super::endpoint::Endpoint;
use super::process::Process;

/// A process or a connection.
pub enum ExternalWorker {
    /// A program.
    Process(Process),
    /// A URL.
    Endpoint(Endpoint),
}

impl ExternalWorker {
    /// Sends a line and returns the answer.
    pub fn exchange(&mut self, line: &str, timeout: Duration) -> Result<String, Failure> {
        match self {
            Self::Process(process) => process.exchange(line, timeout).map_err(Failure::Lost),
            Self::Endpoint(endpoint) => endpoint.exchange(line, timeout),
        }
    }

    /// Tells a process that there are no more requests.
    pub fn close_input(&mut self) {
        if let Self::Process(process) = self {
            process.close_input();
        }
    }

    /// Returns `message` with the last lines of the process's standard error.
    pub fn with_stderr(&self, message: &str) -> String {
        match self {
            Self::Process(process) => process.with_stderr(message),
            Self::Endpoint(_) => message.into(),
        }
    }
}
