//! Histograms as text.

use serde::{Deserialize, Serialize};

/// The eighths of a block, by which a bar ends.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// Returns the rank, from 1, of a quartile among `count` sorted values: the nearest rank, that of the smallest value with at least
/// `quarter` quarters of the values at or below it.
pub(crate) fn quartile_rank(count: usize, quarter: usize) -> usize {
    (count * quarter).div_ceil(4).max(1)
}

/// Counts of values in intervals of equal width.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// The smallest value.
    pub low: f64,
    /// The largest value.
    pub high: f64,
    /// Number of values in each interval; a value on a boundary belongs to the upper one, and the largest value to the last.
    pub counts: Vec<usize>,
}

impl Histogram {
    /// Counts `values` in `bins` intervals from the smallest value to the largest; fewer for whole numbers with a small range, and one
    /// if all are equal. Returns `None` without values or intervals.
    pub fn new(values: &[f64], bins: usize) -> Option<Self> {
        let low = values.iter().copied().min_by(f64::total_cmp)?;
        let high = values.iter().copied().max_by(f64::total_cmp)?;
        // Whole numbers get at most one interval each.
        let whole = values.iter().all(|value| value.fract() == 0.0);
        let bins = if whole { bins.min((high - low) as usize + 1) } else { bins };
        let bins = if high > low { bins } else { bins.min(1) };
        let last = bins.checked_sub(1)?;
        let mut counts = vec![0; bins];
        for value in values {
            let share = if high > low { (value - low) / (high - low) } else { 0.0 };
            counts[((share * bins as f64) as usize).min(last)] += 1;
        }
        Some(Self { low, high, counts })
    }

    /// Returns the label of each interval, its bounds with `decimals` decimals, and its count.
    pub fn labels(&self, decimals: usize) -> Vec<(String, usize)> {
        let step = (self.high - self.low) / self.counts.len() as f64;
        let label = |(i, count): (usize, &usize)| {
            let (begin, end) = (self.low + step * i as f64, self.low + step * (i + 1) as f64);
            (format!("{begin:8.decimals$} … {end:8.decimals$}"), *count)
        };
        self.counts.iter().enumerate().map(label).collect()
    }

    /// Returns one line per interval: its bounds with `decimals` decimals, a bar of at most `width` characters, and its count.
    pub fn lines(&self, width: usize, decimals: usize) -> Vec<String> {
        let most = self.counts.iter().copied().max().unwrap_or(0).max(1);
        let line = |(label, count): (String, usize)| {
            // A count above 0 is visible.
            let eighths = (8 * width * count).div_ceil(most);
            let bar = "█".repeat(eighths / 8) + EIGHTHS[eighths % 8];
            format!("{label}  {bar:<width$}  {count}")
        };
        self.labels(decimals).into_iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_belong_to_the_upper_interval_and_the_largest_value_to_the_last() {
        let found = Histogram::new(&[0.0, 0.25, 0.3, 0.5, 0.75, 1.0], 4).unwrap();
        assert_eq!(found, Histogram { low: 0.0, high: 1.0, counts: vec![1, 2, 1, 2] });
        assert_eq!(Histogram::new(&[0.5; 3], 4).unwrap().counts, [3]);
        assert_eq!(Histogram::new(&[15.0, 16.0, 16.0], 10).unwrap().counts, [1, 2]);
        assert_eq!((Histogram::new(&[], 4), Histogram::new(&[1.0, 2.0], 0)), (None, None));
    }

    #[test]
    fn bars_are_proportional() {
        let found = Histogram { low: -1.0, high: 1.0, counts: vec![4, 1, 0] };
        let lines = found.lines(2, 3);
        assert_eq!(lines[0], "  -1.000 …   -0.333  ██  4");
        // A quarter of two characters is four eighths.
        assert_eq!(lines[1], "  -0.333 …    0.333  ▌   1");
        assert_eq!(lines[2], "   0.333 …    1.000      0");
        assert_eq!(Histogram { low: 1.0, high: 3.0, counts: vec![2] }.lines(1, 0), ["       1 …        3  █  2"]);
    }
}
