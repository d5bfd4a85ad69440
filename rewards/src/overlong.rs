//! Soft punishment of over-long responses (DAPO, arXiv 2503.14476, eq. 13).

/// What a response of `tokens` loses: nothing below `limit − band`, then in a straight line up to `most` at the limit.
/// A band of 0 punishes nothing.
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
        // Limit 100, band 20: from 80 on, 1/20 of the penalty a token.
        let of = |tokens| penalty(tokens, 100, 20, 0.5);
        assert_eq!([of(0), of(80), of(85), of(90), of(100), of(120)], [0.0, 0.0, 0.125, 0.25, 0.5, 0.5]);
        assert_eq!(penalty(100, 100, 0, 0.5), 0.0);
    }
}
