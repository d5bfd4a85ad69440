//! From scored histories to rows for reinforcement learning: keeps what is hard but solvable, with two targets per
//! user.
//!
//! The rules are those of AlignXplore+'s pruning, which calls its thresholds a (`most_signal`), b (`least_probability`)
//! and c (`band_end`) and publishes no values for them.

use chat::RlRow;
use chat::records::SignalRecord;
use configs::world::PruningConfig;
use serde::{Deserialize, Serialize};

use crate::signal::ScoredHistory;

/// The numbers of choices and users left after each rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruningReport {
    /// The number of users.
    pub users: usize,
    /// The number of choices between two items.
    pub choices: usize,
    /// The number of choices left by the signal rule.
    pub with_signal: usize,
    /// The number of those that the informed judge can solve.
    pub solvable: usize,
    /// The number of those inside the band.
    pub in_band: usize,
    /// The number of users with two usable targets, which is the number of rows.
    pub rows: usize,
}

struct ScoredChoice {
    user: usize,
    position: usize,
    record: SignalRecord,
}

/// Selects two targets per user where the rules allow it, and cuts the history after the later one.
pub fn rl_rows(histories: &[ScoredHistory], pruning: &PruningConfig) -> (Vec<RlRow>, PruningReport) {
    let mut choices: Vec<ScoredChoice> = Vec::new();
    for (user, history) in histories.iter().enumerate() {
        let records = history.signals.iter().enumerate();
        choices.extend(records.filter_map(|(position, r)| r.map(|record| ScoredChoice { user, position, record })));
    }
    let mut report = PruningReport { users: histories.len(), choices: choices.len(), ..PruningReport::default() };
    let part = |n: usize, fraction: f64| (n as f64 * fraction.clamp(0.0, 1.0)) as usize;

    choices.sort_by(|a, b| b.record.signal.total_cmp(&a.record.signal));
    choices.truncate(part(choices.len(), pruning.most_signal).max(1));
    report.with_signal = choices.len();

    choices.retain(|c| c.record.logprob1 >= pruning.least_probability.ln());
    report.solvable = choices.len();

    choices.sort_by(|a, b| b.record.logprob1.total_cmp(&a.record.logprob1));
    let end = part(choices.len(), pruning.band_end).max(1).min(choices.len());
    let start = part(choices.len(), pruning.band_end - pruning.band_width).min(end);
    let mut of_user: Vec<Vec<ScoredChoice>> = histories.iter().map(|_| Vec::new()).collect();
    for choice in choices.into_iter().take(end).skip(start) {
        report.in_band += 1;
        of_user[choice.user].push(choice);
    }

    let rows: Vec<RlRow> =
        histories.iter().zip(of_user).filter_map(|(h, mine)| row(h, mine, pruning.least_window)).collect();
    report.rows = rows.len();
    (rows, report)
}

/// Returns a row with the first pair of candidates, highest signal first, that leaves enough interactions before the
/// first target and between the two, with at least four interactions up to the later one.
fn row(history: &ScoredHistory, mut candidates: Vec<ScoredChoice>, least_window: usize) -> Option<RlRow> {
    candidates.sort_by(|a, b| b.record.signal.total_cmp(&a.record.signal).then(a.position.cmp(&b.position)));
    let pairs = candidates.iter().enumerate().flat_map(|(i, a)| candidates[i + 1..].iter().map(move |b| (a, b)));
    let ordered = pairs.map(|(a, b)| if a.position < b.position { (a, b) } else { (b, a) });
    let (first, between) = (least_window.max(1), least_window.max(2));
    let (mid, last) = ordered.into_iter().find(|(mid, last)| {
        last.position + 1 >= 4 && mid.position >= first && last.position - mid.position >= between
    })?;
    Some(RlRow {
        uid: history.uid.clone(),
        history: history.interactions[..=last.position].to_vec(),
        mid_position: mid.position,
        mid_record: mid.record,
        last_record: last.record,
        signal_gap: last.record.signal - mid.record.signal,
        distance_to_end: last.position - mid.position,
        targets: Vec::new(),
        transfer: history.transfer.clone(),
        references: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use chat::Interaction;
    use chat::records::Checked;
    use tolerance::assert_within;

    use super::*;

    fn scored(uid: &str, signals: &[(f64, f64)]) -> ScoredHistory {
        let record = |&(p1, p2): &(f64, f64)| {
            let (logprob1, logprob2) = (f64::ln(p1), f64::ln(p2));
            Some(SignalRecord { logprob1, logprob2, signal: logprob1 - logprob2 })
        };
        let interactions = (0..signals.len())
            .map(|i| Interaction { chosen: format!("c{i}"), rejected: Some("r".into()), ..Interaction::default() })
            .collect();
        ScoredHistory {
            uid: uid.into(),
            interactions,
            signals: signals.iter().map(record).collect(),
            transfer: Vec::new(),
        }
    }

    const ALL: PruningConfig =
        PruningConfig { most_signal: 1.0, least_probability: 0.1, band_end: 1.0, band_width: 1.0, least_window: 1 };

    #[test]
    fn the_pair_of_most_signal_that_leaves_room_is_taken() {
        // Highest signal at 3 and 4 (adjacent, rejected), then 3 and 1; never 0.
        let mut history = scored("p", &[(0.9, 0.5), (0.8, 0.5), (0.6, 0.5), (0.99, 0.5), (0.9, 0.46), (0.5, 0.5)]);
        history.transfer = vec![Interaction { domain: Some("reply".into()), ..history.interactions[0].clone() }];
        let transfer = history.transfer.clone();
        let (rows, report) = rl_rows(&[history], &ALL);
        assert_eq!((rows[0].mid_position, rows[0].history.len(), rows[0].distance_to_end), (1, 4, 2));
        assert_eq!((rows[0].history[3].chosen.as_str(), &rows[0].transfer), ("c3", &transfer));
        assert_within!(rows[0].signal_gap - (0.99_f64 / 0.8).ln(), 1e-12);
        assert_eq!(rows[0].defect(), None);
        assert_eq!((report.choices, report.in_band, report.rows), (6, 6, 1));
    }

    #[test]
    fn both_stages_read_at_least_the_window() {
        // Highest signal at 2 and 3, then 6 and 8: with windows of 3 the first target is 3, the second 6 or 8.
        let signals = [0.5, 0.5, 0.99, 0.98, 0.5, 0.5, 0.9, 0.5, 0.8].map(|p| (p, 0.5));
        let row = |least_window| {
            let rows = rl_rows(&[scored("p", &signals)], &PruningConfig { least_window, ..ALL }).0;
            rows.first().map(|r| (r.mid_position, r.history.len() - 1))
        };
        assert_eq!([row(1), row(3), row(4), row(5)], [Some((2, 6)), Some((3, 6)), Some((4, 8)), None]);
    }

    #[test]
    fn the_rules_cut_by_signal_then_probability_then_band() {
        let users = [
            scored("a", &[(0.9, 0.5), (0.9, 0.4), (0.2, 0.1), (0.7, 0.5), (0.7, 0.4)]),
            scored("b", &[(0.5, 0.5), (0.5, 0.5), (0.5, 0.5), (0.5, 0.5), (0.5, 0.5)]),
        ];
        let pruning = PruningConfig { most_signal: 0.5, least_probability: 0.5, band_width: 0.5, ..ALL };
        let (rows, report) = rl_rows(&users, &pruning);
        assert_eq!((report.with_signal, report.solvable, report.in_band), (5, 4, 2));
        // The two choices in the band are the harder half: positions 3 and 4, which are adjacent.
        assert!(rows.is_empty());
    }

    #[test]
    fn short_histories_and_none_give_no_rows() {
        assert!(rl_rows(&[scored("p", &[(0.9, 0.5), (0.9, 0.5), (0.9, 0.5)])], &ALL).0.is_empty());
        assert_eq!(rl_rows(&[], &ALL).1, PruningReport::default());
    }
}
