//! From groups of judged samples to advantages: credit carried back, punishments, comparison within the group.

use configs::rl::algorithm::{Advantage, KlPlace, ZeroVariance};
use configs::rl::{AlgorithmConfig, RlConfig};
use rewards::{CreditGroup, CreditRule, Scale, group_advantages, overlong};

use super::policy_loss::estimate;
use super::rollout::{Group, Sample};
use crate::TrainError;

/// What a step's samples are worth, in the shape of its groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Credited {
    /// Rewards with the credit of later stages, less punishments: what advantages are made of.
    pub rewards: Vec<Vec<f64>>,
    /// The part of it that later stages gave.
    pub carried: Vec<Vec<f64>>,
    /// Group-relative advantages, times the stage's weight.
    pub advantages: Vec<Vec<f64>>,
    /// Groups that teach nothing.
    pub flat: Vec<bool>,
}

impl Credited {
    /// How many groups teach nothing.
    pub fn zero_variance(&self) -> usize {
        self.flat.iter().filter(|flat| **flat).count()
    }
}

/// Credit, punishments and advantages of a step.
///
/// # Errors
/// If parents and groups do not belong together.
pub fn credit(groups: &[Group], config: &RlConfig) -> Result<Credited, TrainError> {
    let rule = CreditRule {
        discount: config.reward.carry_discount,
        baseline: config.reward.carry_baseline,
        malformed: config.rollout.carry_malformed,
    };
    let own: Vec<Vec<f64>> = groups.iter().map(|g| g.samples.iter().map(|s| s.reward.total).collect()).collect();
    let formed: Vec<Vec<bool>> =
        groups.iter().map(|g| g.samples.iter().map(|s| s.reward.well_formed).collect()).collect();
    let of = |(g, (rewards, well_formed))| {
        let group: &Group = g;
        CreditGroup { rewards, well_formed, parent: group.parent, continues: group.continues }
    };
    let seen: Vec<CreditGroup<'_>> = groups
        .iter()
        .zip(own.iter().zip(&formed).map(|(r, w): (&Vec<f64>, &Vec<bool>)| (&r[..], &w[..])))
        .map(of)
        .collect();
    let mut rewards = rule.carry(&seen)?;
    let carried =
        rewards.iter().zip(&own).map(|(with, own)| with.iter().zip(own).map(|(w, o)| w - o).collect()).collect();
    for (group, rewards) in groups.iter().zip(&mut rewards) {
        for (sample, reward) in group.samples.iter().zip(rewards) {
            *reward -= punishment(sample, config);
        }
    }
    let scale = match config.algorithm.advantage {
        Advantage::GroupStd => Scale::GroupStd,
        Advantage::GroupMean => Scale::GroupMean,
        Advantage::BatchStd => Scale::BatchStd,
        Advantage::LeaveOneOut => Scale::LeaveOneOut,
    };
    let mut found = group_advantages(&rewards, scale, config.algorithm.advantage_eps);
    for (group, advantages) in groups.iter().zip(&mut found.groups) {
        advantages.iter_mut().for_each(|a| *a *= config.reward.stage_weight(group.stage));
    }
    Ok(Credited { rewards, carried, advantages: found.groups, flat: found.flat })
}

/// What a sample pays for its own tokens: length near the limit, and distance to the reference.
fn punishment(sample: &Sample, config: &RlConfig) -> f64 {
    let reward = &config.reward;
    let limit = config.rollout.max_new_tokens;
    let length = overlong::penalty(sample.ids.len(), limit, reward.overlong_band, reward.overlong_penalty);
    let kl = &config.algorithm.kl;
    if kl.coefficient == 0.0 || kl.place == KlPlace::Loss {
        return length;
    }
    let distances = sample.rollout.iter().zip(&sample.reference).map(|(l, r)| f64::from(*l) - f64::from(*r));
    length + kl.coefficient * distances.map(|d| estimate(kl.estimator, d).0).sum::<f64>()
}

/// Whether a sample takes part in the update.
pub fn takes_part(sample: &Sample, flat: bool, config: &AlgorithmConfig) -> bool {
    let dropped = flat && config.zero_variance != ZeroVariance::Keep;
    let masked = sample.truncated && config.mask_truncated;
    !(dropped || masked || sample.ids.is_empty())
}
