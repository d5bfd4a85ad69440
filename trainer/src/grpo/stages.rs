//! Division of a history into streaming stages.

use chat::{HistoryItems, Interaction, RlRow};
use configs::rl::RolloutConfig;

/// A stage of one user: the interactions or messages that the policy reads, and the target that its summary should explain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage<'a> {
    /// The interactions or messages to read, oldest first.
    pub window: HistoryItems<'a>,
    /// The held-out choice that follows them.
    pub target: &'a Interaction,
}

/// Cuts a row into the configured stages. The last target is the last interaction. The earlier targets are at the fractions of
/// the history in `cut_at`, or else the first is at `mid_position` and the others are evenly spaced between it and the end.
/// Each stage reads from the previous target up to its own. The previous target is included with `reread_target`, as published:
/// by then the user has made that choice.
///
/// The targets of a row of messages are not among the messages. Its stages read consecutive parts, cut at the same positions; the last
/// part ends with the last message.
///
/// Returns `None` if the history is too short for the number of stages.
pub fn cut<'a>(row: &'a RlRow, config: &RolloutConfig) -> Option<Vec<Stage<'a>>> {
    if !row.messages.is_empty() {
        return cut_messages(row, config);
    }
    let n = row.history.len();
    let mut begin = 0;
    let stage = |target: usize| {
        let window = row.history.get(begin..target).filter(|window| !window.is_empty())?;
        begin = if config.reread_target { target } else { target + 1 };
        Some(Stage { window: HistoryItems::Interactions(window), target: &row.history[target] })
    };
    ends(config, row.mid_position, (n.checked_sub(1)?, n))?.into_iter().map(stage).collect()
}

fn cut_messages<'a>(row: &'a RlRow, config: &RolloutConfig) -> Option<Vec<Stage<'a>>> {
    let n = row.messages.len();
    let mut begin = 0;
    let stage = |(stage, end): (usize, usize)| {
        let window = row.messages.get(begin..end).filter(|window| !window.is_empty())?;
        begin = end;
        Some(Stage { window: HistoryItems::Messages(window), target: row.stage_target(stage)? })
    };
    ends(config, row.mid_position, (n, n))?.into_iter().enumerate().map(stage).collect()
}

/// Returns the position at which each stage ends in a history of `n` items: the last one at `last`, the others at their fractions of
/// the history, or the first at `mid_position` and the others evenly between it and `last`.
fn ends(config: &RolloutConfig, mid_position: usize, (last, n): (usize, usize)) -> Option<Vec<usize>> {
    let end = |stage: usize| match config.cut_at.get(stage) {
        _ if stage + 1 == config.stages => Some(last),
        Some(share) => Some(position_of(*share, n)),
        None => Some(mid_position + last.checked_sub(mid_position)? * stage / (config.stages - 1)),
    };
    (0..config.stages).map(end).collect()
}

/// Returns the position at a share of `n` items.
fn position_of(share: f64, n: usize) -> usize {
    // The epsilon makes 0.29 of 100 equal 29.
    (share * n as f64 + 1e-9) as usize
}

#[cfg(test)]
mod tests {
    use chat::Message;

    use super::*;

    fn row(n: usize, mid_position: usize) -> RlRow {
        let history = (0..n).map(|i| Interaction { chosen: i.to_string(), ..Interaction::default() }).collect();
        RlRow { uid: "u".into(), history, mid_position, distance_to_end: n - 1 - mid_position, ..RlRow::default() }
    }

    fn stages(stages: usize) -> RolloutConfig {
        RolloutConfig { stages, ..RolloutConfig::default() }
    }

    fn numbers(row: &RlRow, config: &RolloutConfig) -> Vec<(Vec<usize>, usize)> {
        let number = |text: &str| text.parse().unwrap();
        let of = |s: &Stage<'_>| (s.window.texts().map(number).collect(), number(&s.target.chosen));
        cut(row, config).unwrap().iter().map(of).collect()
    }

    #[test]
    fn two_stages_are_cut_as_published() {
        // Published: prompt1 = h[:mid], target1 = h[mid]; prompt2 = h[mid:-1], target2 = h[-1].
        assert_eq!(numbers(&row(6, 2), &stages(2)), [(vec![0, 1], 2), (vec![2, 3, 4], 5)]);
    }

    #[test]
    fn one_stage_reads_everything_and_more_stages_share_the_rest() {
        assert_eq!(numbers(&row(4, 2), &stages(1)), [(vec![0, 1, 2], 3)]);
        assert_eq!(numbers(&row(8, 3), &stages(3)), [(vec![0, 1, 2], 3), (vec![3, 4], 5), (vec![5, 6], 7)]);
        assert_eq!(cut(&row(4, 2), &stages(4)), None);
    }

    #[test]
    fn shares_of_the_history_take_the_place_of_its_own_position() {
        let config = RolloutConfig { cut_at: vec![0.25, 0.7], ..stages(3) };
        // 0.25 · 10 = 2, 0.7 · 10 = 7, and the last.
        assert_eq!(numbers(&row(10, 5), &config), [(vec![0, 1], 2), (vec![2, 3, 4, 5, 6], 7), (vec![7, 8], 9)]);
        assert_eq!(cut(&row(3, 1), &config), None);
    }

    #[test]
    fn a_target_need_not_be_read_again() {
        let config = RolloutConfig { reread_target: false, ..stages(2) };
        assert_eq!(numbers(&row(6, 2), &config), [(vec![0, 1], 2), (vec![3, 4], 5)]);
        // Between consecutive targets there is nothing left to read.
        assert_eq!(cut(&row(4, 2), &config), None);
    }

    /// Returns a row of `n` messages whose targets are the numbers from 100.
    fn messages(n: usize, mid_position: usize, targets: usize) -> RlRow {
        let target = |i: usize| Interaction { chosen: (100 + i).to_string(), ..Interaction::default() };
        RlRow {
            uid: "u".into(),
            messages: (0..n).map(|i| Message::user(i.to_string())).collect(),
            stage_targets: (0..targets).map(target).collect(),
            mid_position,
            ..RlRow::default()
        }
    }

    #[test]
    fn messages_are_cut_alike_and_have_their_own_targets() {
        assert_eq!(numbers(&messages(5, 2, 2), &stages(2)), [(vec![0, 1], 100), (vec![2, 3, 4], 101)]);
        assert_eq!(numbers(&messages(5, 2, 2), &stages(1)), [(vec![0, 1, 2, 3, 4], 100)]);
        // The last target serves the further stages.
        let three = numbers(&messages(6, 2, 2), &stages(3));
        assert_eq!(three, [(vec![0, 1], 100), (vec![2, 3], 101), (vec![4, 5], 101)]);
        let config = RolloutConfig { cut_at: vec![0.25], reread_target: false, ..stages(2) };
        assert_eq!(numbers(&messages(4, 2, 1), &config), [(vec![0], 100), (vec![1, 2, 3], 100)]);
        // Nothing is left for the second stage, or there is no target.
        assert_eq!(cut(&messages(2, 2, 2), &stages(2)), None);
        assert_eq!(cut(&messages(4, 2, 0), &stages(2)), None);
    }
}
