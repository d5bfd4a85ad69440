//! Makes noisy curves readable: running means, and fewer points where a chart cannot show them all.

/// Returns the window of the running mean of a curve: about a twelfth of its points, an odd number from 3 to 51.
/// Returns `None` if a mean would show nothing new: for a curve short enough to see every point (fewer than 15), or one
/// so smooth (a schedule, a counter) that its total variation is at most three times its range.
pub(crate) fn window(points: &[(u64, f64)]) -> Option<usize> {
    let range = points
        .iter()
        .map(|(_, value)| *value)
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    let travelled: f64 = points.windows(2).map(|pair| (pair[1].1 - pair[0].1).abs()).sum();
    (points.len() >= 15 && travelled > 3.0 * (range.1 - range.0)).then(|| (points.len() / 12).clamp(3, 51) | 1)
}

/// Computes the centered running mean over `width` values (odd). Near the start, where curves are steep, the window
/// shrinks symmetrically. Near the end, where curves are flat and read most closely, it shrinks on the right side only,
/// so that the last value is not a single noisy step.
pub(crate) fn running_mean(points: &[(u64, f64)], width: usize) -> Vec<(u64, f64)> {
    let mean = |(index, &(step, _)): (usize, &(u64, f64))| {
        let half = (width / 2).min(index);
        let around = &points[index - half..(index + half + 1).min(points.len())];
        (step, around.iter().map(|(_, value)| value).sum::<f64>() / around.len() as f64)
    };
    points.iter().enumerate().map(mean).collect()
}

/// Returns about `limit` points at most, keeping every peak: the minimum and the maximum of each chunk, in order.
pub(crate) fn thin(points: &[(u64, f64)], limit: usize) -> Vec<(u64, f64)> {
    if points.len() <= limit {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil((limit / 2).max(1));
    let mut kept = Vec::with_capacity(limit + 2);
    for chunk in points.chunks(stretch) {
        let lowest = chunk.iter().min_by(|a, b| a.1.total_cmp(&b.1));
        let highest = chunk.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let mut pair: Vec<_> = lowest.into_iter().chain(highest).copied().collect();
        pair.sort_by_key(|(step, _)| *step);
        pair.dedup();
        kept.extend(pair);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_follows_a_straight_line_up_to_its_last_half_window() {
        let line: Vec<_> = (0..40).map(|step| (step, step as f64 * 0.5)).collect();
        let mean = running_mean(&line, 7);
        assert_eq!(mean[..37], line[..37]);
        assert_eq!(mean[39], (39, (36.0 + 37.0 + 38.0 + 39.0) * 0.5 / 4.0));
    }

    #[test]
    fn the_mean_is_over_the_window() {
        let points = [(1, 0.0), (2, 3.0), (3, 0.0), (4, 0.0)];
        assert_eq!(running_mean(&points, 3), [(1, 0.0), (2, 1.0), (3, 1.0), (4, 0.0)]);
    }

    #[test]
    fn only_noisy_curves_get_a_mean() {
        let warm_up_and_decay: Vec<_> =
            (0..100u64).map(|step| (step, (step as f64 / 10.0).min(1.0 - step as f64 / 100.0))).collect();
        let noisy: Vec<_> =
            warm_up_and_decay.iter().map(|&(step, v)| (step, v + if step % 2 == 0 { 0.1 } else { 0.0 })).collect();
        assert_eq!(window(&warm_up_and_decay), None);
        assert_eq!(window(&noisy), Some(9));
        assert_eq!(window(&noisy[..10]), None);
    }

    #[test]
    fn thinning_keeps_order_and_extremes() {
        let mut points: Vec<_> = (0..5000).map(|step| (step, (step as f64 / 50.0).sin())).collect();
        points[3333].1 = 9.0;
        let thinned = thin(&points, 400);
        assert!(thinned.len() <= 400 && thinned.len() > 100, "{}", thinned.len());
        assert!(thinned.contains(&(3333, 9.0)));
        assert!(thinned.is_sorted_by_key(|(step, _)| *step));
    }
}
