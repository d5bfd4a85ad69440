//! Division of a history into streaming stages.

use chat::{Interaction, RlRow};
use configs::rl::RolloutConfig;

/// A stage of one user: the interactions that the policy reads, and the target that its summary should explain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage<'a> {
    /// The interactions to read, oldest first.
    pub window: &'a [Interaction],
    /// The held-out choice that follows them.
    pub target: &'a Interaction,
}

/// Cuts a row into the configured stages. The last target is the last interaction. The earlier targets are at the fractions of
/// the history in `cut_at`, or else the first is at `mid_position` and the others are evenly spaced between it and the end.
/// Each stage reads from the previous target up to its own. The previous target is included with `reread_target`, as published:
/// by then the user has made that choice.
///
/// Returns `None` if the history is too short for the number of stages.
pub fn cut<'a>(row: &'a RlRow, config: &RolloutConfig) -> Option<Vec<Stage<'a>>> {
    let stages = config.stages;
    let last = row.history.len().checked_sub(1)?;
    let mut begin = 0;
    let mut cuts = Vec::with_capacity(stages);
    for stage in 0..stages {
        let target = match config.cut_at.get(stage) {
            _ if stage + 1 == stages => last,
            // The epsilon makes 0.29 of 100 equal 29.
            Some(share) => (share * row.history.len() as f64 + 1e-9) as usize,
            None => row.mid_position + last.checked_sub(row.mid_position)? * stage / (stages - 1),
        };
        if target <= begin {
            return None;
        }
        cuts.push(Stage { window: &row.history[begin..target], target: &row.history[target] });
        begin = if config.reread_target { target } else { target + 1 };
    }
    Some(cuts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: usize, mid_position: usize) -> RlRow {
        let history = (0..n).map(|i| Interaction { chosen: i.to_string(), ..Interaction::default() }).collect();
        RlRow {
            uid: "u".into(),
            history,
            mid_position,
            mid_record: Default::default(),
            last_record: Default::default(),
            signal_gap: 0.0,
            distance_to_end: n - 1 - mid_position,
            targets: Vec::new(),
            transfer: Vec::new(),
            references: Vec::new(),
        }
    }

    fn stages(stages: usize) -> RolloutConfig {
        RolloutConfig { stages, ..RolloutConfig::default() }
    }

    fn numbers(row: &RlRow, config: &RolloutConfig) -> Vec<(Vec<usize>, usize)> {
        let number = |i: &Interaction| i.chosen.parse().unwrap();
        let of = |s: &Stage<'_>| (s.window.iter().map(number).collect(), number(s.target));
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
}
