//! The test of a trend: least squares over the looks of a window, with a one-sided t test of the slope.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// Rise below which rounding alone decides the sign of a slope.
const ROUNDING: f64 = 1e-9;

/// A fitted trend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trend {
    /// Rise of the fitted line from the first look to the last.
    pub rise: f64,
    /// Probability of a slope at least as large if the values have no trend and their errors are independent and normal.
    pub p_value: f64,
}

/// Fits a line to `values` at `steps`. With n looks, the slope over its standard error has Student's t distribution with n − 2
/// degrees of freedom if there is no trend. Returns `None` for fewer than three looks, or if all have the same step.
pub fn trend(steps: &[f64], values: &[f64]) -> Option<Trend> {
    let n = steps.len().min(values.len());
    if n < 3 {
        return None;
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / n as f64;
    let (middle, level) = (mean(&steps[..n]), mean(&values[..n]));
    let spread: f64 = steps[..n].iter().map(|x| (x - middle).powi(2)).sum();
    if spread <= 0.0 {
        return None;
    }
    let pairs = || steps[..n].iter().zip(&values[..n]);
    let slope = pairs().map(|(x, y)| (x - middle) * (y - level)).sum::<f64>() / spread;
    let rise = slope * (steps[n - 1] - steps[0]);
    if rise.abs() <= ROUNDING {
        return Some(Trend { rise, p_value: 1.0 });
    }
    let freedom = n as f64 - 2.0;
    let squares: f64 = pairs().map(|(x, y)| (y - level - slope * (x - middle)).powi(2)).sum();
    let error = (squares / freedom / spread).sqrt();
    // Values on a line have no error, so their trend is certain.
    let t = if error > 0.0 { slope / error } else { slope.signum() * f64::INFINITY };
    let p_value = match t {
        f64::INFINITY => 0.0,
        f64::NEG_INFINITY => 1.0,
        t => StudentsT::new(0.0, 1.0, freedom).ok()?.sf(t),
    };
    Some(Trend { rise, p_value })
}

#[cfg(test)]
mod tests {
    use tolerance::assert_within;

    use super::*;

    #[test]
    fn worked_by_hand() {
        // Steps 10, 20, 30, 40; values 1, 3, 2, 4: mean step 25, spread 225 + 25 + 25 + 225 = 500; mean value 2.5;
        // slope (−15 · −1.5 + −5 · 0.5 + 5 · −0.5 + 15 · 1.5) / 500 = 40 / 500 = 0.08, rise 0.08 · 30 = 2.4.
        // Fitted 1.3, 2.1, 2.9, 3.7: residuals −0.3, 0.9, −0.9, 0.3, squares 1.8; error √(1.8 / 2 / 500) = 0.0424264;
        // t = 1.8856181 with 2 degrees of freedom: p = 1/2 − t / (2 √(t² + 2)) = 1/2 − 1.8856181 / (2 · 2.3570226) = 0.1.
        let found = trend(&[10.0, 20.0, 30.0, 40.0], &[1.0, 3.0, 2.0, 4.0]).unwrap();
        assert_within!(found.rise - 2.4, 1e-9);
        assert_within!(found.p_value - 0.1, 1e-6);
        // Downward, the same trend is as unlikely to be a rise.
        let found = trend(&[10.0, 20.0, 30.0, 40.0], &[4.0, 2.0, 3.0, 1.0]).unwrap();
        assert_within!(found.rise + 2.4, 1e-9);
        assert_within!(found.p_value - 0.9, 1e-6);
    }

    #[test]
    fn a_line_is_certain_and_a_constant_has_no_trend() {
        let steps = [1.0, 2.0, 3.0, 4.0];
        let found = trend(&steps, &[0.5, 0.625, 0.75, 0.875]).unwrap();
        assert_within!(found.rise - 0.375, 1e-9);
        assert!(found.p_value < 1e-6, "{found:?}");
        assert_eq!(trend(&steps, &[0.1; 4]).unwrap().p_value, 1.0);
        assert!(trend(&steps, &[0.875, 0.75, 0.625, 0.5]).unwrap().p_value > 0.999);
    }

    #[test]
    fn too_few_looks_have_no_trend() {
        assert_eq!(trend(&[1.0, 2.0], &[0.0, 1.0]), None);
        assert_eq!(trend(&[3.0; 4], &[0.0, 1.0, 2.0, 3.0]), None);
    }
}
