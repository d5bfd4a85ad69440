//! Normalization of a term's scores by their mean and standard deviation.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::batch::RewardResponse;

/// Count, mean and squared deviations of the scores so far (Welford; merged as in Chan et al.).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunningStatistics {
    /// Number of scores.
    pub count: f64,
    /// Their mean.
    pub mean: f64,
    /// The sum of their squared deviations from the mean.
    pub sum_squared_deviations: f64,
}

impl RunningStatistics {
    /// Returns the statistics of some scores.
    pub fn of(scores: impl IntoIterator<Item = f64>) -> Self {
        let mut statistics = Self::default();
        scores.into_iter().for_each(|score| statistics.add(score));
        statistics
    }

    /// Adds a score.
    pub fn add(&mut self, score: f64) {
        self.count += 1.0;
        let before = score - self.mean;
        self.mean += before / self.count;
        self.sum_squared_deviations += before * (score - self.mean);
    }

    /// Adds the scores of other statistics.
    pub fn merge(&mut self, other: &Self) {
        let count = self.count + other.count;
        if self.count == 0.0 {
            // Not by the formula below, which rounds the mean: equal scores keep a deviation of exactly 0.
            *self = *other;
            return;
        }
        let distance = other.mean - self.mean;
        self.mean += distance * other.count / count;
        self.sum_squared_deviations +=
            other.sum_squared_deviations + distance * distance * self.count * other.count / count;
        self.count = count;
    }

    /// Returns (score − mean) / (std + `eps`), where std is the unbiased estimate; score − mean if all scores were equal, and the
    /// score itself with fewer than two of them.
    pub fn normalized(&self, score: f64, eps: f64) -> f64 {
        if self.count < 2.0 {
            return score;
        }
        let deviation = (self.sum_squared_deviations / (self.count - 1.0)).sqrt();
        if deviation == 0.0 { score - self.mean } else { (score - self.mean) / (deviation + eps) }
    }
}

/// Normalizes the scores of well-formed responses within each group. A group whose scores are all equal gets 0.
pub(super) fn within_groups(responses: &[RewardResponse<'_>], well_formed: &[bool], scores: &mut [f64], eps: f64) {
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, response) in responses.iter().enumerate().filter(|(index, _)| well_formed[*index]) {
        groups.entry(response.group).or_default().push(index);
    }
    for members in groups.values() {
        let first = scores[members[0]];
        if members.iter().all(|&i| scores[i] == first) {
            members.iter().for_each(|&i| scores[i] = 0.0);
            continue;
        }
        let statistics = RunningStatistics::of(members.iter().map(|&i| scores[i]));
        for &i in members {
            scores[i] = statistics.normalized(scores[i], eps);
        }
    }
}

#[cfg(test)]
mod tests {
    use tolerance::assert_within;

    use super::*;

    #[test]
    fn merged_statistics_are_those_of_all_scores() {
        let scores = [0.5, -1.0, 4.0, 2.5, 2.5];
        let all = RunningStatistics::of(scores);
        // Mean 8.5 / 5 = 1.7; squared deviations 1.44 + 7.29 + 5.29 + 0.64 + 0.64 = 15.3.
        assert_within!(all.mean - 1.7, 1e-12);
        assert_within!(all.sum_squared_deviations - 15.3, 1e-12);
        let mut merged = RunningStatistics::default();
        for part in [&scores[..0], &scores[..2], &scores[2..]] {
            merged.merge(&RunningStatistics::of(part.iter().copied()));
        }
        assert_eq!(merged.count, 5.0);
        assert_within!(merged.mean - 1.7, 1e-12);
        assert_within!(merged.sum_squared_deviations - 15.3, 1e-12);
        // std √(15.3 / 4) = 1.955761: (4 − 1.7) / 1.955761.
        assert_within!(merged.normalized(4.0, 0.0) - 1.176_013, 1e-6);
    }

    #[test]
    fn few_or_equal_scores_divide_by_nothing() {
        assert_eq!(RunningStatistics::default().normalized(0.3, 1e-6), 0.3);
        assert_eq!(RunningStatistics::of([7.0]).normalized(0.3, 1e-6), 0.3);
        let equal = RunningStatistics::of([0.5; 4]);
        assert_eq!(equal.normalized(0.5, 0.0), 0.0);
        assert_eq!(equal.normalized(0.6, 0.1), 0.6 - 0.5);
        // Equal also where their sum is rounded.
        let mut merged = RunningStatistics::default();
        (0..3).for_each(|_| merged.merge(&RunningStatistics::of([0.1; 3])));
        assert_eq!(merged.normalized(0.6, 0.0), 0.6 - 0.1);
    }
}
