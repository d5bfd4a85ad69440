//! Soft penalty of overlong responses (DAPO, arXiv 2503.14476, eq. 13).

/// Returns the penalty of a response of `tokens` tokens: 0 up to `limit − band`, then linearly increasing to `most` at `limit`. A
/// `band` of 0 disables the penalty.
pub fn penalty(tokens: usize, limit: usize, band: usize, most: f64) -> f64 {
    if band == 0 {
        return 0.0;
    }
    let into = tokens.saturating_sub(limit.saturating_sub(band)) as f64;
    most * (into / band as f64).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_band_as_worked_by_hand() {
        // Limit 100, band 20: from 80 tokens, each token adds 1/20 of the penalty.
        let of = |tokens| penalty(tokens, 100, 20, 0.5);
        assert_eq!([of(0), of(80), of(85), of(90), of(100), of(120)], [0.0, 0.0, 0.125, 0.25, 0.5, 0.5]);
        assert_eq!(penalty(100, 100, 0, 0.5), 0.0);
    }
}
