//! Samples the next token.
//!
//! Randomness is counter-based: the random number of (seed, position) is a hash of the two, so it does not depend on the rest of
//! the batch or on how the work is split.

use chat::Sampling;

/// SplitMix64's finalizer (Steele, Lea & Flood 2014): a bijection whose outputs pass for random.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Returns the uniform random number in [0, 1) for (seed, position).
pub fn uniform(seed: u64, position: u64) -> f64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let bits = mix(mix(seed.wrapping_add(GOLDEN)).wrapping_add((position + 1).wrapping_mul(GOLDEN)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// Returns the index of the maximum; of equal values, the first.
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, v) in values.iter().enumerate() {
        if *v > values[best] {
            best = i;
        }
    }
    best
}

/// Returns whether these settings may exclude tokens of a vocabulary.
pub fn truncates(sampling: &Sampling, vocab: usize) -> bool {
    sampling.top_k > 0 && sampling.top_k < vocab || sampling.top_p < 1.0 || sampling.min_p > 0.0
}

/// Samples from `probabilities` (of the distribution after temperature; they sum to about 1) by inverting the cumulative sum at
/// `u` in [0, 1). Truncates in the order of transformers: top-k first, then top-p on the remaining tokens, which keeps the token
/// that crosses `top_p`, then min-p.
pub fn sample(probabilities: &[f32], sampling: &Sampling, u: f64) -> usize {
    if !truncates(sampling, probabilities.len()) {
        return invert(probabilities.iter().copied().enumerate(), sum(probabilities.iter().copied()), u);
    }
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    let by_probability = |a: &usize, b: &usize| probabilities[*b].total_cmp(&probabilities[*a]).then(a.cmp(b));
    if sampling.top_k > 0 && sampling.top_k < order.len() {
        order.select_nth_unstable_by(sampling.top_k - 1, by_probability);
        order.truncate(sampling.top_k);
    }
    order.sort_unstable_by(by_probability);
    let kept = sum(order.iter().map(|&i| probabilities[i]));
    let mut reached = 0.0;
    let enough = order.iter().position(|&i| {
        reached += f64::from(probabilities[i]);
        reached >= sampling.top_p * kept
    });
    order.truncate(enough.map_or(order.len(), |last| last + 1));
    // The order is by descending probability, so the tokens below the threshold are at the end.
    let least = sampling.min_p as f32 * probabilities[order[0]];
    order.truncate(order.partition_point(|&i| probabilities[i] >= least).max(1));
    let total = sum(order.iter().map(|&i| probabilities[i]));
    invert(order.iter().map(|&i| (i, probabilities[i])), total, u)
}

fn sum(values: impl Iterator<Item = f32>) -> f64 {
    values.map(f64::from).sum()
}

fn invert(choices: impl Iterator<Item = (usize, f32)>, total: f64, u: f64) -> usize {
    let goal = u * total;
    let mut reached = 0.0;
    let mut last = 0;
    for (index, p) in choices {
        if p > 0.0 {
            last = index;
            reached += f64::from(p);
            if reached > goal {
                return index;
            }
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: [f32; 5] = [0.1, 0.4, 0.05, 0.25, 0.2];

    /// Computes Pearson's chi-square of 20,000 samples against `expected`; zero cells must stay empty. The bound is the quantile at
    /// 1 - 1e-5 for 4 degrees of freedom (28.47), so the test fails by chance for one in 100,000 seeds.
    fn check(sampling: &Sampling, expected: [f64; 5]) {
        let n = 20_000;
        let mut seen = [0f64; 5];
        for i in 0..n {
            seen[sample(&P, sampling, uniform(7, i))] += 1.0;
        }
        let mut chi = 0.0;
        for (s, e) in seen.iter().zip(expected) {
            if e == 0.0 {
                assert_eq!(*s, 0.0, "a token outside the kept set was drawn");
            } else {
                chi += (s - e * n as f64).powi(2) / (e * n as f64);
            }
        }
        assert!(chi < 28.47, "chi-square {chi:.1}: {seen:?}");
    }

    fn sampling(top_k: usize, top_p: f64) -> Sampling {
        Sampling { top_k, top_p, ..Sampling::all(1) }
    }

    #[test]
    fn draws_follow_the_distribution() {
        check(&sampling(0, 1.0), P.map(f64::from));
    }

    #[test]
    fn top_k_keeps_the_k_likeliest() {
        check(&sampling(2, 1.0), [0.0, 0.4 / 0.65, 0.0, 0.25 / 0.65, 0.0]);
    }

    #[test]
    fn top_p_keeps_the_token_that_crosses_it() {
        // 0.4, 0.65, 0.85: the third crosses 0.7.
        check(&sampling(0, 0.7), [0.0, 0.4 / 0.85, 0.0, 0.25 / 0.85, 0.2 / 0.85]);
    }

    #[test]
    fn top_p_acts_on_what_top_k_left() {
        // Of {0.4, 0.25}/0.65, the first alone is 0.615 ≥ 0.6.
        check(&sampling(2, 0.6), [0.0, 1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn min_p_keeps_what_is_likely_enough_beside_the_likeliest() {
        // 0.4 · 0.5 = 0.2: a token with exactly this probability is kept.
        check(&Sampling { min_p: 0.5, ..Sampling::all(1) }, [0.0, 0.4 / 0.85, 0.0, 0.25 / 0.85, 0.2 / 0.85]);
        check(&Sampling { min_p: 0.6, ..sampling(4, 1.0) }, [0.0, 0.4 / 0.65, 0.0, 0.25 / 0.65, 0.0]);
    }

    #[test]
    fn neighbouring_streams_are_unlike() {
        let mean = |f: &dyn Fn(u64) -> f64| (0..10_000).map(f).sum::<f64>() / 10_000.0;
        // Standard deviation of a mean of 10,000 uniforms: 0.0029; of products of independent pairs: about 0.0022.
        // The bounds are five of them.
        assert!((mean(&|i| uniform(1, i)) - 0.5).abs() < 0.0145);
        assert!((mean(&|i| uniform(i, 0)) - 0.5).abs() < 0.0145);
        assert!((mean(&|i| uniform(1, i) * uniform(2, i)) - 0.25).abs() < 0.011);
        assert!((mean(&|i| uniform(1, i) * uniform(1, i + 1)) - 0.25).abs() < 0.011);
    }
}
