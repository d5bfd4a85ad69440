//! Signs of life. Each rank writes every [`BEAT`] into the store that it is there and which collective it is in, so that those
//! who wait in vain can tell who is gone, and who is stuck where.
//!
//! Nobody needs to wait for that: each rank also listens to the next one. If that falls silent, it tells all ranks, and every rank
//! ends the collectives that it has under way. NCCL needs this, because waiting for one of its collectives does not block the
//! host and so never fails; a collective of Gloo learns of a stopped rank before its time is up.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use c10d::{ProcessGroup, Store};
use torch_ext::TorchError;

use crate::fault::Fault;

const BEAT: Duration = Duration::from_millis(400);
/// A rank without a beat for so long is gone, once a collective has failed.
const SILENCE: Duration = Duration::from_millis(2500);
/// A rank without a beat for so long is gone, though no collective has failed: half the time-out of collectives, within these.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));
/// How often a rank looks after the next one before its patience is over. Looks are counted, not time: a job that was stopped as a
/// whole and continued has nobody gone.
const LOOKS: u32 = 6;

/// In the store: what ended the job for all ranks.
const LOST: &str = "lost";
/// In place of the beat of a rank that is done.
const LEFT: &[u8] = b"left";

/// The collective a rank is in, or was in last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Collectives begun so far.
    pub count: u64,
    /// What the last one is for.
    pub what: String,
}

/// A number that grows, and where the rank is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sign {
    Beat(u64, Position),
    Left,
}

impl Sign {
    fn write(&self) -> Vec<u8> {
        match self {
            Self::Beat(beat, Position { count, what }) => format!("{beat}\n{count}\n{what}").into_bytes(),
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
        Some(Self::Beat(beat, Position { count, what: lines.next()?.into() }))
    }

    fn of(store: &Store, rank: usize) -> Result<Option<Self>, TorchError> {
        Ok(store.get(&beat_key(rank))?.and_then(|text| Self::read(&text)))
    }
}

fn beat_key(rank: usize) -> String {
    format!("beat/{rank}")
}

fn last_words_key(rank: usize) -> String {
    format!("failed/{rank}")
}

/// What the beating thread and the others of this process share.
#[derive(Debug, Default)]
struct Shared {
    position: Mutex<Position>,
    /// Why the job cannot go on.
    lost: OnceLock<String>,
    groups: Mutex<Vec<Weak<ProcessGroup>>>,
}

impl Shared {
    fn position(&self) -> Position {
        self.position.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends what is under way, so that the host comes to its next collective, which tells `why`.
    fn lose(&self, why: String) {
        if self.lost.set(why).is_err() {
            return;
        }
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for group in groups.iter().filter_map(Weak::upgrade) {
            // A group that cannot be aborted has its own time-out.
            let _ = group.abort();
        }
    }
}

/// The rank that this one listens to: the next that has not left.
struct Listener {
    rank: usize,
    size: usize,
    to: usize,
    last: Option<Sign>,
    unchanged: u32,
    patience: Duration,
}

impl Listener {
    fn new(rank: usize, size: usize, patience: Duration) -> Self {
        Self { rank, size, to: (rank + 1) % size, last: None, unchanged: 0, patience }
    }

    /// Takes note of the sign that the rank `to` has given; whether it is gone.
    fn gone(&mut self, sign: Option<Sign>) -> Option<String> {
        // One that has not come yet has as long as the time-out for joining.
        if self.to == self.rank || sign.is_none() {
            return None;
        }
        if sign == Some(Sign::Left) {
            (self.to, self.last, self.unchanged) = ((self.to + 1) % self.size, None, 0);
            return None;
        }
        self.unchanged = if sign == self.last { self.unchanged + 1 } else { 0 };
        self.last = sign;
        (self.unchanged >= LOOKS).then(|| {
            let position = match &self.last {
                Some(Sign::Beat(_, position)) => position.clone(),
                _ => Position::default(),
            };
            format!("{}, silent for {:.1} s", gone(self.to, &position), self.patience.as_secs_f64())
        })
    }
}

/// This rank's beats, until dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    shared: Arc<Shared>,
    store: Store,
    rank: usize,
    /// Stops the thread; whether this rank is done.
    stop: Sender<bool>,
    beating: Option<JoinHandle<()>>,
    fault: Option<Fault>,
}

impl Watch {
    /// Begins to beat as `rank` of `size`, and to listen. Collectives end after `timeout`.
    pub fn begin(store: &Store, (rank, size): (usize, usize), timeout: Duration) -> Result<Self, TorchError> {
        let shared = Arc::new(Shared::default());
        let (stop, stopped) = channel();
        let (own, seen) = (store.again()?, Arc::clone(&shared));
        let patience = (timeout / 2).clamp(PATIENCE.0, PATIENCE.1);
        // The first beat is given before any group forms: of those in a group, none is silent from the start.
        own.set(&beat_key(rank), &Sign::Beat(0, Position::default()).write())?;
        let beats_a_look = (patience.as_millis() / u128::from(LOOKS) / BEAT.as_millis()).max(1) as u64;
        let beating = std::thread::spawn(move || {
            let mut listener = Listener::new(rank, size, patience);
            let mut look = || -> Result<(), TorchError> {
                if let Some(why) = own.get(LOST)? {
                    seen.lose(String::from_utf8_lossy(&why).into_owned());
                } else if let Some(why) = listener.gone(Sign::of(&own, listener.to)?) {
                    own.set(LOST, why.as_bytes())?;
                    seen.lose(why);
                }
                Ok(())
            };
            for beat in 1_u64.. {
                let said = own.set(&beat_key(rank), &Sign::Beat(beat, seen.position()).write());
                let looked = said.and_then(|()| if beat % beats_a_look == 0 { look() } else { Ok(()) });
                if looked.is_err() {
                    return seen.lose(STORE_GONE.into());
                }
                match stopped.recv_timeout(BEAT) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(true) => {
                        let _ = own.set(&beat_key(rank), &Sign::Left.write());
                        return;
                    }
                    Ok(false) | Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        });
        let fault = Fault::from_environment(rank);
        Ok(Self { shared, store: store.again()?, rank, stop, beating: Some(beating), fault })
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Aborts `group`, too, when a rank is gone.
    pub fn guards(&self, group: &Arc<ProcessGroup>) {
        self.shared.groups.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(group));
    }

    /// Ends what is under way on this rank: the job cannot go on, because of `why`.
    pub fn lose(&self, why: &str) {
        self.shared.lose(why.into());
    }

    /// Why the job cannot go on, if it cannot.
    pub fn lost(&self) -> Option<&str> {
        self.shared.lost.get().map(String::as_str)
    }

    /// Notes that a collective begins.
    pub fn enters(&self, what: &str) -> Position {
        if let Some(fault) = &self.fault {
            fault.strike(what);
        }
        let mut position = self.shared.position.lock().unwrap_or_else(PoisonError::into_inner);
        position.count += 1;
        what.clone_into(&mut position.what);
        position.clone()
    }

    /// Leaves a message for the others, for the time after this rank.
    pub fn last_words(&self, words: &str) {
        let _ = self.store.set(&last_words_key(self.rank), words.as_bytes());
        // A rank that fails because another did is not what the others should hear of.
        if self.lost().is_none() {
            let _ = self.store.set(LOST, format!("rank {} failed: {words}", self.rank).as_bytes());
        }
    }

    /// Why a collective of `ranks` failed, as far as the others' signs tell: nobody, or a sentence.
    pub fn explain(&self, ranks: &[usize]) -> Option<String> {
        if let Some(why) = self.lost() {
            return Some(why.into());
        }
        let others: Vec<usize> = ranks.iter().copied().filter(|rank| *rank != self.rank).collect();
        let signs = || others.iter().map(|rank| Sign::of(&self.store, *rank)).collect::<Result<Vec<_>, _>>();
        let first = signs();
        std::thread::sleep(SILENCE);
        let (Ok(first), Ok(second)) = (first, signs()) else { return Some(STORE_GONE.into()) };
        let mut words = Vec::new();
        let own = self.shared.position();
        for ((rank, before), after) in others.iter().zip(first).zip(second) {
            if let Ok(Some(last)) = self.store.get(&last_words_key(*rank)) {
                words.push(format!("rank {rank} failed: {}", String::from_utf8_lossy(&last)));
                continue;
            }
            let same = before == after;
            match after {
                Some(Sign::Left) => words.push(format!("rank {rank} is done and has left")),
                Some(Sign::Beat(_, position)) if same => words.push(gone(*rank, &position)),
                None => words.push(gone(*rank, &Position::default())),
                Some(Sign::Beat(_, position)) if position != own => {
                    words.push(format!("rank {rank} is elsewhere, in {}", told(&position)));
                }
                Some(Sign::Beat(..)) => {}
            }
        }
        (!words.is_empty()).then(|| words.join("; "))
    }
}

const STORE_GONE: &str = "the store where the ranks meet is gone, so the process that serves it (rank 0, xplore launch or \
                          torchrun) ended";

fn gone(rank: usize, last: &Position) -> String {
    format!("rank {rank} is gone or stopped (its last sign of life was in {})", told(last))
}

/// A position in words.
pub(crate) fn told(position: &Position) -> String {
    match position.count {
        0 => "no collective yet".into(),
        count => format!("`{}`, its collective {count}", position.what),
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // A rank that panics falls silent, as one that is killed does. A thread that has ended already needs no message.
        let _ = self.stop.send(!std::thread::panicking());
        if let Some(beating) = self.beating.take() {
            let _ = beating.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(n: u64) -> Option<Sign> {
        Some(Sign::Beat(n, Position { count: 7, what: "sum".into() }))
    }

    #[test]
    fn signs_are_read_as_they_were_written() {
        for sign in [beat(3).unwrap(), Sign::Beat(0, Position::default()), Sign::Left] {
            assert_eq!(Sign::read(&sign.write()), Some(sign));
        }
        assert_eq!(Sign::read(b"3"), None);
    }

    #[test]
    fn a_rank_is_gone_after_looks_without_a_new_sign() {
        let mut listener = Listener::new(0, 3, Duration::from_secs(10));
        // Not there yet, for as long as it takes.
        assert!((0..5 * LOOKS).all(|_| listener.gone(None).is_none()));
        for n in 0..3 {
            assert!((0..LOOKS).all(|_| listener.gone(beat(n)).is_none()), "{n}");
        }
        let said = listener.gone(beat(2)).unwrap();
        assert!(said.contains("rank 1 is gone") && said.contains("`sum`, its collective 7"), "{said}");
    }

    #[test]
    fn the_one_after_a_rank_that_has_left_is_listened_to() {
        let mut listener = Listener::new(1, 3, Duration::from_secs(10));
        assert_eq!((listener.gone(Some(Sign::Left)), listener.to), (None, 0));
        assert!((0..=LOOKS).find_map(|_| listener.gone(beat(4))).unwrap().contains("rank 0 is gone"));
        assert_eq!((listener.gone(Some(Sign::Left)), listener.to), (None, 1));
        // All others have left.
        assert!((0..5 * LOOKS).all(|_| listener.gone(beat(4)).is_none()));
    }

    #[test]
    fn a_rank_that_ends_says_so_and_one_that_panics_falls_silent() {
        let store = Store::open("127.0.0.1", 0, true, Duration::from_secs(20)).unwrap();
        let begin = |rank| Watch::begin(&store, (rank, 2), Duration::from_secs(30)).unwrap();
        drop(begin(0));
        assert_eq!(Sign::of(&store, 0).unwrap(), Some(Sign::Left));
        let watch = begin(1);
        std::thread::scope(|scope| {
            let panics = scope.spawn(move || {
                let _watch = watch;
                panic!("on purpose");
            });
            assert!(panics.join().is_err());
        });
        assert!(matches!(Sign::of(&store, 1).unwrap(), Some(Sign::Beat(..))));
    }
}
