//! Low-rank adapters (LoRA and DoRA).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::check::{CheckResult, at_least, below_one, ensure, positive};

/// A projection that can have an adapter, identified by its name in checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Projection {
    /// Query projection.
    QProj,
    /// Key projection.
    KProj,
    /// Value projection.
    VProj,
    /// Output projection of attention.
    OProj,
    /// Gate projection of the MLP.
    GateProj,
    /// Up projection of the MLP.
    UpProj,
    /// Down projection of the MLP.
    DownProj,
}

impl Projection {
    /// All projections, in the order of a layer.
    pub const ALL: [Self; 7] =
        [Self::QProj, Self::KProj, Self::VProj, Self::OProj, Self::GateProj, Self::UpProj, Self::DownProj];

    /// Returns the name of the projection in checkpoints.
    pub fn name(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }
}

/// LoRA (Hu et al. 2021, arXiv 2106.09685): `W·x + alpha/rank · B·A·x`, where A and B are trained and W is frozen. Adapters are
/// read and written in PEFT format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of each update. Default: 16.
    pub rank: usize,
    /// Scaling numerator: updates are scaled by `alpha / rank`. Default: 32.
    pub alpha: f64,
    /// Dropout probability of the elements of A's input during training. Default: 0.
    pub dropout: f64,
    /// The projections that have adapters. Default: all seven.
    pub targets: Vec<Projection>,
    /// Whether to use DoRA (Liu et al. 2024, arXiv 2402.09353), which trains the magnitudes of the rows separately from their
    /// directions. Default: false.
    pub dora: bool,
    /// Folder of an adapter in PEFT format to start from, or a run that trained one. Its rank, alpha, targets, and kind must match the
    /// values above. Empty (the default): a new adapter, with A random and B zero.
    pub start: PathBuf,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            dropout: 0.0,
            targets: Projection::ALL.to_vec(),
            dora: false,
            start: PathBuf::new(),
        }
    }
}

impl LoraConfig {
    pub(crate) fn check(&self) -> CheckResult {
        at_least("rank", self.rank, 1)?;
        positive("alpha", self.alpha)?;
        below_one("dropout", self.dropout)?;
        let mut distinct = self.targets.clone();
        distinct.sort();
        distinct.dedup();
        let good = !self.targets.is_empty() && distinct.len() == self.targets.len();
        ensure(good, "targets", format!("a list of {}", self.targets.len()), "at least one projection, no duplicates")
    }
}
