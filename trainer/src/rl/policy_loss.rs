//! GRPO's policy loss, as a pure function of log-probabilities and advantages.

use configs::rl::AlgorithmConfig;
use tch::{Kind, Tensor};

/// Loss and its derivative for each token, and what the clipping did.
#[derive(Debug)]
pub struct TokenLoss {
    /// Loss, [tokens].
    pub loss: Tensor,
    /// d loss / d logprob, [tokens].
    pub derivative: Tensor,
    /// exp(logprob - old), [tokens].
    pub ratio: Tensor,
    /// Tokens held back because the ratio left the clip range upwards (A > 0), downwards (A < 0), or met the dual clip
    /// (A < 0); 0 or 1 each, [tokens].
    pub clipped: Clipped,
}

/// Which bound held a token back.
#[derive(Debug)]
pub struct Clipped {
    /// A > 0 and ratio > 1 + clip_high.
    pub high: Tensor,
    /// A < 0 and ratio < 1 - clip_low.
    pub low: Tensor,
    /// A < 0 and ratio > dual_clip.
    pub dual: Tensor,
}

/// The clipped surrogate of PPO with dual clip (Ye et al. 2020), as verl computes it. Per token, with
/// r = exp(logprob - old) and advantage A:
///
/// L = max(-A·r, -A·clip(r, 1 - ε_low, 1 + ε_high)); where A < 0: L = min(L, -A·c).
///
/// All three inputs are [tokens]; `old` are log-probabilities under the policy that sampled.
pub fn token_loss(logprobs: &Tensor, old: &Tensor, advantages: &Tensor, algorithm: &AlgorithmConfig) -> TokenLoss {
    let (low, high, dual) = (1.0 - algorithm.clip_low, 1.0 + algorithm.clip_high, algorithm.dual_clip);
    let ratio = (logprobs - old).exp();
    let plain = -(advantages * &ratio);
    let clipped = -(advantages * ratio.clamp(low, high));
    let negative = advantages.lt(0.0);
    let bounded = plain.maximum(&clipped);
    let loss = bounded.where_self(&negative.logical_not(), &bounded.minimum(&(advantages * -dual)));
    let held = Clipped {
        high: advantages.gt(0.0).logical_and(&ratio.gt(high)),
        low: negative.logical_and(&ratio.lt(low)),
        dual: negative.logical_and(&ratio.gt(dual)),
    };
    // Where no bound holds, L = -A·r, whose derivative by logprob is -A·r again; elsewhere L is constant.
    let free = held.high.logical_or(&held.low).logical_or(&held.dual).logical_not();
    let derivative = &plain * free.to_kind(plain.kind());
    let number = |t: Tensor| t.to_kind(Kind::Float);
    TokenLoss {
        loss,
        derivative,
        ratio,
        clipped: Clipped { high: number(held.high), low: number(held.low), dual: number(held.dual) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(values: &[f64]) -> Tensor {
        Tensor::from_slice(values)
    }

    fn values(t: &Tensor) -> Vec<f64> {
        Vec::try_from(t.to_kind(Kind::Double)).unwrap()
    }

    #[test]
    fn every_branch_as_worked_by_hand() {
        // ratio, A → L: free; clipped above (A > 0); free above (A < 0); clipped below (A < 0); free below (A > 0);
        // dual clip (A < 0, ratio > 3).
        let ratios = [1.1, 1.5, 1.5, 0.5, 0.5, 4.0];
        let advantages = [2.0, 2.0, -1.0, -1.0, 1.0, -2.0];
        let expected = [-2.2, -2.4, 1.5, 0.8, -0.5, 6.0];
        let logprobs = vector(&ratios).log();
        let result = token_loss(&logprobs, &logprobs.zeros_like(), &vector(&advantages), &AlgorithmConfig::default());
        for (got, want) in values(&result.loss).iter().zip(expected) {
            assert!((got - want).abs() < 1e-12, "{got} is not {want}");
        }
        assert_eq!(values(&result.clipped.high), [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(values(&result.clipped.low), [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
        assert_eq!(values(&result.clipped.dual), [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn the_derivative_is_autograds() {
        tch::manual_seed(3);
        let options = (Kind::Double, tch::Device::Cpu);
        let old = Tensor::randn([500], options);
        let logprobs = (&old + Tensor::randn([500], options) * 0.7).set_requires_grad(true);
        let advantages = Tensor::randn([500], options);
        let result = token_loss(&logprobs, &old, &advantages, &AlgorithmConfig::default());
        result.loss.sum(Kind::Double).backward();
        let distance = (logprobs.grad() - result.derivative.detach()).abs().max().double_value(&[]);
        assert!(distance < 1e-12, "{distance}");
    }
}
