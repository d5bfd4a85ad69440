//! The policy update.

use serde::{Deserialize, Serialize};

use super::rollout::RolloutConfig;
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

/// How the token losses are aggregated, always over all responses of a mini-batch. None depends on how many ranks run.
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
    /// Mean over micro-batches of `micro_batch_sequences` responses of the mean over the tokens of each, as AlignXplore+ was
    /// trained. The divisor is the number of micro-batches of a full mini-batch, even if a mini-batch has fewer.
    MicroBatchTokenMean,
}

/// How the responses of a step are divided into mini-batches. Neither depends on how many ranks run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Minibatches {
    /// Whole groups of all stages, in an order that is shuffled for each pass over the samples.
    #[default]
    Groups,
    /// As AlignXplore+ was trained on `published_ranks` ranks: the responses of each stage are balanced by length over the ranks,
    /// the stages are concatenated, and each rank takes a contiguous piece of the whole, which it divides in order. Groups are
    /// split. Every pass over the samples has the same mini-batches.
    Published,
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
    /// Folder, run or hub id of the reference. Empty (the default): the policy at the start of the run.
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

/// The policy update. Default: clipped ratios, mean over the tokens of the mini-batch, no KL term, no entropy bonus. Published are
/// `aggregation = "micro_batch_token_mean"` and `minibatches = "published"`; the other defaults are as published.
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
    /// Number of responses in a micro-batch of `micro_batch_token_mean`. Forward passes are packed by `micro_batch_tokens`
    /// regardless. Default: 8, as published.
    pub micro_batch_sequences: usize,
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
    /// Number of mini-batches, and thus of optimizer updates, per pass over a step's samples. Default: 4 (8192 rows, 2048 each).
    pub num_minibatches: usize,
    /// How a step's samples are divided into mini-batches. Default: groups.
    pub minibatches: Minibatches,
    /// Number of ranks over which `minibatches = "published"` divides the samples, whatever the number of ranks that run. Default:
    /// 64, as published.
    pub published_ranks: usize,
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
            micro_batch_sequences: 8,
            kl: KlConfig::default(),
            entropy_coefficient: 0.0,
            old_logprobs: OldLogprobs::default(),
            rollout_correction: RolloutCorrection::default(),
            rollout_correction_cap: 2.0,
            mask_truncated: false,
            num_minibatches: 4,
            minibatches: Minibatches::default(),
            published_ranks: 64,
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

    /// Returns the number of responses of one published rank in a full mini-batch.
    pub fn published_minibatch_size(&self, rollout: &RolloutConfig) -> usize {
        rollout.responses_per_step().div_ceil(self.published_ranks).div_ceil(self.num_minibatches)
    }

    /// Returns the number of micro-batches of a full mini-batch, over all published ranks: the divisor of
    /// `micro_batch_token_mean`.
    pub fn micro_batches_per_minibatch(&self, rollout: &RolloutConfig) -> usize {
        let of = |responses: usize| responses.div_ceil(self.micro_batch_sequences);
        match self.minibatches {
            Minibatches::Groups => of(rollout.responses_per_step().div_ceil(self.num_minibatches)),
            Minibatches::Published => self.published_ranks * of(self.published_minibatch_size(rollout)),
        }
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
        at_least("micro_batch_sequences", self.micro_batch_sequences, 1)?;
        at_least("num_minibatches", self.num_minibatches, 1)?;
        at_least("published_ranks", self.published_ranks, 1)?;
        let fixed = self.minibatches == Minibatches::Groups || self.zero_variance != ZeroVariance::Refill;
        let expected = "\"groups\" with zero_variance = \"refill\"; published mini-batches have a fixed size";
        ensure(fixed, "minibatches", "\"published\"", expected)?;
        at_least("num_iterations", self.num_iterations, 1)?;
        at_least("micro_batch_tokens", self.micro_batch_tokens, 1)
    }

    /// Checks the number of mini-batches against the responses of a step. Published mini-batches need equal numbers everywhere.
    pub(super) fn check_batches(&self, rollout: &RolloutConfig) -> CheckResult {
        let updates = self.num_minibatches;
        if self.minibatches == Minibatches::Groups {
            let groups = rollout.users_per_step.saturating_mul(rollout.groups_per_user());
            let expected = format!("at most {groups}, the groups per step (users_per_step · groups per user)");
            return ensure(updates <= groups, "num_minibatches", updates, &expected);
        }
        let ranks = self.published_ranks;
        for stage in 0..rollout.stages {
            let responses = rollout.responses_of(stage);
            let expected = format!("a divisor of {responses}, the responses of stage {} in a step", stage + 1);
            ensure(responses.is_multiple_of(ranks), "published_ranks", ranks, &expected)?;
        }
        let of_rank = rollout.responses_per_step() / ranks;
        let expected = format!("a divisor of {of_rank}, the responses of a step on each of {ranks} published_ranks");
        ensure(of_rank.is_multiple_of(updates), "num_minibatches", updates, &expected)?;
        let (of_update, sequences) = (of_rank / updates, self.micro_batch_sequences);
        let even = self.aggregation != Aggregation::MicroBatchTokenMean || of_update.is_multiple_of(sequences);
        let expected = format!("a divisor of {of_update}, the responses of a published rank in a mini-batch");
        ensure(even, "micro_batch_sequences", sequences, &expected)
    }
}
