//! Means over values that are crossed by training seed and user, with 95 % intervals over either and over both.
//!
//! Every run of a variant is evaluated on the same users, so a value belongs to one seed s and one user u. The means over seeds and
//! over users vary with σ²ₛ/S, σ²ᵤ/U, and an interaction σ²ₛᵤ/(S·U). The variance of the mean of all is estimated as
//!
//! V = Vᵤ + Vₛ − Vₛᵤ, with Vᵤ = var(user means)/U, Vₛ = var(seed means)/S, Vₛᵤ = var(residuals)/(S·U),
//!
//! because Vᵤ and Vₛ both contain the interaction. V is at least the larger of Vᵤ and Vₛ. The interval is Student's t with
//! Satterthwaite's degrees of freedom (*Biometrics Bulletin* 2 (1946) 110–114), at least min(S, U) − 1.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::interval::interval;

/// The ends of a 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Range {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// A mean over seeds and users.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CrossedMean {
    /// The mean.
    pub mean: f64,
    /// The interval over users, for these seeds; `None` with a single user.
    pub over_users: Option<Range>,
    /// The interval over seeds, for these users; `None` with a single seed.
    pub over_seeds: Option<Range>,
    /// The interval over both; that over users with a single seed, and that over seeds with a single user.
    pub over_both: Option<Range>,
    /// The two-sided p-value of the hypothesis that the mean is 0, by the interval over both; `None` for a single value, and for equal
    /// values other than 0, whose variance is unknown.
    pub p: Option<f64>,
    /// The number of seeds.
    pub seeds: usize,
    /// The number of users.
    pub users: usize,
}

/// An estimated variance of a mean and its degrees of freedom.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Uncertainty {
    variance: f64,
    freedom: f64,
}

/// Returns the mean of `values`, one list of users for each seed, with the users in the same order. Intervals are clamped to
/// `possible`. Returns `None` without values, or if the lists differ in length.
pub fn crossed_mean(values: &[Vec<f64>], possible: RangeInclusive<f64>) -> Option<CrossedMean> {
    let (seeds, users) = (values.len(), values.first()?.len());
    if users == 0 || values.iter().any(|of_seed| of_seed.len() != users) {
        return None;
    }
    let of_seeds: Vec<f64> = values.iter().map(|of_seed| average(of_seed)).collect();
    let of_users: Vec<f64> = (0..users).map(|u| values.iter().map(|s| s[u]).sum::<f64>() / seeds as f64).collect();
    let mean = average(&of_seeds);
    let over = |means: &[f64]| {
        let found = interval(means, possible.clone()).filter(|_| means.len() > 1)?;
        Some(Range { low: found.low, high: found.high })
    };
    let both = uncertainty(values, &of_seeds, &of_users);
    Some(CrossedMean {
        mean,
        over_users: over(&of_users),
        over_seeds: over(&of_seeds),
        over_both: both.and_then(|both| both.range(mean, &possible)),
        p: both.and_then(|both| both.p(mean)),
        seeds,
        users,
    })
}

fn average(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Returns the variance of the mean of independent values; `None` for a single value.
fn of_mean(values: &[f64]) -> Option<Uncertainty> {
    let freedom = values.len() as f64 - 1.0;
    let mean = average(values);
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (freedom > 0.0).then_some(Uncertainty { variance: squares / freedom / values.len() as f64, freedom })
}

fn uncertainty(values: &[Vec<f64>], of_seeds: &[f64], of_users: &[f64]) -> Option<Uncertainty> {
    let (seeds, users) = match (of_mean(of_seeds), of_mean(of_users)) {
        (Some(seeds), Some(users)) => (seeds, users),
        (one, other) => return one.or(other),
    };
    let mean = average(of_seeds);
    let mut squares = 0.0;
    for (of_seed, seed_mean) in values.iter().zip(of_seeds) {
        for (value, user_mean) in of_seed.iter().zip(of_users) {
            squares += (value - seed_mean - user_mean + mean).powi(2);
        }
    }
    let freedom = seeds.freedom * users.freedom;
    let interaction = squares / freedom / (of_seeds.len() * of_users.len()) as f64;
    let variance = (seeds.variance + users.variance - interaction).max(seeds.variance).max(users.variance);
    let parts =
        seeds.variance.powi(2) / seeds.freedom + users.variance.powi(2) / users.freedom + interaction.powi(2) / freedom;
    let least = seeds.freedom.min(users.freedom);
    let freedom = if parts > 0.0 { (variance.powi(2) / parts).max(least) } else { least };
    Some(Uncertainty { variance, freedom })
}

impl Uncertainty {
    fn range(self, mean: f64, possible: &RangeInclusive<f64>) -> Option<Range> {
        let half = self.t()?.inverse_cdf(0.975) * self.variance.sqrt();
        Some(Range { low: (mean - half).max(*possible.start()), high: (mean + half).min(*possible.end()) })
    }

    fn p(self, mean: f64) -> Option<f64> {
        if self.variance == 0.0 {
            return (mean == 0.0).then_some(1.0);
        }
        Some((2.0 * self.t()?.sf((mean / self.variance.sqrt()).abs())).min(1.0))
    }

    fn t(self) -> Option<StudentsT> {
        StudentsT::new(0.0, 1.0, self.freedom).ok()
    }
}

/// Adjusts p-values for multiple comparisons by Holm's step-down method (*Scandinavian Journal of Statistics* 6 (1979) 65–70): the i-th
/// smallest of m is multiplied by m − i + 1, and none is below a smaller one's. Rejecting those below α keeps the probability of any
/// false rejection at most α. Returns them in the order of `p`.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut largest = 0.0f64;
    for (rank, &index) in order.iter().enumerate() {
        largest = largest.max((p[index] * (p.len() - rank) as f64).min(1.0));
        adjusted[index] = largest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use tolerance::assert_within;

    use super::*;

    const ALL: RangeInclusive<f64> = -100.0..=100.0;

    #[test]
    fn two_seeds_and_two_users_by_hand() {
        // User means 1, 5 and seed means 1, 5: variances of the mean 8/2 = 4 each. Residuals 1, −1, −1, 1: 4/1/4 = 1.
        // V = 4 + 4 − 1 = 7; freedom 49 / (16 + 16 + 1) = 1.484848; t 3/√7 = 1.133893.
        let values = [vec![0.0, 2.0], vec![2.0, 8.0]];
        let found = uncertainty(&values, &[1.0, 5.0], &[1.0, 5.0]).unwrap();
        assert_within!(found.variance - 7.0, 1e-12);
        assert_within!(found.freedom - 49.0 / 33.0, 1e-12);
        let found = crossed_mean(&values, ALL).unwrap();
        assert_eq!((found.mean, found.seeds, found.users), (3.0, 2, 2));
        // By numeric integration of the density: t₀.₉₇₅ = 6.103403.
        let both = found.over_both.unwrap();
        assert_within!(both.high - (3.0 + 16.148_087), 1e-3, "{found:?}");
        assert_within!(found.p.unwrap() - 0.407_280, 1e-4, "{found:?}");
    }

    #[test]
    fn three_seeds_and_four_users_by_hand() {
        // User means 1, 2, 3, 6 and seed means 3, 4, 2: Vᵤ = 14/3/4 = 7/6, Vₛ = 2/2/3 = 1/3. Four residuals are ±1, the others 0:
        // 4/6/12 = 1/18. V = 1.444444, freedom 4.092836.
        let values = [vec![1.0, 2.0, 3.0, 6.0], vec![2.0, 2.0, 5.0, 7.0], vec![0.0, 2.0, 1.0, 5.0]];
        let found = crossed_mean(&values, ALL).unwrap();
        assert_eq!(found.mean, 3.0);
        let both = found.over_both.unwrap();
        assert_within!(both.low - (3.0 - 3.307_233), 1e-4, "{found:?}");
        assert_within!(found.p.unwrap() - 0.065_633, 1e-4, "{found:?}");
        // t₀.₉₇₅(3) = 3.182446, √(7/6) = 1.080123; t₀.₉₇₅(2) = 4.302653, √(1/3) = 0.577350.
        assert_within!(found.over_users.unwrap().high - (3.0 + 3.182_446 * 1.080_123), 1e-5, "{found:?}");
        assert_within!(found.over_seeds.unwrap().high - (3.0 + 4.302_653 * 0.577_350), 1e-5, "{found:?}");
    }

    #[test]
    fn one_seed_or_one_user_leaves_one_source_of_variance() {
        let of_users = crossed_mean(&[vec![1.0, 2.0, 3.0]], ALL).unwrap();
        assert_eq!((of_users.over_seeds, of_users.over_both), (None, of_users.over_users));
        let of_seeds = crossed_mean(&[vec![1.0], vec![2.0], vec![3.0]], ALL).unwrap();
        assert_eq!((of_seeds.over_users, of_seeds.over_both), (None, of_seeds.over_seeds));
        let one = crossed_mean(&[vec![1.0]], ALL).unwrap();
        assert_eq!((one.over_both, one.p), (None, None));
        for none in [&[][..], &[vec![]], &[vec![1.0, 2.0], vec![1.0]]] {
            assert_eq!(crossed_mean(none, ALL), None);
        }
    }

    #[test]
    fn equal_values_have_no_width() {
        let all = |value: f64| crossed_mean(&[vec![value; 2], vec![value; 2]], ALL).unwrap();
        assert_eq!((all(0.0).p, all(0.5).p), (Some(1.0), None));
        assert_eq!(all(0.5).over_both, Some(Range { low: 0.5, high: 0.5 }));
    }

    #[test]
    fn holm_by_hand() {
        // In order 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04; the last is raised to 0.06.
        let found = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (found, expected) in found.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert_within!(found - expected, 1e-12);
        }
        assert_eq!(holm(&[0.5, 0.9]), [1.0, 1.0]);
        assert_eq!(holm(&[0.2]), [0.2]);
        assert!(holm(&[]).is_empty());
    }
}
