//! 95 % intervals over users.
//!
//! The targets of one user are correlated, so the sample consists of users, not targets: each user counts once, by
//! their mean, and the interval is Student's t over those means. It is exact for normal means, close to exact for
//! accuracies of a few dozen users, and needs no random numbers. If all users have the same mean, the interval has
//! width zero.

use std::ops::RangeInclusive;

use statrs::distribution::{ContinuousCDF, StudentsT};

/// A mean with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The mean over users.
    pub mean: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// Computes mean ± t₀.₉₇₅(n − 1) · s / √n over one value per user, clamped to `range`, the possible values. A single
/// user carries no information about others, so the interval is all of `range`. Returns `None` without values.
pub fn interval(values: &[f64], range: RangeInclusive<f64>) -> Option<Interval> {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let (least, most) = range.into_inner();
    if values.len() < 2 {
        return (!values.is_empty()).then_some(Interval { mean, low: least, high: most });
    }
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let t = StudentsT::new(0.0, 1.0, n - 1.0).ok()?.inverse_cdf(0.975);
    let half = t * (variance / n).sqrt();
    Some(Interval { mean, low: (mean - half).max(least), high: (mean + half).min(most) })
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use tolerance::assert_within;

    use super::*;

    #[test]
    fn worked_by_hand() {
        // 0.5, 0.7, 0.9, 0.7, 0.7: mean 0.7, s = √(0.08 / 4) = √0.02, t with 4 degrees of freedom 2.776445, half-width
        // 2.776445 · √(0.02 / 5) = 0.1755978.
        let got = interval(&[0.5, 0.7, 0.9, 0.7, 0.7], 0.0..=1.0).unwrap();
        assert_within!(got.mean - 0.7, 1e-12);
        assert_within!(got.low - 0.524_402_2, 1e-6, "{got:?}");
        assert_within!(got.high - 0.875_597_8, 1e-6, "{got:?}");
        // Clamped to the possible range: 0.9 ± 1.2706 (t with 1 degree of freedom 12.7062, s / √2 = 0.1).
        let got = interval(&[0.8, 1.0], 0.0..=1.0).unwrap();
        assert_eq!((got.low, got.high), (0.0, 1.0));
        let got = interval(&[0.8, 1.0], -2.0..=2.0).unwrap();
        assert_within!(got.low + 0.370_620_5, 1e-6, "{got:?}");
    }

    #[test]
    fn few_users() {
        assert_eq!(interval(&[], 0.0..=1.0), None);
        assert_eq!(interval(&[0.4], 0.0..=1.0), Some(Interval { mean: 0.4, low: 0.0, high: 1.0 }));
        assert_eq!(interval(&[0.5; 3], 0.0..=1.0), Some(Interval { mean: 0.5, low: 0.5, high: 0.5 }));
    }

    /// 2,000 evaluations of 40 users with 10 targets each. A user is predicted with accuracy 0.5 or 0.9, so the truth
    /// is 0.7. If the coverage is between 94.5 % (means are not quite normal) and 95.5 %, the count exceeds the bounds
    /// less than once in 10,000 runs (binomial, 4 standard deviations).
    #[test]
    fn intervals_cover_the_truth_and_treating_targets_as_users_would_not() {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let (mut covered, mut covered_by_targets) = (0, 0);
        for _ in 0..2000 {
            let mut answers = Vec::new();
            let mut means = Vec::new();
            for _ in 0..40 {
                let accuracy = if rng.random_bool(0.5) { 0.5 } else { 0.9 };
                let right: Vec<f64> = (0..10).map(|_| f64::from(u8::from(rng.random_bool(accuracy)))).collect();
                means.push(right.iter().sum::<f64>() / 10.0);
                answers.extend(right);
            }
            let covers = |values: &[f64]| interval(values, 0.0..=1.0).is_some_and(|i| i.low <= 0.7 && 0.7 <= i.high);
            covered += usize::from(covers(&means));
            covered_by_targets += usize::from(covers(&answers));
        }
        assert!((1849..=1947).contains(&covered), "{covered}");
        assert!(covered_by_targets < 1849, "{covered_by_targets}");
    }
}
