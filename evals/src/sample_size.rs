//! The number of users needed to tell two accuracies apart, at a significance level of 5 % (two-sided, 95 % confidence) and a power of
//! 80 %.
//!
//! Both formulas are the normal approximation without continuity correction, for independent answers: Fleiss, Levin and Paik,
//! *Statistical Methods for Rates and Proportions*, 3rd edition (Wiley, 2003), chapters 2 (one proportion) and 4 (two proportions).

use statrs::distribution::{ContinuousCDF, Normal};

/// The probability of a false alarm, both sides together.
const SIGNIFICANCE: f64 = 0.05;

/// The probability to find the difference.
const POWER: f64 = 0.8;

/// Returns the quantiles z(1 − α/2) = 1.960 and z(power) = 0.842 of the standard normal distribution.
fn quantiles() -> (f64, f64) {
    let normal = Normal::standard();
    (normal.inverse_cdf(1.0 - SIGNIFICANCE / 2.0), normal.inverse_cdf(POWER))
}

/// Returns the number of users that tells an accuracy of `own` from the exactly known accuracy `exact`:
///
/// n = ((z(1 − α/2) · √(p₀q₀) + z(power) · √(p₁q₁)) / (p₁ − p₀))², with p₀ = `exact`, p₁ = `own`, q = 1 − p.
///
/// Shares are from 0 to 1. Returns `None` if they are equal or not shares: no number of users tells them apart.
pub fn one_proportion(exact: f64, own: f64) -> Option<u64> {
    let (alpha, power) = quantiles();
    smallest(exact, own, alpha * deviation(exact) + power * deviation(own))
}

/// Returns the number of users of each of two evaluations that tells the accuracies `a` and `b` apart, if both are measured on that
/// many different users:
///
/// n = ((z(1 − α/2) · √(2p̄q̄) + z(power) · √(p₁q₁ + p₂q₂)) / (p₁ − p₂))², with p̄ = (p₁ + p₂) / 2, q = 1 − p.
///
/// Shares are from 0 to 1. Returns `None` if they are equal or not shares: no number of users tells them apart.
pub fn two_proportions(a: f64, b: f64) -> Option<u64> {
    let (alpha, power) = quantiles();
    let mean = f64::midpoint(a, b);
    let both = deviation(a).hypot(deviation(b));
    smallest(a, b, alpha * std::f64::consts::SQRT_2 * deviation(mean) + power * both)
}

/// Returns √(p(1 − p)), the standard deviation of one answer.
fn deviation(share: f64) -> f64 {
    (share * (1.0 - share)).sqrt()
}

fn smallest(a: f64, b: f64, spread: f64) -> Option<u64> {
    let shares = (0.0..=1.0).contains(&a) && (0.0..=1.0).contains(&b);
    (shares && a != b).then(|| (spread / (a - b)).powi(2).ceil() as u64)
}

#[cfg(test)]
mod tests {
    use tolerance::assert_within;

    use super::*;

    #[test]
    fn the_quantiles_are_those_of_the_tables() {
        let (alpha, power) = quantiles();
        assert_within!(alpha - 1.959_963_985, 1e-8);
        assert_within!(power - 0.841_621_234, 1e-8);
    }

    #[test]
    fn one_proportion_by_hand() {
        // √(0.5 · 0.5) = 0.5, √(0.6 · 0.4) = 0.489898: (1.959964 · 0.5 + 0.841621 · 0.489898) / 0.1 = 13.9229, squared 193.85.
        assert_eq!(one_proportion(0.5, 0.6), Some(194));
        // A model that is always right: (1.959964 · 0.5 / 0.5)² = 3.84.
        assert_eq!((one_proportion(0.5, 1.0), one_proportion(0.5, 0.0)), (Some(4), Some(4)));
        // The published accuracy on AlignX, and one point less: two benchmarks of its size could not tell.
        assert_eq!(one_proportion(0.7503, 0.7403), Some(14_821));
    }

    #[test]
    fn two_proportions_by_hand() {
        // p̄ = 0.55, √(2 · 0.55 · 0.45) = 0.703562; √(0.25 + 0.24) = 0.7:
        // (1.959964 · 0.703562 + 0.841621 · 0.7) / 0.1 = 19.6809, squared 387.34.
        assert_eq!(two_proportions(0.5, 0.6), Some(388));
        // p̄ = 0.325, √(2 · 0.325 · 0.675) = 0.662382; √(0.1875 + 0.24) = 0.653835: (1.298245 + 0.550281) / 0.15 = 12.3235,
        // squared 151.87.
        assert_eq!((two_proportions(0.25, 0.4), two_proportions(0.4, 0.25)), (Some(152), Some(152)));
        assert_eq!(two_proportions(0.7503, 0.7403), Some(29_798));
    }

    #[test]
    fn what_is_equal_or_no_share_has_no_number() {
        for (a, b) in [(0.5, 0.5), (1.0, 1.0), (f64::NAN, 0.5), (1.5, 0.5), (0.5, -0.1)] {
            assert_eq!((one_proportion(a, b), two_proportions(a, b)), (None, None), "{a} {b}");
        }
    }
}
