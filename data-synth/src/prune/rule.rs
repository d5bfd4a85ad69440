//! The rule that selects choices and pairs them. The published code calls its thresholds a (`most_signal`), b (`least_probability`)
//! and c (`band_end`) and gives no values for them.

use std::cmp::Ordering;
use std::collections::HashMap;

use chat::Interaction;
use chat::records::SignalRecord;
use configs::{PruningConfig, PruningRule};

use super::number;
use crate::rl_rows::PruningReport;
use crate::signal::ScoredHistory;

/// A scored choice of a user.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ScoredChoice {
    /// The index of the user.
    pub user: u32,
    /// The index of the choice in the history, or in the targets of a history of messages.
    pub position: u32,
    /// The index at which a choice stands as the target of the first stage.
    pub first: u32,
    pub record: SignalRecord,
}

/// Two targets of a user.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pair {
    /// The earlier target.
    pub mid: ScoredChoice,
    /// The later target.
    pub last: ScoredChoice,
}

impl Pair {
    fn ordered(a: ScoredChoice, b: ScoredChoice) -> Self {
        if a.position < b.position { Self { mid: a, last: b } } else { Self { mid: b, last: a } }
    }

    pub fn user(&self) -> u32 {
        self.last.user
    }
}

/// Appends the scored choices of a user.
pub(crate) fn push_choices(choices: &mut Vec<ScoredChoice>, user: u32, history: &ScoredHistory, rule: PruningRule) {
    let mut seen: HashMap<&Interaction, u32> = HashMap::new();
    for (index, (interaction, record)) in history.choices().enumerate() {
        let position = number(index);
        let first = match rule {
            PruningRule::Published => *seen.entry(interaction).or_insert(position),
            PruningRule::Windowed => position,
        };
        choices.extend(record.map(|record| ScoredChoice { user, position, first, record }));
    }
}

/// Returns the choices inside the band, the most probable ones first: those of the highest signal, of these the ones that the informed
/// scorer can solve, and of these a band by descending probability. Ties keep the order of `choices`.
pub(crate) fn select(
    mut choices: Vec<ScoredChoice>,
    pruning: &PruningConfig,
    report: &mut PruningReport,
) -> Vec<ScoredChoice> {
    let part = |n: usize, fraction: f64| (n as f64 * fraction.clamp(0.0, 1.0)) as usize;
    report.choices = choices.len();

    choices.sort_by(|a, b| descending(a.record.signal, b.record.signal));
    choices.truncate(part(choices.len(), pruning.most_signal).max(1));
    report.with_signal = choices.len();

    let least = pruning.least_probability.ln();
    choices.retain(|c| (least..=0.0).contains(&c.record.logprob1));
    report.solvable = choices.len();

    choices.sort_by(|a, b| descending(a.record.logprob1, b.record.logprob1));
    let end = part(choices.len(), pruning.band_end).max(1).min(choices.len());
    let start = part(choices.len(), pruning.band_end - pruning.band_width);
    let start = match pruning.rule {
        PruningRule::Published => start.max(1),
        PruningRule::Windowed => start,
    };
    choices.truncate(end);
    choices.drain(..start.min(end));
    report.in_band = choices.len();
    choices
}

/// Returns the two targets of each user who has them, in the order of the users. `of_messages` tells whether the history of a user
/// consists of messages; its targets follow all of them, so any two can be paired.
pub(crate) fn pairs(
    mut band: Vec<ScoredChoice>,
    pruning: &PruningConfig,
    of_messages: impl Fn(u32) -> bool,
) -> Vec<Pair> {
    // The sort is stable: the choices of a user keep the order of the band.
    band.sort_by_key(|choice| choice.user);
    let of_user = |own: &mut [ScoredChoice]| {
        own.sort_by(|a, b| {
            let by_signal = descending(a.record.signal, b.record.signal);
            match pruning.rule {
                PruningRule::Published => by_signal,
                PruningRule::Windowed => by_signal.then(a.position.cmp(&b.position)),
            }
        });
        if of_messages(own[0].user) { best_two(own) } else { pair(own, pruning.least_window) }
    };
    band.chunk_by_mut(|a, b| a.user == b.user).filter_map(of_user).collect()
}

/// Returns the first pair of candidates that leaves at least `least_window` interactions before the first target and between the two,
/// with at least four interactions up to the later one. As published, the first target is not the first interaction, and the two are
/// not adjacent.
pub(crate) fn pair(candidates: &[ScoredChoice], least_window: usize) -> Option<Pair> {
    let (before, between) = (number(least_window.max(1)), number(least_window.max(2)));
    let pairs = candidates.iter().enumerate().flat_map(|(i, &a)| candidates[i + 1..].iter().map(move |&b| (a, b)));
    pairs
        .map(|(a, b)| Pair::ordered(a, b))
        .find(|Pair { mid, last }| last.position >= 3 && mid.first >= before && last.position - mid.first >= between)
}

/// Returns the first two candidates.
pub(crate) fn best_two(candidates: &[ScoredChoice]) -> Option<Pair> {
    match *candidates {
        [a, b, ..] => Some(Pair::ordered(a, b)),
        _ => None,
    }
}

/// Compares numbers in descending order; 0 and −0 are equal, as in Python.
fn descending(a: f64, b: f64) -> Ordering {
    (b + 0.0).total_cmp(&(a + 0.0))
}
