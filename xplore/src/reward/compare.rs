//! Two rewards on the same responses: which order do they give a group, and which groups have a signal?

use serde::Serialize;

use super::scored::{Scored, ScoredResponse, is_constant};
use crate::error::Error;

/// How two rewards differ on one group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupDifference {
    /// The step, counted from 1; 0 for given texts.
    pub step: u64,
    /// ID of the user.
    pub uid: String,
    /// Stage, from 0.
    pub stage: usize,
    /// Index of the group in its step.
    pub group: usize,
    /// Number of pairs of responses that both rewards tell apart.
    pub pairs: usize,
    /// Number of these pairs that the rewards order differently.
    pub flips: usize,
    /// Whether the rewards differ in the best response (the first of those with the highest reward).
    pub best_differs: bool,
    /// Whether the group has a signal under the first reward but zero variance under the second.
    pub loses_signal: bool,
    /// Whether the group has zero variance under the first reward but a signal under the second.
    pub gains_signal: bool,
}

/// How two rewards differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Number of groups.
    pub groups: usize,
    /// Number of pairs of responses of a group that both rewards tell apart.
    pub pairs: usize,
    /// Number of these pairs that the rewards order differently.
    pub flips: usize,
    /// Number of groups with another best response.
    pub best_differs: usize,
    /// Number of groups that have a signal under the first reward only.
    pub lose_signal: usize,
    /// Number of groups that have a signal under the second reward only.
    pub gain_signal: usize,
    /// Number of responses whose advantages have opposite signs.
    pub opposite_advantages: usize,
    /// The groups with a flip, another best response, or a signal under only one reward.
    pub different: Vec<GroupDifference>,
}

/// Compares the rewards, with credit and penalties, of the same responses by two configurations.
///
/// # Errors
/// Returns an error if the responses are not the same.
pub fn compare(first: &Scored, second: &Scored) -> Result<Difference, Error> {
    let same = |(a, b): (&ScoredResponse, &ScoredResponse)| a.place() == b.place();
    if first.responses.len() != second.responses.len() || !first.responses.iter().zip(&second.responses).all(same) {
        return Err(Error::data(
            "the two rewards were computed for different responses; compare them on the same rollouts",
        ));
    }
    let pairs: Vec<(&ScoredResponse, &ScoredResponse)> = first.responses.iter().zip(&second.responses).collect();
    let of_group = |a: &(&ScoredResponse, &ScoredResponse), b: &(&ScoredResponse, &ScoredResponse)| {
        (a.0.step, a.0.group) == (b.0.step, b.0.group)
    };
    let groups: Vec<GroupDifference> = pairs.chunk_by(of_group).map(difference).collect();
    let count = |of: fn(&GroupDifference) -> bool| groups.iter().filter(|group| of(group)).count();
    Ok(Difference {
        groups: groups.len(),
        pairs: groups.iter().map(|group| group.pairs).sum(),
        flips: groups.iter().map(|group| group.flips).sum(),
        best_differs: count(|group| group.best_differs),
        lose_signal: count(|group| group.loses_signal),
        gain_signal: count(|group| group.gains_signal),
        opposite_advantages: pairs.iter().filter(|(a, b)| a.advantage * b.advantage < 0.0).count(),
        different: groups
            .into_iter()
            .filter(|g| g.flips > 0 || g.best_differs || g.loses_signal || g.gains_signal)
            .collect(),
    })
}

fn difference(group: &[(&ScoredResponse, &ScoredResponse)]) -> GroupDifference {
    let (mut pairs, mut flips) = (0, 0);
    for (i, (a, b)) in group.iter().enumerate() {
        for (other_a, other_b) in &group[i + 1..] {
            let product = (a.credited - other_a.credited) * (b.credited - other_b.credited);
            pairs += usize::from(product != 0.0);
            flips += usize::from(product < 0.0);
        }
    }
    let first: Vec<f64> = group.iter().map(|(a, _)| a.credited).collect();
    let second: Vec<f64> = group.iter().map(|(_, b)| b.credited).collect();
    let (flat_first, flat_second) = (is_constant(&first), is_constant(&second));
    let at = group[0].0;
    GroupDifference {
        step: at.step,
        uid: at.uid.clone(),
        stage: at.stage,
        group: at.group,
        pairs,
        flips,
        best_differs: !flat_first && !flat_second && best(&first) != best(&second),
        loses_signal: !flat_first && flat_second,
        gains_signal: flat_first && !flat_second,
    }
}

/// Returns the index of the first of the highest rewards.
fn best(rewards: &[f64]) -> usize {
    rewards.iter().enumerate().fold(0, |best, (i, reward)| if *reward > rewards[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(groups: &[&[f64]]) -> Scored {
        let of_group = |(group, rewards): (usize, &&[f64])| {
            let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
            let one = move |(sample, reward): (usize, &f64)| ScoredResponse {
                step: 1,
                uid: format!("u{group}"),
                stage: 0,
                group,
                sample,
                well_formed: true,
                p_chosen: None,
                scores: vec![*reward],
                parts: vec![*reward],
                total: *reward,
                credited: *reward,
                advantage: reward - mean,
            };
            rewards.iter().enumerate().map(one).collect::<Vec<_>>()
        };
        Scored { names: vec!["judge".into()], responses: groups.iter().enumerate().flat_map(of_group).collect() }
    }

    #[test]
    fn flips_and_lost_signals_by_hand() {
        // Group 0: 1 < 2 < 3 against 3, 1, 2. Of its pairs, (0, 1) and (0, 2) flip, and (1, 2) does not; the best changes from
        // the third to the first. Advantages −1, 0, 1 against 1, −1, 0: the first has opposite signs.
        // Group 1 loses its signal, group 2 gains one, and in group 3 both give different rewards to only one of three pairs, and the second
        // response has the advantages −1/3 and 1/3.
        let first = scored(&[&[1.0, 2.0, 3.0], &[0.0, 1.0], &[0.5, 0.5], &[1.0, 1.0, 2.0]]);
        let second = scored(&[&[3.0, 1.0, 2.0], &[0.5, 0.5], &[0.0, 1.0], &[1.0, 2.0, 2.0]]);
        let found = compare(&first, &second).unwrap();
        assert_eq!((found.groups, found.pairs, found.flips), (4, 3 + 1, 2));
        assert_eq!((found.lose_signal, found.gain_signal, found.opposite_advantages), (1, 1, 2));
        // In group 3, the first of the best is the third response, and then the second.
        assert_eq!(found.best_differs, 2);
        let different: Vec<(&str, usize)> = found.different.iter().map(|g| (g.uid.as_str(), g.flips)).collect();
        assert_eq!(different, [("u0", 2), ("u1", 0), ("u2", 0), ("u3", 0)]);
        assert!(found.different[1].loses_signal && found.different[2].gains_signal);
    }

    #[test]
    fn the_same_reward_does_not_differ_and_other_responses_are_refused() {
        let first = scored(&[&[1.0, 2.0, 3.0], &[0.5, 0.5]]);
        let found = compare(&first, &first).unwrap();
        assert_eq!((found.flips, found.pairs, found.different.len()), (0, 3, 0));
        let other = scored(&[&[1.0, 2.0, 3.0]]);
        assert!(compare(&first, &other).unwrap_err().to_string().contains("the same rollouts"));
    }
}
