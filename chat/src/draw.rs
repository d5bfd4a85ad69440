//! Counter-based random draws. A draw is a hash of its purpose, so it does not depend on previous draws, on batching, or on the
//! number of processes.
//!
//! The hash chains the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA
//! 2014). It is not cryptographic.

/// The increment of SplitMix64: the golden ratio in 64 bits.
const INCREMENT: u64 = 0x9E37_79B9_7F4A_7C15;

/// A random draw, identified by everything that it may depend on.
///
/// ```
/// use chat::Draw;
/// let picked = Draw::new(7).text("picked row").with(120).text("uid-3").below(4);
/// assert!(picked < 4);
/// assert_eq!(picked, Draw::new(7).text("picked row").with(120).text("uid-3").below(4));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw(u64);

impl Draw {
    /// Returns the root of all draws of a run with this seed.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// Derives a draw from a number: a step, a stage, an index.
    #[must_use]
    pub fn with(self, value: u64) -> Self {
        Self(mix(self.0 ^ value))
    }

    /// Derives a draw from a text: a purpose, a user. The length is hashed too, so `("ab", "c")` and `("a", "bc")` differ.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        let words = text.as_bytes().chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
        // The complement distinguishes a text from numbers, which are usually small.
        words.fold(self.with(!(text.len() as u64)), Self::with)
    }

    /// Returns 64 uniform bits, for example as a seed for another generator.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Returns a uniform integer below `n` (0 if `n` is 0), by multiplication; the bias is below `n` / 2⁶⁴.
    pub fn below(self, n: usize) -> usize {
        // The product of two 64-bit numbers, shifted by 64, is below `n` and therefore fits.
        ((u128::from(self.0) * n as u128) >> 64) as usize
    }
}

fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(INCREMENT);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_finalizer_is_splitmix64() {
        // First three outputs of the reference implementation from state 1234567.
        let outputs: Vec<u64> = (0..3).map(|i| mix(1_234_567u64.wrapping_add(INCREMENT.wrapping_mul(i)))).collect();
        assert_eq!(outputs, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn every_part_of_the_name_counts() {
        let root = Draw::new(1);
        let all = [
            root,
            Draw::new(2),
            root.with(0),
            root.with(1),
            root.with(0).with(1),
            Draw::new(2).with(2),
            root.with(1).with(0),
            root.text(""),
            root.text("a"),
            root.text("a\0"),
            root.text("a").text("bc"),
            root.text("ab").text("c"),
        ];
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                assert_ne!(a, b);
            }
        }
    }

    #[test]
    fn small_counters_draw_uniformly() {
        // 12,000 draws over 6 cells; chi-square with 5 degrees of freedom exceeds 35.9 once in a million.
        let mut counts = [0usize; 6];
        for step in 0..200 {
            for user in 0..60 {
                counts[Draw::new(0).with(step).text(&format!("uid-{user}")).below(6)] += 1;
            }
        }
        let chi: f64 = counts.iter().map(|&c| (c as f64 - 2000.0).powi(2) / 2000.0).sum();
        assert!(chi < 35.9, "{counts:?}");
    }
}
