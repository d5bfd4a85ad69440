//! The optimizer and its learning rate schedule.

use serde::{Deserialize, Serialize};

use crate::check::{CheckResult, Under, at_least, below_one, ensure, fraction, not_negative, positive};
use crate::parallel::Sharding;

/// The update rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// AdamW (Loshchilov & Hutter 2019) for all weights.
    #[default]
    AdamW,
    /// Muon (Jordan et al. 2024) for the matrices of the layers; AdamW for the embedding, output projection, norms, and biases. A
    /// Muon update has the root mean square of a typical AdamW update (Liu et al. 2025), so `lr` and `weight_decay` apply to both.
    Muon,
}

/// Options of Muon other than the learning rate and weight decay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MuonConfig {
    /// Decay rate of the (Nesterov) momentum. Default: 0.95.
    pub momentum: f64,
    /// Number of Newton–Schulz iterations that orthogonalize an update. Default: 5.
    pub ns_steps: usize,
}

impl Default for MuonConfig {
    fn default() -> Self {
        Self { momentum: 0.95, ns_steps: 5 }
    }
}

impl MuonConfig {
    pub(crate) fn check(&self) -> CheckResult {
        below_one("momentum", self.momentum)?;
        at_least("ns_steps", self.ns_steps, 1)
    }
}

/// The learning rate schedule after warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Constant at `lr`.
    Constant,
    /// Linear decay to `lr · min_lr_ratio`.
    Linear,
    /// Cosine decay to `lr · min_lr_ratio`, over half a period.
    Cosine,
    /// Warmup-stable-decay: constant at `lr`, then linear decay to `lr · min_lr_ratio` over the last `decay_ratio` of the updates.
    Wsd,
}

/// Dtype in which the optimizer keeps weights and moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateDtype {
    /// Moments, gradients, and, if the weights have lower precision, master weights in fp32. Small updates are not lost.
    #[default]
    Fp32,
    /// The dtype of the model's weights, as AlignXplore+ was trained. In bf16, this takes 8 bytes per parameter in total, compared
    /// to 18.
    Model,
}

/// A kind of parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParameterKind {
    /// Weights of norms.
    Norm,
    /// Biases.
    Bias,
    /// The token embedding (and the output projection that is tied to it).
    Embedding,
}

/// The optimizer (decoupled weight decay), with gradient clipping and a learning rate schedule.
///
/// The defaults are those of published SFT. RL has its own ([`OptimizerConfig::published_rl`]). Keys that a config file omits take
/// the defaults of its kind of run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// The update rule. `muon` needs whole matrices: no adapter, no sharding. Default: adamw.
    pub kind: OptimizerKind,
    /// Peak learning rate. Default: 2e-5 (SFT), 1e-6 (RL).
    pub lr: f64,
    /// Decay rates of the first and second moments. Default: [0.9, 0.999].
    pub betas: [f64; 2],
    /// Epsilon added to the square root of the second moment. Default: 1e-8.
    pub eps: f64,
    /// Weight decay coefficient; each update multiplies it by the learning rate. Default: 0 (SFT), 0.01 (RL).
    pub weight_decay: f64,
    /// Kinds of parameters without weight decay. Default: ["norm", "bias"], as in transformers' Trainer.
    pub no_decay: Vec<ParameterKind>,
    /// Dtype of moments and master weights. Default: fp32.
    pub state: StateDtype,
    /// Maximum global L2 norm of the gradient; 0 disables clipping. Default: 1.
    pub grad_clip: f64,
    /// The learning rate schedule after warm-up. Default: cosine (SFT), constant (RL).
    pub schedule: Schedule,
    /// Fraction of all updates, rounded up, in which the learning rate increases linearly from 0 to `lr`. The first update has
    /// learning rate 0, as in transformers. Default: 0.1 (SFT), 0 (RL).
    pub warmup_ratio: f64,
    /// Number of warm-up updates; if above 0, it overrides `warmup_ratio`. Default: 0.
    pub warmup_steps: usize,
    /// Fraction of all updates in which `wsd` decays. Default: 0.1.
    pub decay_ratio: f64,
    /// Final learning rate of `linear`, `cosine`, and `wsd`, as a fraction of `lr`. Default: 0.
    pub min_lr_ratio: f64,
    /// Decay rate of an exponential moving average of the weights over the updates. The run ends with the average in place of the
    /// weights of the last update; 0 keeps the latter. Default: 0.
    pub ema_decay: f64,
    /// Maximum number of consecutive skipped updates, after which the run ends. An update whose gradient is not finite is skipped
    /// and counted. Default: 10.
    pub max_skipped_steps: usize,
    /// Options of `muon`.
    pub muon: MuonConfig,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::default(),
            lr: 2e-5,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            no_decay: vec![ParameterKind::Norm, ParameterKind::Bias],
            state: StateDtype::default(),
            grad_clip: 1.0,
            schedule: Schedule::Cosine,
            warmup_ratio: 0.1,
            warmup_steps: 0,
            decay_ratio: 0.1,
            min_lr_ratio: 0.0,
            ema_decay: 0.0,
            max_skipped_steps: 10,
            muon: MuonConfig::default(),
        }
    }
}

impl OptimizerConfig {
    /// Returns the published settings of RL.
    pub fn published_rl() -> Self {
        Self { lr: 1e-6, weight_decay: 0.01, schedule: Schedule::Constant, warmup_ratio: 0.0, ..Self::default() }
    }

    /// Checks the kind of optimizer against LoRA and sharding, because Muon needs whole matrices.
    pub(crate) fn check_beside(&self, lora: bool, sharding: Sharding) -> CheckResult {
        let whole = !lora && sharding == Sharding::Replicate;
        let expected =
            "\"adamw\" with [lora] or sharding; \"muon\" requires full weights and parallel.sharding = \"replicate\"";
        ensure(self.kind == OptimizerKind::AdamW || whole, "kind", "\"muon\"", expected)
    }

    pub(crate) fn check(&self) -> CheckResult {
        positive("lr", self.lr)?;
        below_one("betas[0]", self.betas[0])?;
        below_one("betas[1]", self.betas[1])?;
        positive("eps", self.eps)?;
        not_negative("weight_decay", self.weight_decay)?;
        not_negative("grad_clip", self.grad_clip)?;
        fraction("warmup_ratio", self.warmup_ratio)?;
        fraction("decay_ratio", self.decay_ratio)?;
        fraction("min_lr_ratio", self.min_lr_ratio)?;
        below_one("ema_decay", self.ema_decay)?;
        at_least("max_skipped_steps", self.max_skipped_steps, 1)?;
        self.muon.check().under("muon")
    }
}
