//! Signs of life. Each rank says every [`BEAT`] in the store that it is there and which collective it is in, so that those
//! who wait in vain can tell who is gone, and who is stuck where.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use c10d::Store;
use torch_ext::TorchError;

use crate::fault::Fault;

const BEAT: Duration = Duration::from_millis(400);
/// A rank without a beat for so long is gone.
const SILENCE: Duration = Duration::from_millis(2500);

/// The collective a rank is in, or was in last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Collectives begun so far.
    pub count: u64,
    /// What the last one is for.
    pub what: String,
}

/// This rank's beats, until dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    position: Arc<Mutex<Position>>,
    store: Store,
    rank: usize,
    stop: Option<Sender<()>>,
    beating: Option<JoinHandle<()>>,
    fault: Option<Fault>,
}

fn beat_key(rank: usize) -> String {
    format!("beat/{rank}")
}

fn last_words_key(rank: usize) -> String {
    format!("failed/{rank}")
}

impl Watch {
    pub fn begin(store: &Store, rank: usize) -> Result<Self, TorchError> {
        let position = Arc::new(Mutex::new(Position::default()));
        let (stop, stopped) = channel();
        let (own, seen) = (store.again()?, Arc::clone(&position));
        let beating = std::thread::spawn(move || {
            for beat in 0_u64.. {
                let Position { count, what } = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
                // Without a store nobody can be told; the next collective fails by itself.
                if own.set(&beat_key(rank), format!("{beat}\n{count}\n{what}").as_bytes()).is_err()
                    || stopped.recv_timeout(BEAT) != Err(RecvTimeoutError::Timeout)
                {
                    return;
                }
            }
        });
        let fault = Fault::from_environment(rank);
        Ok(Self { position, store: store.again()?, rank, stop: Some(stop), beating: Some(beating), fault })
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Notes that a collective begins.
    pub fn enters(&self, what: &str) -> Position {
        if let Some(fault) = &self.fault {
            fault.strike(what);
        }
        let mut position = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        position.count += 1;
        what.clone_into(&mut position.what);
        position.clone()
    }

    /// Leaves a message for the others, for the time after this rank.
    pub fn last_words(&self, words: &str) {
        let _ = self.store.set(&last_words_key(self.rank), words.as_bytes());
    }

    /// Why a collective of `ranks` failed, as far as the others' signs tell: nobody, or a sentence.
    pub fn explain(&self, ranks: &[usize]) -> Option<String> {
        let others: Vec<usize> = ranks.iter().copied().filter(|rank| *rank != self.rank).collect();
        let first = self.beats(&others);
        std::thread::sleep(SILENCE);
        let (Ok(first), Ok(second)) = (first, self.beats(&others)) else {
            return Some(
                "the store where the ranks meet is gone, so the process that serves it (rank 0, xplore launch or \
                         torchrun) ended"
                    .into(),
            );
        };
        let mut words = Vec::new();
        let own = self.position.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for ((rank, before), after) in others.iter().zip(first).zip(second) {
            if let Ok(Some(last)) = self.store.get(&last_words_key(*rank)) {
                words.push(format!("rank {rank} failed: {}", String::from_utf8_lossy(&last)));
            } else if before.as_ref().map(|b| b.0) == after.as_ref().map(|b| b.0) {
                let position = after.map(|b| b.1).unwrap_or_default();
                words
                    .push(format!("rank {rank} is gone or stopped (its last sign of life was in {})", told(&position)));
            } else if let Some((_, position)) = after.filter(|(_, position)| *position != own) {
                words.push(format!("rank {rank} is elsewhere, in {}", told(&position)));
            }
        }
        (!words.is_empty()).then(|| words.join("; "))
    }

    /// Number of the last beat and position of each rank that ever gave one.
    fn beats(&self, ranks: &[usize]) -> Result<Vec<Option<(u64, Position)>>, TorchError> {
        let read = |text: Vec<u8>| {
            let text = String::from_utf8_lossy(&text).into_owned();
            let mut lines = text.splitn(3, '\n');
            let beat = lines.next()?.parse().ok()?;
            let count = lines.next()?.parse().ok()?;
            Some((beat, Position { count, what: lines.next()?.into() }))
        };
        ranks.iter().map(|rank| Ok(self.store.get(&beat_key(*rank))?.and_then(read))).collect()
    }
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
        drop(self.stop.take());
        if let Some(beating) = self.beating.take() {
            let _ = beating.join();
        }
    }
}
