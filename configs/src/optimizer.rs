//! The optimizer and the schedule of its learning rate.

use serde::{Deserialize, Serialize};

use crate::check::{Under, Verdict, at_least, below_one, ensure, fraction, not_negative, positive};
use crate::parallel::Sharding;

/// Which rule updates the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// AdamW (Loshchilov & Hutter 2019) for all weights.
    #[default]
    AdamW,
    /// Muon (Jordan et al. 2024) for the matrices of the layers, AdamW for embedding, output projection, norms and biases.
    /// An update of Muon has the root mean square of a typical one of AdamW (Liu et al. 2025), so that `lr` and
    /// `weight_decay` serve both.
    Muon,
}

/// What Muon has beside the learning rate and weight decay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MuonConfig {
    /// Decay rate of the (Nesterov) momentum. Default: 0.95.
    pub momentum: f64,
    /// Newton–Schulz iterations that orthogonalize an update. Default: 5.
    pub ns_steps: usize,
}

impl Default for MuonConfig {
    fn default() -> Self {
        Self { momentum: 0.95, ns_steps: 5 }
    }
}

impl MuonConfig {
    pub(crate) fn check(&self) -> Verdict {
        below_one("momentum", self.momentum)?;
        at_least("ns_steps", self.ns_steps, 1)
    }
}

/// How the learning rate moves after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Stays at `lr`.
    Constant,
    /// Falls in a straight line to `lr · min_lr_ratio`.
    Linear,
    /// Falls as half a cosine to `lr · min_lr_ratio`.
    Cosine,
    /// Warm-up, stable, decay: stays at `lr`, then falls in a straight line to `lr · min_lr_ratio` over the last
    /// `decay_ratio` of the updates.
    Wsd,
}

/// In which number format the optimizer keeps weights and moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateDtype {
    /// Moments, gradients and, beside weights of a lower format, master weights in fp32: small updates are not lost.
    #[default]
    Fp32,
    /// As the model's weights, as AlignXplore+ was trained: in bf16 8 bytes a parameter in all, against 18.
    Model,
}

/// Parameters of a kind.
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

/// The optimizer (decoupled weight decay), with gradient clipping and a schedule.
///
/// The defaults are those of published SFT; RL has its own ([`OptimizerConfig::published_rl`]), and a config file that
/// leaves keys out gets those of its kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Which rule updates the weights. `muon` needs whole matrices: no adapter, no sharding. Default: adamw.
    pub kind: OptimizerKind,
    /// Peak learning rate. Default: 2e-5 (SFT), 1e-6 (RL).
    pub lr: f64,
    /// Decay rates of the first and second moment. Default: [0.9, 0.999].
    pub betas: [f64; 2],
    /// Added to the root of the second moment. Default: 1e-8.
    pub eps: f64,
    /// Weight decay, multiplied by the learning rate at each update. Default: 0 (SFT), 0.01 (RL).
    pub weight_decay: f64,
    /// Parameters without weight decay. Default: ["norm", "bias"], as transformers' Trainer has it.
    pub no_decay: Vec<ParameterKind>,
    /// Number format of moments and master weights. Default: fp32.
    pub state: StateDtype,
    /// Largest global L2 norm of the gradient; 0 does not clip. Default: 1.
    pub grad_clip: f64,
    /// How the rate moves after the warm-up. Default: cosine (SFT), constant (RL).
    pub schedule: Schedule,
    /// Share of all updates in which the rate rises from 0 to `lr` in a straight line, rounded up; the first update has
    /// rate 0, as in transformers. Default: 0.1 (SFT), 0 (RL).
    pub warmup_ratio: f64,
    /// The same in updates; above 0 it takes the place of `warmup_ratio`. Default: 0.
    pub warmup_steps: usize,
    /// Share of all updates in which `wsd` falls. Default: 0.1.
    pub decay_ratio: f64,
    /// Where `linear`, `cosine` and `wsd` end, as a share of `lr`. Default: 0.
    pub min_lr_ratio: f64,
    /// Decay rate of an exponential moving average of the weights over the updates. The run ends with the average in place of
    /// the last update's weights; 0 keeps those. Default: 0.
    pub ema_decay: f64,
    /// An update whose gradient is not finite is left out and counted; so many in a row end the run. Default: 10.
    pub most_skips: usize,
    /// What `muon` has of its own.
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
            most_skips: 10,
            muon: MuonConfig::default(),
        }
    }
}

impl OptimizerConfig {
    /// The published settings of RL.
    pub fn published_rl() -> Self {
        Self { lr: 1e-6, weight_decay: 0.01, schedule: Schedule::Constant, warmup_ratio: 0.0, ..Self::default() }
    }

    /// Muon computes with whole matrices.
    pub(crate) fn check_beside(&self, lora: bool, sharding: Sharding) -> Verdict {
        let whole = !lora && sharding == Sharding::Replicate;
        let expected =
            "\"adamw\" beside [lora] or sharded weights, or none of them (parallel.sharding = \"replicate\")";
        ensure(self.kind == OptimizerKind::AdamW || whole, "kind", "\"muon\"", expected)
    }

    pub(crate) fn check(&self) -> Verdict {
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
        at_least("most_skips", self.most_skips, 1)?;
        self.muon.check().under("muon")
    }
}
