//! Policy losses, as pure functions of log-probabilities and advantages, in double precision.
//!
//! The loss of a mini-batch is Σ over responses of [`sequence_loss`]: the loss of each token times its weight, which
//! [`Normalizer`] computes from all responses of the mini-batch. The loss therefore does not depend on how responses are packed
//! for execution, and replaying a recorded step reproduces it bit for bit.

use configs::rl::algorithm::{Aggregation, KlEstimator, KlPlace, PolicyLoss, Ratio};
use configs::rl::{AlgorithmConfig, RolloutConfig};

/// The inputs of the loss of one response; all slices have its length.
#[derive(Clone, Copy, Debug)]
pub struct PolicyLossInputs<'a> {
    /// Log-probabilities under the policy in training, nats.
    pub logprobs: &'a [f32],
    /// Entropies of the distributions over tokens, nats.
    pub entropy: &'a [f32],
    /// Log-probabilities under the old policy, the denominator of the ratio.
    pub old: &'a [f32],
    /// Log-probabilities under the frozen reference, if there is one.
    pub reference: Option<&'a [f32]>,
    /// Importance weights between the numerics of rollout and training ([`super::importance_sampling`]), if enabled.
    pub correction: Option<&'a [f64]>,
    /// The advantage, the same for each token.
    pub advantage: f64,
}

/// The normalization of the token losses of a mini-batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normalizer {
    aggregation: Aggregation,
    sequences: usize,
    /// The number of tokens of each micro-batch.
    tokens: Vec<usize>,
    /// The number of micro-batches of a full mini-batch.
    micro_batches: usize,
    length: usize,
}

impl Normalizer {
    /// Returns the normalizer of a mini-batch, given the length of each response and the index of its micro-batch.
    pub fn new(
        config: &AlgorithmConfig,
        rollout: &RolloutConfig,
        responses: impl Iterator<Item = (usize, usize)>,
    ) -> Self {
        let (mut sequences, mut tokens) = (0, Vec::<usize>::new());
        for (length, micro_batch) in responses {
            sequences += 1;
            tokens.resize(tokens.len().max(micro_batch + 1), 0);
            tokens[micro_batch] += length;
        }
        let length = if config.aggregation_length > 0 { config.aggregation_length } else { rollout.max_new_tokens };
        let micro_batches = config.micro_batches_per_minibatch(rollout);
        Self { aggregation: config.aggregation, sequences, tokens, micro_batches, length }
    }

    /// Returns the weight of each token of a response of `length` tokens in micro-batch `micro_batch`.
    pub fn weight(&self, length: usize, micro_batch: usize) -> f64 {
        let n = self.sequences as f64;
        match self.aggregation {
            Aggregation::TokenMean => 1.0 / self.tokens.iter().sum::<usize>() as f64,
            Aggregation::SequenceMeanTokenMean => 1.0 / (n * length as f64),
            Aggregation::SequenceMeanTokenSum => 1.0 / n,
            Aggregation::Constant => 1.0 / (n * self.length as f64),
            // The micro-batches of a rank's mini-batch are averaged first, then the ranks. Both numbers are fixed, so this is the
            // mean over all micro-batches of a full mini-batch.
            Aggregation::MicroBatchTokenMean => 1.0 / (self.micro_batches as f64 * self.tokens[micro_batch] as f64),
        }
    }
}

/// Sums over the tokens of responses. All but the losses are unweighted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossStats {
    /// The number of tokens.
    pub tokens: f64,
    /// The weighted loss: policy, KL and entropy.
    pub loss: f64,
    /// The policy part of `loss`.
    pub policy: f64,
    /// The sum of entropies.
    pub entropy: f64,
    /// The sum of ratios.
    pub ratio: f64,
    /// The maximum ratio.
    pub ratio_max: f64,
    /// The maximum |ratio − 1|.
    pub ratio_error: f64,
    /// The number of tokens that are clipped, or counted at the bound, because A > 0 and ratio > 1 + clip_high.
    pub high: f64,
    /// As `high`, because A < 0 and ratio < 1 − clip_low.
    pub low: f64,
    /// As `high`, because A < 0 and ratio > dual_clip.
    pub dual: f64,
    /// The sum of old − logprob, an estimate of KL(old ‖ policy).
    pub kl_old: f64,
    /// The sum of the configured estimate of KL(policy ‖ reference).
    pub kl_reference: f64,
    /// The sum of the importance weights between rollout and training.
    pub correction: f64,
}

impl LossStats {
    /// Adds the sums of further responses.
    pub fn add(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.loss += other.loss;
        self.policy += other.policy;
        self.entropy += other.entropy;
        self.ratio += other.ratio;
        self.ratio_max = self.ratio_max.max(other.ratio_max);
        self.ratio_error = self.ratio_error.max(other.ratio_error);
        self.high += other.high;
        self.low += other.low;
        self.dual += other.dual;
        self.kl_old += other.kl_old;
        self.kl_reference += other.kl_reference;
        self.correction += other.correction;
    }
}

/// The loss of one response and its derivatives.
#[derive(Clone, Debug, PartialEq)]
pub struct SequenceLoss {
    /// The sums over the response.
    pub sums: LossStats,
    /// d loss / d logprob of each token.
    pub derivative: Vec<f64>,
    /// d loss / d entropy, the same for each token.
    pub entropy_derivative: f64,
}

/// Computes the loss of one response whose tokens each have `weight`. With token-level ratios, a part of a response may be
/// passed instead.
pub fn sequence_loss(response: PolicyLossInputs<'_>, weight: f64, config: &AlgorithmConfig) -> SequenceLoss {
    let PolicyLossInputs { logprobs, entropy, old, reference, correction, advantage } = response;
    let log_ratio = |t: usize| f64::from(logprobs[t]) - f64::from(old[t]);
    let n = logprobs.len();
    let of_sequence = (0..n).map(log_ratio).sum::<f64>() / n as f64;
    let beta = if config.kl.place == KlPlace::Loss { config.kl.coefficient } else { 0.0 };
    let mut sums = LossStats { tokens: n as f64, ..LossStats::default() };
    let mut derivative = Vec::with_capacity(n);
    for t in 0..n {
        let logprob = f64::from(logprobs[t]);
        let ratio = match config.ratio {
            Ratio::Token => log_ratio(t),
            Ratio::Sequence => of_sequence,
        }
        .exp();
        let term = token_term(ratio, logprob, advantage, config);
        let corrected = correction.map_or(1.0, |weights| weights[t]);
        let distance = reference.map_or((0.0, 0.0), |r| kl_estimate(config.kl.estimator, logprob - f64::from(r[t])));
        let policy = weight * corrected * term.loss;
        sums.policy += policy;
        sums.loss += policy + weight * (beta * distance.0 - config.entropy_coefficient * f64::from(entropy[t]));
        sums.entropy += f64::from(entropy[t]);
        sums.ratio += ratio;
        sums.ratio_max = sums.ratio_max.max(ratio);
        sums.ratio_error = sums.ratio_error.max((ratio - 1.0).abs());
        sums.high += f64::from(u8::from(term.held == Some(Bound::High)));
        sums.low += f64::from(u8::from(term.held == Some(Bound::Low)));
        sums.dual += f64::from(u8::from(term.held == Some(Bound::Dual)));
        sums.kl_old -= log_ratio(t);
        sums.kl_reference += distance.0;
        sums.correction += corrected;
        derivative.push((weight * corrected * term.slope, weight * beta * distance.1));
    }
    // With a sequence-level ratio, the loss of every token depends on the ratio of the whole response, and that on the mean of
    // all log-probabilities.
    let through_mean = config.ratio == Ratio::Sequence && config.loss == PolicyLoss::Clip;
    let mean = derivative.iter().map(|(policy, _)| policy).sum::<f64>() / n as f64;
    let derivative = derivative.iter().map(|&(policy, kl)| if through_mean { mean } else { policy } + kl).collect();
    SequenceLoss { sums, derivative, entropy_derivative: -config.entropy_coefficient * weight }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    High,
    Low,
    Dual,
}

struct LossTerm {
    loss: f64,
    /// d loss / d log ratio (clip), or d loss / d logprob (CISPO).
    slope: f64,
    held: Option<Bound>,
}

fn token_term(ratio: f64, logprob: f64, advantage: f64, config: &AlgorithmConfig) -> LossTerm {
    let (low, high) = (1.0 - config.clip_low, 1.0 + config.clip_high);
    let held = match advantage {
        a if a > 0.0 && ratio > high => Some(Bound::High),
        a if a < 0.0 && ratio < low => Some(Bound::Low),
        a if a < 0.0 && config.dual_clip > 0.0 && ratio > config.dual_clip => Some(Bound::Dual),
        _ => None,
    };
    match config.loss {
        // max(−A·r, −A·clip(r)); for A < 0 at most −A·c. The derivative of −A·r with respect to log r is −A·r; that of the
        // bounds is 0.
        PolicyLoss::Clip => {
            let bound = match held {
                None => return LossTerm { loss: -advantage * ratio, slope: -advantage * ratio, held },
                Some(Bound::High) => high,
                Some(Bound::Low) => low,
                Some(Bound::Dual) => config.dual_clip,
            };
            LossTerm { loss: -advantage * bound, slope: 0.0, held }
        }
        PolicyLoss::Cispo => {
            let slope = -advantage * ratio.clamp(low, high);
            LossTerm { loss: slope * logprob, slope, held: held.filter(|bound| *bound != Bound::Dual) }
        }
    }
}

/// Returns an estimate of KL(policy ‖ reference) from d, the policy's log-probability minus the reference's, and its derivative
/// with respect to d.
pub fn kl_estimate(estimator: KlEstimator, d: f64) -> (f64, f64) {
    match estimator {
        KlEstimator::K1 => (d, 1.0),
        KlEstimator::K2 => (d * d / 2.0, d),
        KlEstimator::K3 => ((-d).exp() - 1.0 + d, 1.0 - (-d).exp()),
    }
}

#[cfg(test)]
mod tests {
    use configs::rl::algorithm::Minibatches;
    use tolerance::assert_within;

    use super::*;

    /// Returns the loss and derivative of single tokens, given their (ratio, advantage).
    fn terms(pairs: &[(f64, f64)], config: &AlgorithmConfig) -> Vec<(f64, f64)> {
        let one = |&(ratio, advantage): &(f64, f64)| {
            let logprobs = [ratio.ln() as f32];
            let response = PolicyLossInputs {
                logprobs: &logprobs,
                entropy: &[0.0],
                old: &[0.0],
                reference: None,
                correction: None,
                advantage,
            };
            let found = sequence_loss(response, 1.0, config);
            (found.sums.loss, found.derivative[0])
        };
        pairs.iter().map(one).collect()
    }

    #[track_caller]
    fn close(got: &[(f64, f64)], want: &[(f64, f64)]) {
        for (g, w) in got.iter().zip(want) {
            assert_within!(g.0 - w.0, 1e-6, "{got:?} is not {want:?}");
            assert_within!(g.1 - w.1, 1e-6, "{got:?} is not {want:?}");
        }
    }

    #[test]
    fn every_branch_of_the_clip_as_worked_by_hand() {
        // Unclipped; clipped above (A > 0); unclipped above (A < 0); clipped below (A < 0); unclipped below (A > 0); dual clip
        // (A < 0, ratio > 3), which is then also disabled.
        let pairs = [(1.1, 2.0), (1.5, 2.0), (1.5, -1.0), (0.5, -1.0), (0.5, 1.0), (4.0, -2.0)];
        let want = [(-2.2, -2.2), (-2.4, 0.0), (1.5, 1.5), (0.8, 0.0), (-0.5, -0.5), (6.0, 0.0)];
        close(&terms(&pairs, &AlgorithmConfig::default()), &want);
        let without = AlgorithmConfig { dual_clip: 0.0, ..AlgorithmConfig::default() };
        close(&terms(&pairs[5..], &without), &[(8.0, 8.0)]);
        // With wider bounds, the second and the fourth are not clipped.
        let wide = AlgorithmConfig { clip_low: 0.6, clip_high: 0.6, ..AlgorithmConfig::default() };
        close(&terms(&pairs[1..4], &wide), &[(-3.0, -3.0), (1.5, 1.5), (0.5, 0.5)]);
    }

    #[test]
    fn cispo_bounds_the_weight_and_keeps_the_gradient() {
        let config = AlgorithmConfig { loss: PolicyLoss::Cispo, ..AlgorithmConfig::default() };
        // −clip(1.5)·2·ln 1.5 = −2.4·0.405465; −clip(0.5)·(−1)·ln 0.5 = 0.8·(−0.693147).
        close(&terms(&[(1.5, 2.0), (0.5, -1.0)], &config), &[(-0.973_116, -2.4), (-0.554_518, 0.8)]);
    }

    #[test]
    fn weights_by_aggregation() {
        // Responses of 2 and 6 tokens; maximum length 10.
        let rollout = RolloutConfig { max_new_tokens: 10, users_per_step: 1, ..RolloutConfig::default() };
        let of = |aggregation, aggregation_length| {
            let config = AlgorithmConfig { aggregation, aggregation_length, ..AlgorithmConfig::default() };
            let by = Normalizer::new(&config, &rollout, [(2, 0), (6, 0)].into_iter());
            [by.weight(2, 0), by.weight(6, 0)]
        };
        assert_eq!(of(Aggregation::TokenMean, 0), [0.125; 2]);
        assert_eq!(of(Aggregation::SequenceMeanTokenMean, 0), [0.25, 1.0 / 12.0]);
        assert_eq!(of(Aggregation::SequenceMeanTokenSum, 0), [0.5; 2]);
        assert_eq!(of(Aggregation::Constant, 0), [0.05; 2]);
        assert_eq!(of(Aggregation::Constant, 4), [0.125; 2]);
    }

    #[test]
    fn micro_batches_are_averaged_over_those_of_a_full_mini_batch() {
        // A step of 8 responses in 2 mini-batches of 4; this one has 3 responses, in micro-batches of 2.
        let rollout = RolloutConfig { users_per_step: 1, ..RolloutConfig::default() };
        let config = AlgorithmConfig {
            aggregation: Aggregation::MicroBatchTokenMean,
            micro_batch_sequences: 2,
            num_minibatches: 2,
            ..AlgorithmConfig::default()
        };
        let by = Normalizer::new(&config, &rollout, [(2, 0), (6, 0), (5, 1)].into_iter());
        // Two micro-batches, of 8 and 5 tokens.
        assert_eq!([by.weight(2, 0), by.weight(6, 0), by.weight(5, 1)], [1.0 / 16.0, 1.0 / 16.0, 0.1]);
        // The same responses alone in their mini-batch: the divisor stays 2.
        let short = Normalizer::new(&config, &rollout, [(2, 0), (6, 0)].into_iter());
        assert_eq!(short.weight(2, 0), 1.0 / 16.0);
        // Four published ranks have one response each, so every response is a micro-batch of a rank.
        let config = AlgorithmConfig { minibatches: Minibatches::Published, published_ranks: 4, ..config };
        let by = Normalizer::new(&config, &rollout, [(2, 0), (6, 1), (5, 3)].into_iter());
        assert_eq!([by.weight(2, 0), by.weight(6, 1), by.weight(5, 3)], [1.0 / 8.0, 1.0 / 24.0, 1.0 / 20.0]);
    }

    #[test]
    fn estimators_as_worked_by_hand() {
        // d = ln 2: the token is twice as likely under the policy as under the reference. e^−d = 1/2.
        let d = std::f64::consts::LN_2;
        assert_eq!(kl_estimate(KlEstimator::K1, d), (d, 1.0));
        assert_eq!(kl_estimate(KlEstimator::K2, d), (d * d / 2.0, d));
        let (value, slope) = kl_estimate(KlEstimator::K3, d);
        assert_within!(value - (d - 0.5), 1e-12);
        assert_within!(slope - 0.5, 1e-12);
    }
}
