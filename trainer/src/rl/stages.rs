//! How a history is cut into streaming stages.

use chat::{Interaction, RlRow};

/// One stage of one person: what the policy reads and the choice its summary should explain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage<'a> {
    /// The interactions to read, oldest first.
    pub window: &'a [Interaction],
    /// The held-out choice that follows them.
    pub target: &'a Interaction,
}

/// Cuts a row into `stages` stages. The targets are: for one stage, the last interaction; otherwise `mid_position` for
/// the first stage, the last interaction for the last one, and positions spread evenly between for those between them.
/// Each stage reads from the previous target (included, as published: by then the person has made that choice) up to
/// its own.
///
/// Returns `None` if the history is too short for so many stages.
pub fn cut(row: &RlRow, stages: usize) -> Option<Vec<Stage<'_>>> {
    let last = row.history.len() - 1;
    let mut begin = 0;
    let mut cuts = Vec::with_capacity(stages);
    for stage in 0..stages {
        let target =
            if stages == 1 { last } else { row.mid_position + (last - row.mid_position) * stage / (stages - 1) };
        if target <= begin {
            return None;
        }
        cuts.push(Stage { window: &row.history[begin..target], target: &row.history[target] });
        begin = target;
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
        }
    }

    fn numbers(row: &RlRow, stages: usize) -> Vec<(Vec<usize>, usize)> {
        let number = |i: &Interaction| i.chosen.parse().unwrap();
        let of = |s: &Stage<'_>| (s.window.iter().map(number).collect(), number(s.target));
        cut(row, stages).unwrap().iter().map(of).collect()
    }

    #[test]
    fn two_stages_are_cut_as_published() {
        // prompt1 = h[:mid], target1 = h[mid]; prompt2 = h[mid:-1], target2 = h[-1].
        assert_eq!(numbers(&row(6, 2), 2), [(vec![0, 1], 2), (vec![2, 3, 4], 5)]);
    }

    #[test]
    fn one_stage_reads_everything_and_more_stages_share_the_rest() {
        assert_eq!(numbers(&row(4, 2), 1), [(vec![0, 1, 2], 3)]);
        assert_eq!(numbers(&row(8, 3), 3), [(vec![0, 1, 2], 3), (vec![3, 4], 5), (vec![5, 6], 7)]);
        assert_eq!(cut(&row(4, 2), 4), None);
    }
}
