//! Truncated importance weights between the numerics of rollout and training (TIS; Yao et al. 2025), and metrics of the
//! mismatch.

use configs::rl::AlgorithmConfig;
use configs::rl::algorithm::RolloutCorrection;

/// Returns the weight of each token of a response: min(π_train/π_rollout, cap), of the token or of the product over the
/// response. `None` if the configuration disables the correction. Both inputs are log-probabilities, nats.
pub fn weights(config: &AlgorithmConfig, train: &[f32], rollout: &[f32]) -> Option<Vec<f64>> {
    let cap = config.rollout_correction_cap;
    let differences = || train.iter().zip(rollout).map(|(t, r)| f64::from(*t) - f64::from(*r));
    match config.rollout_correction {
        RolloutCorrection::None => None,
        RolloutCorrection::Token => Some(differences().map(|d| d.exp().min(cap)).collect()),
        RolloutCorrection::Sequence => Some(vec![differences().sum::<f64>().exp().min(cap); train.len()]),
    }
}

/// The mismatch between the log-probabilities of sampled tokens in training and in the rollout.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mismatch {
    tokens: f64,
    kl: f64,
    largest: f64,
}

impl Mismatch {
    /// Adds the tokens of a response.
    pub fn add(&mut self, train: &[f32], rollout: &[f32]) {
        for (train, rollout) in train.iter().zip(rollout) {
            let d = f64::from(*train) - f64::from(*rollout);
            self.tokens += 1.0;
            // k3 estimator of KL(rollout ‖ train): exp(d) − 1 − d, never negative.
            self.kl += d.exp_m1() - d;
            self.largest = self.largest.max(d.abs());
        }
    }

    /// Returns the mean KL(rollout ‖ train) per token, nats; NaN if no token was added.
    pub fn kl(&self) -> f64 {
        self.kl / self.tokens
    }

    /// Returns the maximum ratio of the two probabilities, the larger one divided by the smaller one.
    pub fn max_ratio(&self) -> f64 {
        if self.tokens > 0.0 { self.largest.exp() } else { f64::NAN }
    }
}

#[cfg(test)]
mod tests {
    use tolerance::assert_within;

    use super::*;

    #[test]
    fn worked_by_hand() {
        let ln = |v: f64| v.ln() as f32;
        let (train, rollout) = ([ln(0.4), ln(0.9)], [ln(0.1), ln(0.6)]);
        let with = |rollout_correction| {
            let config =
                AlgorithmConfig { rollout_correction, rollout_correction_cap: 5.0, ..AlgorithmConfig::default() };
            weights(&config, &train, &rollout)
        };
        assert_eq!(with(RolloutCorrection::None), None);
        let close = |got: Option<Vec<f64>>, want: [f64; 2]| {
            for (g, w) in got.unwrap().iter().zip(want) {
                assert_within!(g - w, 1e-5);
            }
        };
        close(with(RolloutCorrection::Token), [4.0, 1.5]);
        // 4 · 1.5 = 6 exceeds the cap.
        close(with(RolloutCorrection::Sequence), [5.0, 5.0]);

        let mut mismatch = Mismatch::default();
        mismatch.add(&train, &rollout);
        // (4 − 1 − ln 4 + 1.5 − 1 − ln 1.5) / 2
        assert_within!(mismatch.kl() - (3.5 - 6f64.ln()) / 2.0, 1e-6);
        assert_within!(mismatch.max_ratio() - 4.0, 1e-5);
        assert!(Mismatch::default().kl().is_nan());
    }
}
