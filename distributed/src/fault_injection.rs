//! Fault injection, to test that a job ends cleanly when a rank fails.
//!
//! `XPLORE_FAULT=rank:kill:3:sum the gradients` kills that rank, like `kill -9`, when it enters the third collective whose name
//! begins with that text; `rank:stop:…` stops it, like SIGSTOP.

use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Signal, getpid, kill_process};

/// The fault to inject into this rank, and its trigger.
#[derive(Debug)]
pub(crate) struct FaultInjection {
    signal: Signal,
    at: u64,
    name: String,
    met: AtomicU64,
}

impl FaultInjection {
    /// Returns the fault that the environment specifies for `rank`.
    pub fn from_env(rank: usize) -> Option<Self> {
        Self::of(&std::env::var("XPLORE_FAULT").ok()?, rank)
    }

    fn of(text: &str, rank: usize) -> Option<Self> {
        let mut parts = text.splitn(4, ':');
        let (who, how, at, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if who.parse() != Ok(rank) {
            return None;
        }
        let signal = match how {
            "kill" => Signal::KILL,
            "stop" => Signal::STOP,
            _ => return None,
        };
        Some(Self { signal, at: at.parse().ok()?, name: name.into(), met: AtomicU64::new(0) })
    }

    /// Injects the fault if this collective triggers it.
    pub fn trigger(&self, what: &str) {
        if what.starts_with(&self.name) && self.met.fetch_add(1, Ordering::Relaxed) + 1 == self.at {
            let _ = kill_process(getpid(), self.signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_for_one_rank() {
        let fault = FaultInjection::of("1:stop:2:sum: all", 1).unwrap();
        assert_eq!((fault.signal, fault.at, &*fault.name), (Signal::STOP, 2, "sum: all"));
        for other in ["0:stop:2:sum", "1:hurt:2:sum", "1:kill:sum", ""] {
            assert!(FaultInjection::of(other, 1).is_none(), "{other}");
        }
    }
}
