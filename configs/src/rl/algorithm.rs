//! The policy update.

use serde::{Deserialize, Serialize};

use crate::check::{CheckResult, Under, at_least, ensure, not_negative, positive};

/// How advantages are computed from rewards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Advantage {
    /// (r − mean) / (std + ε) of its group (GRPO, arXiv 2402.03300); std uses n − 1.
    #[default]
    GroupStd,
    /// r − mean of its group (Dr. GRPO, arXiv 2503.20783).
    GroupMean,
    /// r − mean of its group, divided by the standard deviation of all rewards of the step (+ ε).
    BatchStd,
    /// r − mean of the other rewards of its group (RLOO, arXiv 2402.14740).
    LeaveOneOut,
}

/// Handling of a group whose rewards are all equal. Such a group has no advantage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ZeroVariance {
    /// Keep its samples. They count in the mean of the loss, as published.
    #[default]
    Keep,
    /// Exclude its samples from the update.
    Drop,
    /// Exclude its samples and roll out further users in its place (dynamic sampling, DAPO, arXiv 2503.14476), for at most
    /// `refill_rounds` rounds.
    Refill,
}

/// The unit over which the probability ratio is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ratio {
    /// Each token.
    #[default]
    Token,
    /// The response: the geometric mean over its tokens (GSPO, arXiv 2507.18071).
    Sequence,
}

/// The loss as a function of the ratio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyLoss {
    /// PPO's clipped surrogate (arXiv 1707.06347), with dual clip (arXiv 1912.09729).
    #[default]
    Clip,
    /// −clip(ratio)·A·logprob, where the clipped ratio is a constant (CISPO, arXiv 2506.13585). No token loses its gradient.
    Cispo,
}

/// How the token losses are aggregated, always over all responses of a mini-batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// Mean over all tokens.
    #[default]
    TokenMean,
    /// Mean over responses of the mean over their tokens.
    SequenceMeanTokenMean,
    /// Mean over responses of the sum over their tokens.
    SequenceMeanTokenSum,
    /// Mean over responses of the sum over their tokens, divided by `aggregation_length` (Dr. GRPO).
    Constant,
}

/// A single-sample estimator of KL(policy ‖ reference), with d = logprob − reference logprob (Schulman,
/// <http://joschu.net/blog/kl-approx.html>).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlEstimator {
    /// d.
    K1,
    /// d²/2.
    K2,
    /// exp(−d) − 1 + d.
    #[default]
    K3,
}

/// Where the KL penalty applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlPlace {
    /// In the loss of each token; the estimator itself is differentiated.
    #[default]
    Loss,
    /// In the reward: summed over a response and subtracted from its reward, including credit, before advantages are computed.
    Reward,
}

/// KL penalty toward a frozen reference policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KlConfig {
    /// β, the coefficient of the penalty. 0 (the default): no reference is loaded.
    pub coefficient: f64,
    /// The KL estimator. Default: k3.
    pub estimator: KlEstimator,
    /// Where the penalty applies. Default: loss.
    pub place: KlPlace,
    /// Folder or hub id of the reference. Empty (the default): the policy at the start of the run.
    pub reference: String,
}

impl Default for KlConfig {
    fn default() -> Self {
        Self {
            coefficient: 0.0,
            estimator: KlEstimator::default(),
            place: KlPlace::default(),
            reference: String::new(),
        }
    }
}

/// The numerics under which the old policy's log-probabilities are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OldLogprobs {
    /// The log-probabilities recorded when the tokens were sampled.
    #[default]
    Rollout,
    /// Log-probabilities that the training code recomputes before the step's first update, as in verl. Costs a forward pass.
    Recompute,
}

/// Truncated importance sampling, which corrects for the different numerics of rollout and training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutCorrection {
    /// No correction.
    #[default]
    None,
    /// min(π_train/π_rollout, cap) for each token.
    Token,
    /// min(π_train/π_rollout, cap) for each response, with the product over its tokens.
    Sequence,
}

/// The policy update. Default, as published: clipped ratios, mean over the tokens of the mini-batch, no KL term, no entropy bonus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlgorithmConfig {
    /// How advantages are computed from rewards. Default: group_std.
    pub advantage: Advantage,
    /// ε, added to a standard deviation. Default: 1e-6.
    pub advantage_eps: f64,
    /// Handling of groups with equal rewards. Default: keep.
    pub zero_variance: ZeroVariance,
    /// Maximum number of rounds in which further users replace groups without variance. Default: 4.
    pub refill_rounds: usize,
    /// The unit over which the probability ratio is computed. Default: token.
    pub ratio: Ratio,
    /// The loss as a function of the ratio. Default: clip.
    pub loss: PolicyLoss,
    /// Lower clip range: the ratio is clipped at 1 − this value; 1 disables the bound. Default: 0.2.
    pub clip_low: f64,
    /// Upper clip range: the ratio is clipped at 1 + this value. Default: 0.2.
    pub clip_high: f64,
    /// Upper bound of the clipped loss for negative advantages, as a multiple of the advantage's magnitude; above 1, or 0 for no
    /// bound. Default: 3.
    pub dual_clip: f64,
    /// How the token losses are aggregated. Default: token_mean.
    pub aggregation: Aggregation,
    /// The divisor of `constant`; 0 (the default) uses `rollout.max_new_tokens`.
    pub aggregation_length: usize,
    /// KL penalty toward a reference policy. Default: none.
    pub kl: KlConfig,
    /// Coefficient of the entropy bonus, which is subtracted from the loss. Default: 0.
    pub entropy_coefficient: f64,
    /// Source of the old policy's log-probabilities. Default: rollout.
    pub old_logprobs: OldLogprobs,
    /// Importance sampling correction between rollout and training numerics; requires old_logprobs = "recompute". Default: none.
    pub rollout_correction: RolloutCorrection,
    /// Upper bound of the importance weights. Default: 2.
    pub rollout_correction_cap: f64,
    /// Whether to exclude responses that the length limit truncated from the loss. They still count in the mean of their group.
    /// Default: false.
    pub mask_truncated: bool,
    /// Number of mini-batches, and thus of optimizer updates, per pass over a step's samples; groups are not split. Default: 4
    /// (8192 rows, 2048 each).
    pub num_minibatches: usize,
    /// Number of passes over a step's samples. Default: 1.
    pub num_iterations: usize,
    /// Maximum number of tokens in one packed forward pass; a longer sequence is processed alone. Changes memory and speed, not the
    /// result. Default: 16384.
    pub micro_batch_tokens: usize,
    /// Whether to compute the prompt that a group's samples share only once. Changes memory and speed, not the result.
    /// Default: true.
    pub share_prompts: bool,
}

impl Default for AlgorithmConfig {
    fn default() -> Self {
        Self {
            advantage: Advantage::default(),
            advantage_eps: 1e-6,
            zero_variance: ZeroVariance::default(),
            refill_rounds: 4,
            ratio: Ratio::default(),
            loss: PolicyLoss::default(),
            clip_low: 0.2,
            clip_high: 0.2,
            dual_clip: 3.0,
            aggregation: Aggregation::default(),
            aggregation_length: 0,
            kl: KlConfig::default(),
            entropy_coefficient: 0.0,
            old_logprobs: OldLogprobs::default(),
            rollout_correction: RolloutCorrection::default(),
            rollout_correction_cap: 2.0,
            mask_truncated: false,
            num_minibatches: 4,
            num_iterations: 1,
            micro_batch_tokens: 16384,
            share_prompts: true,
        }
    }
}

impl AlgorithmConfig {
    /// Returns whether a reference policy is required.
    pub fn needs_reference(&self) -> bool {
        self.kl.coefficient > 0.0
    }

    pub(crate) fn check(&self) -> CheckResult {
        not_negative("advantage_eps", self.advantage_eps)?;
        at_least("refill_rounds", self.refill_rounds, 1)?;
        let low = self.clip_low > 0.0 && self.clip_low <= 1.0;
        ensure(low, "clip_low", self.clip_low, "a number above 0, at most 1 (1 sets no bound)")?;
        positive("clip_high", self.clip_high)?;
        let dual = self.dual_clip == 0.0 || self.dual_clip > 1.0 && self.dual_clip.is_finite();
        ensure(dual, "dual_clip", self.dual_clip, "a number above 1, or 0 for no bound")?;
        not_negative("coefficient", self.kl.coefficient).under("kl")?;
        not_negative("entropy_coefficient", self.entropy_coefficient)?;
        let recomputed =
            self.rollout_correction == RolloutCorrection::None || self.old_logprobs == OldLogprobs::Recompute;
        let expected = "\"none\", or old_logprobs = \"recompute\"; otherwise ratios already use the rollout's logprobs";
        ensure(recomputed, "rollout_correction", format!("{:?}", self.rollout_correction).to_lowercase(), expected)?;
        positive("rollout_correction_cap", self.rollout_correction_cap)?;
        at_least("num_minibatches", self.num_minibatches, 1)?;
        at_least("num_iterations", self.num_iterations, 1)?;
        at_least("micro_batch_tokens", self.micro_batch_tokens, 1)
    }
}
