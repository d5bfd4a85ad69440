//! Heartbeats. Every [`BEAT`], each rank writes to the store that it is alive and which collective it is in. A rank whose
//! collective failed can then report which rank is gone, and which is stuck where.
//!
//! Each rank also monitors the next one. If that rank falls silent, the monitor publishes it, and every rank aborts its collectives
//! in flight. NCCL needs this, because waiting for one of its collectives does not block the host and so never fails; a Gloo
//! collective reports a stopped rank before its timeout.

use std::fmt;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use c10d::{ProcessGroup, Store};
use torch_ext::TorchError;

use crate::fault_injection::FaultInjection;

const BEAT: Duration = Duration::from_millis(400);
/// Time without a new beat after which a rank is gone, once a collective has failed.
const SILENCE: Duration = Duration::from_millis(2500);
/// Bounds of the time without a new beat after which a rank is gone even if no collective failed. The time is half the timeout of
/// collectives, clamped to these bounds.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));
/// Number of consecutive checks with an unchanged beat after which a rank reports the next one. Checks are counted, not time: if a
/// whole job was suspended and continued, no rank is gone.
const LOOKS: u32 = 6;

/// Key in the store of the reason why the job ended.
const LOST: &str = "lost";
/// Value that replaces the beat of a rank that finished.
const LEFT: &[u8] = b"left";

/// The collective that a rank is in, or was in last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Number of collectives started so far.
    pub count: u64,
    /// The name of the last collective.
    pub what: String,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            0 => f.write_str("no collective yet"),
            count => write!(f, "`{}` (collective {count})", self.what),
        }
    }
}

/// The value that a rank writes to the store: a counter and its position, or that it left.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Beat {
    At(u64, Position),
    Left,
}

impl Beat {
    fn write(&self) -> Vec<u8> {
        match self {
            Self::At(beat, Position { count, what }) => format!("{beat}\n{count}\n{what}").into_bytes(),
            Self::Left => LEFT.into(),
        }
    }

    fn read(text: &[u8]) -> Option<Self> {
        if text == LEFT {
            return Some(Self::Left);
        }
        let text = String::from_utf8_lossy(text);
        let mut lines = text.splitn(3, '\n');
        let beat = lines.next()?.parse().ok()?;
        let count = lines.next()?.parse().ok()?;
        Some(Self::At(beat, Position { count, what: lines.next()?.into() }))
    }

    fn of(store: &Store, rank: usize) -> Result<Option<Self>, TorchError> {
        Ok(store.get(&beat_key(rank))?.and_then(|text| Self::read(&text)))
    }
}

fn beat_key(rank: usize) -> String {
    format!("beat/{rank}")
}

fn failure_key(rank: usize) -> String {
    format!("failed/{rank}")
}

/// State that the heartbeat thread shares with the other threads of this process.
#[derive(Debug, Default)]
struct HeartbeatState {
    position: Mutex<Position>,
    /// The reason why the job ended.
    failure: OnceLock<String>,
    groups: Mutex<Vec<Weak<ProcessGroup>>>,
}

impl HeartbeatState {
    fn position(&self) -> Position {
        self.position.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Aborts the collectives in flight, so that the host reaches its next collective, which reports `why`.
    fn fail(&self, why: String) {
        if self.failure.set(why).is_err() {
            return;
        }
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for group in groups.iter().filter_map(Weak::upgrade) {
            // A group that cannot be aborted still has its own timeout.
            let _ = group.abort();
        }
    }
}

/// The monitor of the next rank that has not left.
struct Monitor {
    rank: usize,
    size: usize,
    to: usize,
    last: Option<Beat>,
    unchanged: u32,
    patience: Duration,
}

impl Monitor {
    fn new(rank: usize, size: usize, patience: Duration) -> Self {
        Self { rank, size, to: (rank + 1) % size, last: None, unchanged: 0, patience }
    }

    /// Records the beat of the rank `to`; returns a message if that rank is gone.
    fn gone(&mut self, beat: Option<Beat>) -> Option<String> {
        // The join timeout covers a rank that has not joined yet.
        if self.to == self.rank || beat.is_none() {
            return None;
        }
        if beat == Some(Beat::Left) {
            (self.to, self.last, self.unchanged) = ((self.to + 1) % self.size, None, 0);
            return None;
        }
        self.unchanged = if beat == self.last { self.unchanged + 1 } else { 0 };
        self.last = beat;
        (self.unchanged >= LOOKS).then(|| {
            let position = match &self.last {
                Some(Beat::At(_, position)) => position.clone(),
                _ => Position::default(),
            };
            format!("{}, no heartbeat for {:.1} s", gone(self.to, &position), self.patience.as_secs_f64())
        })
    }
}

/// The heartbeat of this rank, which stops when dropped.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    shared: Arc<HeartbeatState>,
    store: Store,
    rank: usize,
    /// Stops the thread; the value is whether this rank finished.
    stop: Sender<bool>,
    beating: Option<JoinHandle<()>>,
    fault: Option<FaultInjection>,
}

impl Heartbeat {
    /// Starts the heartbeat of `rank` of `size` and the monitor of the next rank. `timeout` is the timeout of collectives.
    pub fn start(store: &Store, (rank, size): (usize, usize), timeout: Duration) -> Result<Self, TorchError> {
        let shared = Arc::new(HeartbeatState::default());
        let (stop, stopped) = channel();
        let (own, seen) = (store.again()?, Arc::clone(&shared));
        let patience = (timeout / 2).clamp(PATIENCE.0, PATIENCE.1);
        // The first beat is written before any group forms, so every rank of a group has a beat.
        own.set(&beat_key(rank), &Beat::At(0, Position::default()).write())?;
        let beats_a_look = (patience.as_millis() / u128::from(LOOKS) / BEAT.as_millis()).max(1) as u64;
        let beating = std::thread::spawn(move || {
            let mut monitor = Monitor::new(rank, size, patience);
            let mut look = || -> Result<(), TorchError> {
                if let Some(why) = own.get(LOST)? {
                    seen.fail(String::from_utf8_lossy(&why).into_owned());
                } else if let Some(why) = monitor.gone(Beat::of(&own, monitor.to)?) {
                    own.set(LOST, why.as_bytes())?;
                    seen.fail(why);
                }
                Ok(())
            };
            for beat in 1_u64.. {
                let said = own.set(&beat_key(rank), &Beat::At(beat, seen.position()).write());
                let looked = said.and_then(|()| if beat % beats_a_look == 0 { look() } else { Ok(()) });
                if looked.is_err() {
                    return seen.fail(STORE_GONE.into());
                }
                match stopped.recv_timeout(BEAT) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(true) => {
                        let _ = own.set(&beat_key(rank), &Beat::Left.write());
                        return;
                    }
                    Ok(false) | Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        });
        let fault = FaultInjection::from_env(rank);
        Ok(Self { shared, store: store.again()?, rank, stop, beating: Some(beating), fault })
    }

    /// Returns this rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Adds `group` to the groups that are aborted when a rank is gone.
    pub fn watch(&self, group: &Arc<ProcessGroup>) {
        self.shared.groups.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(group));
    }

    /// Aborts the collectives in flight on this rank, because of `why`.
    pub fn fail(&self, why: &str) {
        self.shared.fail(why.into());
    }

    /// Returns the reason why the job ended, if it did.
    pub fn failure(&self) -> Option<&str> {
        self.shared.failure.get().map(String::as_str)
    }

    /// Records that a collective starts.
    pub fn enter(&self, what: &str) -> Position {
        if let Some(fault) = &self.fault {
            fault.trigger(what);
        }
        let mut position = self.shared.position.lock().unwrap_or_else(PoisonError::into_inner);
        position.count += 1;
        what.clone_into(&mut position.what);
        position.clone()
    }

    /// Publishes the reason why this rank fails.
    pub fn report_failure(&self, words: &str) {
        let _ = self.store.set(&failure_key(self.rank), words.as_bytes());
        // Only the first failure is reported.
        if self.failure().is_none() {
            let _ = self.store.set(LOST, format!("rank {} failed: {words}", self.rank).as_bytes());
        }
    }

    /// Returns the reason why a collective of `ranks` failed, as far as the heartbeats of the other ranks show it.
    pub fn diagnose(&self, ranks: &[usize]) -> Option<String> {
        if let Some(why) = self.failure() {
            return Some(why.into());
        }
        let others: Vec<usize> = ranks.iter().copied().filter(|rank| *rank != self.rank).collect();
        let beats = || others.iter().map(|rank| Beat::of(&self.store, *rank)).collect::<Result<Vec<_>, _>>();
        let first = beats();
        std::thread::sleep(SILENCE);
        let (Ok(first), Ok(second)) = (first, beats()) else { return Some(STORE_GONE.into()) };
        let mut words = Vec::new();
        let own = self.shared.position();
        for ((rank, before), after) in others.iter().zip(first).zip(second) {
            if let Ok(Some(last)) = self.store.get(&failure_key(*rank)) {
                words.push(format!("rank {rank} failed: {}", String::from_utf8_lossy(&last)));
                continue;
            }
            let same = before == after;
            match after {
                Some(Beat::Left) => words.push(format!("rank {rank} has already finished")),
                Some(Beat::At(_, position)) if same => words.push(gone(*rank, &position)),
                None => words.push(gone(*rank, &Position::default())),
                Some(Beat::At(_, position)) if position != own => {
                    words.push(format!("rank {rank} is at a different point: {position}"));
                }
                Some(Beat::At(..)) => {}
            }
        }
        (!words.is_empty()).then(|| words.join("; "))
    }
}

const STORE_GONE: &str = "the rendezvous store is unreachable: the process that serves it (rank 0, xplore launch or \
                          torchrun) has exited";

fn gone(rank: usize, last: &Position) -> String {
    format!("rank {rank} is dead or stalled, last seen in {last}")
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        // A rank that panics falls silent, like one that is killed. A thread that has already ended needs no message.
        let _ = self.stop.send(!std::thread::panicking());
        if let Some(beating) = self.beating.take() {
            let _ = beating.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(n: u64) -> Option<Beat> {
        Some(Beat::At(n, Position { count: 7, what: "sum".into() }))
    }

    #[test]
    fn signs_are_read_as_they_were_written() {
        for beat in [beat(3).unwrap(), Beat::At(0, Position::default()), Beat::Left] {
            assert_eq!(Beat::read(&beat.write()), Some(beat));
        }
        assert_eq!(Beat::read(b"3"), None);
    }

    #[test]
    fn a_rank_is_gone_after_looks_without_a_new_sign() {
        let mut monitor = Monitor::new(0, 3, Duration::from_secs(10));
        // A rank that has not joined is never reported.
        assert!((0..5 * LOOKS).all(|_| monitor.gone(None).is_none()));
        for n in 0..3 {
            assert!((0..LOOKS).all(|_| monitor.gone(beat(n)).is_none()), "{n}");
        }
        let said = monitor.gone(beat(2)).unwrap();
        assert!(said.contains("rank 1 is dead") && said.contains("`sum` (collective 7)"), "{said}");
    }

    #[test]
    fn the_one_after_a_rank_that_has_left_is_listened_to() {
        let mut monitor = Monitor::new(1, 3, Duration::from_secs(10));
        assert_eq!((monitor.gone(Some(Beat::Left)), monitor.to), (None, 0));
        assert!((0..=LOOKS).find_map(|_| monitor.gone(beat(4))).unwrap().contains("rank 0 is dead"));
        assert_eq!((monitor.gone(Some(Beat::Left)), monitor.to), (None, 1));
        // All other ranks have left.
        assert!((0..5 * LOOKS).all(|_| monitor.gone(beat(4)).is_none()));
    }

    #[test]
    fn a_rank_that_ends_says_so_and_one_that_panics_falls_silent() {
        let store = Store::open("127.0.0.1", 0, true, Duration::from_secs(20)).unwrap();
        let begin = |rank| Heartbeat::start(&store, (rank, 2), Duration::from_secs(30)).unwrap();
        drop(begin(0));
        assert_eq!(Beat::of(&store, 0).unwrap(), Some(Beat::Left));
        let watch = begin(1);
        std::thread::scope(|scope| {
            let panics = scope.spawn(move || {
                let _watch = watch;
                panic!("on purpose");
            });
            assert!(panics.join().is_err());
        });
        assert!(matches!(Beat::of(&store, 1).unwrap(), Some(Beat::At(..))));
    }
}
