//! Spearman's rank correlation.

/// Returns the correlation of the ranks of two lists of the same length, from −1 to 1. Equal values share the mean of their ranks
/// (Kendall and Gibbons, *Rank Correlation Methods*, 5th edition, 1990, chapter 3), so the result is Pearson's correlation of the
/// ranks. Returns `None` for fewer than two values, and if all values of a list are equal.
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    let n = a.len();
    if n < 2 || b.len() != n {
        return None;
    }
    // The mean of the ranks 1, …, n, with ties or without.
    let middle = (n as f64 + 1.0) / 2.0;
    let centered = |values: &[f64]| -> Vec<f64> { ranks(values).into_iter().map(|rank| rank - middle).collect() };
    let (a, b) = (centered(a), centered(b));
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let scale = (product(&a, &a) * product(&b, &b)).sqrt();
    (scale > 0.0).then(|| (product(&a, &b) / scale).clamp(-1.0, 1.0))
}

/// Returns the rank of each value, from 1; equal values have the mean of their ranks.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    let mut below = 0;
    for tied in order.chunk_by(|&i, &j| values[i] == values[j]) {
        // The ranks below + 1, …, below + k.
        let rank = below as f64 + (tied.len() as f64 + 1.0) / 2.0;
        tied.iter().for_each(|&i| ranks[i] = rank);
        below += tied.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use tolerance::assert_within;

    use super::*;

    #[track_caller]
    fn close(got: Option<f64>, want: f64) {
        assert_within!(got.expect("a correlation") - want, 1e-9, "{got:?} is not {want}");
    }

    #[test]
    fn ranks_of_ties_are_means() {
        assert_eq!(ranks(&[0.3, 0.1, 0.3, 0.9, 0.3]), [3.0, 1.0, 3.0, 5.0, 3.0]);
        assert_eq!(ranks(&[2.0, 2.0, -1.0, 5.0]), [2.5, 2.5, 1.0, 4.0]);
        assert_eq!(ranks(&[]), [0.0; 0]);
    }

    #[test]
    fn worked_by_hand() {
        // Without ties: 1 − 6 Σ d² / (n (n² − 1)), with d = −1, 1, −1, 1, 0: 1 − 6 · 4 / 120 = 0.8.
        close(spearman(&[1.0, 2.0, 3.0, 4.0, 5.0], &[0.2, 0.1, 0.4, 0.3, 0.9]), 0.8);
        // Ranks 1, 2.5, 2.5, 4 and 3, 1, 2, 4, around 2.5: products −0.75 + 0 + 0 + 2.25 = 1.5, squares 4.5 and 5.
        close(spearman(&[1.0, 2.0, 2.0, 4.0], &[3.0, 1.0, 2.0, 4.0]), 1.5 / 22.5f64.sqrt());
        close(spearman(&[1.0, 2.0, 9.0], &[-1.0, -2.0, -3.0]), -1.0);
    }

    #[test]
    fn only_the_order_counts() {
        let (a, b) = ([0.1, 0.7, 0.2, 0.9, 0.4], [3.0, 8.0, 8.0, 1.0, 2.0]);
        let scaled: Vec<f64> = a.iter().map(|v: &f64| v.powi(3) * 100.0).collect();
        assert_eq!(spearman(&a, &b), spearman(&scaled, &b));
    }

    #[test]
    fn what_is_constant_has_no_correlation() {
        assert_eq!(spearman(&[1.0, 1.0, 1.0], &[1.0, 2.0, 3.0]), None);
        assert_eq!(spearman(&[1.0], &[2.0]), None);
    }
}
