//! Histograms as text.

/// The eighths of a block, by which a bar ends.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// Counts of values in intervals of equal width.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// The smallest value.
    pub low: f64,
    /// The largest value.
    pub high: f64,
    /// Number of values in each interval; a value on a boundary belongs to the upper one, and the largest value to the last.
    pub counts: Vec<usize>,
}

impl Histogram {
    /// Counts `values` in `bins` intervals from the smallest value to the largest; one interval if all are equal. Returns `None`
    /// without values or intervals.
    pub fn new(values: &[f64], bins: usize) -> Option<Self> {
        let low = values.iter().copied().min_by(f64::total_cmp)?;
        let high = values.iter().copied().max_by(f64::total_cmp)?;
        let bins = if high > low { bins } else { bins.min(1) };
        let last = bins.checked_sub(1)?;
        let mut counts = vec![0; bins];
        for value in values {
            let share = if high > low { (value - low) / (high - low) } else { 0.0 };
            counts[((share * bins as f64) as usize).min(last)] += 1;
        }
        Some(Self { low, high, counts })
    }

    /// Returns one line per interval: its bounds, a bar of at most `width` characters, and its count.
    pub fn lines(&self, width: usize) -> Vec<String> {
        let most = self.counts.iter().copied().max().unwrap_or(0).max(1);
        let step = (self.high - self.low) / self.counts.len() as f64;
        let line = |(i, count): (usize, &usize)| {
            let (begin, end) = (self.low + step * i as f64, self.low + step * (i + 1) as f64);
            // A count above 0 is visible.
            let eighths = (8 * width * count).div_ceil(most);
            let bar = "█".repeat(eighths / 8) + EIGHTHS[eighths % 8];
            format!("{begin:8.3} … {end:8.3}  {bar:<width$}  {count}")
        };
        self.counts.iter().enumerate().map(line).collect()
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
        assert_eq!((Histogram::new(&[], 4), Histogram::new(&[1.0, 2.0], 0)), (None, None));
    }

    #[test]
    fn bars_are_proportional() {
        let found = Histogram { low: -1.0, high: 1.0, counts: vec![4, 1, 0] };
        let lines = found.lines(2);
        assert_eq!(lines[0], "  -1.000 …   -0.333  ██  4");
        // A quarter of two characters is four eighths.
        assert_eq!(lines[1], "  -0.333 …    0.333  ▌   1");
        assert_eq!(lines[2], "   0.333 …    1.000      0");
    }
}
