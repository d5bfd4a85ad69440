//! From scored histories to rows for reinforcement learning: keeps what is hard but solvable, with two targets per
//! user.
//!
//! The rules are those of AlignXplore+'s pruning, which calls its thresholds a (`most_signal`), b (`least_probability`)
//! and c (`band_end`) and publishes no values for them. [`mod@crate::prune`] applies them to files of any size.

use chat::RlRow;
use configs::PruningConfig;
use serde::{Deserialize, Serialize};

use crate::prune::{row, rule};
use crate::signal::ScoredHistory;

/// The numbers of choices and users left after each rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruningReport {
    /// The number of users.
    pub users: usize,
    /// The number of users whose history consists of messages.
    #[serde(default)]
    pub message_users: usize,
    /// The number of choices between two items that have no record.
    #[serde(default)]
    pub unscored: usize,
    /// The number of scored choices between two items; with a policy, of those that were measured.
    pub choices: usize,
    /// The number of choices left by the signal rule.
    pub with_signal: usize,
    /// The number of those that the informed judge can solve.
    pub solvable: usize,
    /// The number of those inside the band.
    pub in_band: usize,
    /// The number of users with two usable targets, which is the number of rows.
    pub rows: usize,
    /// The counts of pruning by the pass rate of a policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyCounts>,
}

/// The counts of pruning by the pass rate of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyCounts {
    /// The number of summaries that the policy wrote.
    pub summaries: usize,
    /// The number of those without exactly one `<think>…</think>` and text after it, which predict nothing.
    pub malformed: usize,
    /// The number of drawn choices that were not measured, because no prompt of the policy fits into its context.
    #[serde(default)]
    pub too_long: usize,
    /// The number of choices that too few summaries predict.
    pub too_hard: usize,
    /// The number of choices that too many summaries predict.
    pub too_easy: usize,
    /// The number of choices by the number of summaries that predict them, from none to all.
    pub by_passes: Vec<usize>,
}

impl PruningReport {
    /// Counts the kind of a history, and its choices without a record.
    pub(crate) fn count(&mut self, history: &ScoredHistory) {
        self.users += 1;
        self.message_users += usize::from(!history.messages.is_empty());
        self.unscored +=
            history.choices().filter(|(choice, record)| choice.rejected.is_some() && record.is_none()).count();
    }
}

/// Selects two targets per user where the rules allow it, and cuts the history after the later one.
pub fn rl_rows(histories: &[ScoredHistory], pruning: &PruningConfig) -> (Vec<RlRow>, PruningReport) {
    let (mut report, mut choices) = (PruningReport::default(), Vec::new());
    for (user, history) in (0_u32..).zip(histories) {
        rule::push_choices(&mut choices, user, history, pruning.rule);
        report.count(history);
    }
    let band = rule::select(choices, pruning, &mut report);
    let pairs = rule::pairs(band, pruning, |user| !histories[user as usize].messages.is_empty());
    report.rows = pairs.len();
    let row = |pair: &rule::Pair| row::of_history(histories[pair.user() as usize].clone(), pair);
    (pairs.iter().map(row).collect(), report)
}

#[cfg(test)]
mod tests {
    use chat::Interaction;
    use chat::records::{Checked, SignalRecord};
    use configs::PruningRule;
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
            ..ScoredHistory::default()
        }
    }

    const ALL: PruningConfig = PruningConfig {
        most_signal: 1.0,
        least_probability: 0.1,
        band_end: 1.0,
        band_width: 1.0,
        rule: PruningRule::Windowed,
        least_window: 1,
    };

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
