//! The policy update.

use serde::{Deserialize, Serialize};

use crate::check::{Under, Verdict, at_least, ensure, not_negative, positive};

/// How a reward becomes an advantage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Advantage {
    /// (r − mean) / (std + ε) of its group (GRPO, arXiv 2402.03300), std with n − 1.
    #[default]
    GroupStd,
    /// r − mean of its group (Dr. GRPO, arXiv 2503.20783).
    GroupMean,
    /// r − mean of its group, over the standard deviation of all rewards of the step (+ ε).
    BatchStd,
    /// r − mean of the others of its group (RLOO, arXiv 2402.14740).
    LeaveOneOut,
}

/// What is done with a group whose rewards are all equal: it has no advantage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ZeroVariance {
    /// Its samples stay and count in the loss's mean, as published.
    #[default]
    Keep,
    /// Its samples are left out of the update.
    Drop,
    /// The same, and further people are rolled out in its place (dynamic sampling, DAPO, arXiv 2503.14476), for at most
    /// `refill_rounds` rounds.
    Refill,
}

/// What the ratio of probabilities is taken of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ratio {
    /// Each token.
    #[default]
    Token,
    /// The response: the geometric mean over its tokens (GSPO, arXiv 2507.18071).
    Sequence,
}

/// What the ratio does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyLoss {
    /// PPO's clipped surrogate (arXiv 1707.06347), with dual clip (arXiv 1912.09729).
    #[default]
    Clip,
    /// −clip(ratio)·A·logprob, the clipped ratio a constant (CISPO, arXiv 2506.13585): no token loses its gradient.
    Cispo,
}

/// How the losses of tokens become one, always over all responses of a mini-batch.
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
    /// The same, over `aggregation_length` (Dr. GRPO).
    Constant,
}

/// An estimator of KL(policy ‖ reference) from one sample, with d = logprob − reference's
/// (Schulman, http://joschu.net/blog/kl-approx.html).
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

/// Where the distance to the reference counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlPlace {
    /// Added to the loss of each token; the estimator is differentiated as it stands.
    #[default]
    Loss,
    /// Summed over a response and taken from its reward, credit included, before advantages.
    Reward,
}

/// Distance to a frozen reference policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KlConfig {
    /// β. 0 (the default): no reference is loaded.
    pub coefficient: f64,
    /// Default: k3.
    pub estimator: KlEstimator,
    /// Default: loss.
    pub place: KlPlace,
    /// Folder or hub id of the reference. Empty (the default): the policy as it is at the run's start.
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

/// Under which numerics the old policy's log-probabilities are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OldLogprobs {
    /// As they were when the tokens were sampled.
    #[default]
    Rollout,
    /// Computed again by the training code before the step's first update, as verl does: costs a forward pass.
    Recompute,
}

/// Truncated importance weights where rollout and training differ in their numerics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutCorrection {
    /// None.
    #[default]
    None,
    /// min(π_train/π_rollout, cap) of each token.
    Token,
    /// The same of each response, of the product over its tokens.
    Sequence,
}

/// The policy update. Default: as published: clipped ratios, mean over the tokens of the mini-batch, no KL term, no
/// entropy bonus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlgorithmConfig {
    /// How a reward becomes an advantage. Default: group_std.
    pub advantage: Advantage,
    /// Added to a standard deviation. Default: 1e-6.
    pub advantage_eps: f64,
    /// What is done with groups of equal rewards. Default: keep.
    pub zero_variance: ZeroVariance,
    /// Most rounds in which people are rolled out in place of those without variance. Default: 4.
    pub refill_rounds: usize,
    /// Of what the ratio is taken. Default: token.
    pub ratio: Ratio,
    /// What the ratio does. Default: clip.
    pub loss: PolicyLoss,
    /// The ratio counts no lower than 1 − this; 1 is no bound. Default: 0.2.
    pub clip_low: f64,
    /// The ratio counts no higher than 1 + this. Default: 0.2.
    pub clip_high: f64,
    /// For negative advantages the clipped loss counts no more than this times the advantage's size: above 1, or 0 for no
    /// bound. Default: 3.
    pub dual_clip: f64,
    /// How the losses of tokens become one. Default: token_mean.
    pub aggregation: Aggregation,
    /// The length by which `constant` divides; 0 (the default) is `rollout.max_new_tokens`.
    pub aggregation_length: usize,
    /// Distance to a reference policy. Default: none.
    pub kl: KlConfig,
    /// The loss is lowered by this times the entropy. Default: 0.
    pub entropy_coefficient: f64,
    /// Where the old policy's log-probabilities come from. Default: rollout.
    pub old_logprobs: OldLogprobs,
    /// Importance weights between rollout and training numerics; needs old_logprobs = "recompute". Default: none.
    pub rollout_correction: RolloutCorrection,
    /// Their upper bound. Default: 2.
    pub rollout_correction_cap: f64,
    /// Whether responses that the length limit cut are left out of the loss; they still count in their group's mean.
    /// Default: false.
    pub mask_truncated: bool,
    /// Mini-batches, and so optimizer updates, per pass over a step's samples; groups stay whole. Default: 4 (8192 rows,
    /// 2048 each).
    pub updates_per_step: usize,
    /// Passes over a step's samples. Default: 1.
    pub epochs_per_step: usize,
    /// Most tokens in one packed forward pass; a longer sequence goes alone. Changes memory and speed, not the result.
    /// Default: 16384.
    pub tokens_per_microbatch: usize,
    /// Whether the prompt that a group's samples share is computed once. Changes memory and speed, not the result.
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
            updates_per_step: 4,
            epochs_per_step: 1,
            tokens_per_microbatch: 16384,
            share_prompts: true,
        }
    }
}

impl AlgorithmConfig {
    /// Whether a reference policy is needed.
    pub fn needs_reference(&self) -> bool {
        self.kl.coefficient > 0.0
    }

    pub(crate) fn check(&self) -> Verdict {
        not_negative("advantage_eps", self.advantage_eps)?;
        at_least("refill_rounds", self.refill_rounds, 1)?;
        let low = self.clip_low > 0.0 && self.clip_low <= 1.0;
        ensure(low, "clip_low", self.clip_low, "a number above 0, at most 1 (no bound)")?;
        positive("clip_high", self.clip_high)?;
        let dual = self.dual_clip == 0.0 || self.dual_clip > 1.0 && self.dual_clip.is_finite();
        ensure(dual, "dual_clip", self.dual_clip, "a number above 1, or 0 for no bound")?;
        not_negative("coefficient", self.kl.coefficient).under("kl")?;
        not_negative("entropy_coefficient", self.entropy_coefficient)?;
        let recomputed =
            self.rollout_correction == RolloutCorrection::None || self.old_logprobs == OldLogprobs::Recompute;
        let expected = "\"none\", or old_logprobs = \"recompute\" beside it: without, ratios are to the rollout's own";
        ensure(recomputed, "rollout_correction", format!("{:?}", self.rollout_correction).to_lowercase(), expected)?;
        positive("rollout_correction_cap", self.rollout_correction_cap)?;
        at_least("updates_per_step", self.updates_per_step, 1)?;
        at_least("epochs_per_step", self.epochs_per_step, 1)?;
        at_least("tokens_per_microbatch", self.tokens_per_microbatch, 1)
    }
}
