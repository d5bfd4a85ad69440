//! Advantages of judged groups: credit from later stages, penalties, and comparison within the group.

use configs::rl::algorithm::{KlPlace, ZeroVariance};
use configs::rl::{AlgorithmConfig, RlConfig};
use rewards::{CreditGroup, CreditRule, group_advantages, overlong};

use super::group::{Group, Sample};
use super::policy_loss::kl_estimate;
use crate::TrainError;

/// Rewards and advantages of a step's samples, in the shape of its groups.
#[derive(Clone, Debug, PartialEq)]
pub struct StepAdvantages {
    /// Rewards plus the credit of later stages, minus penalties; advantages are computed from them.
    pub rewards: Vec<Vec<f64>>,
    /// The credit of later stages in `rewards`.
    pub carried: Vec<Vec<f64>>,
    /// Group-relative advantages times the weight of the stage.
    pub advantages: Vec<Vec<f64>>,
    /// Whether all rewards of a group are equal, so that its advantages are 0.
    pub zero_variance: Vec<bool>,
}

impl StepAdvantages {
    /// Returns the number of groups with zero variance.
    pub fn num_zero_variance(&self) -> usize {
        self.zero_variance.iter().filter(|zero| **zero).count()
    }
}

/// Computes credit, penalties and advantages of a step.
///
/// # Errors
/// If the parents do not match the groups.
pub fn credit(groups: &[Group], config: &RlConfig) -> Result<StepAdvantages, TrainError> {
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
    let mut found = group_advantages(&rewards, config.algorithm.advantage, config.algorithm.advantage_eps);
    for (group, advantages) in groups.iter().zip(&mut found.groups) {
        advantages.iter_mut().for_each(|a| *a *= config.reward.stage_weight(group.stage));
    }
    Ok(StepAdvantages { rewards, carried, advantages: found.groups, zero_variance: found.zero_variance })
}

/// Returns the penalty of a sample for its own tokens: for a length near the limit, and for the KL divergence from the
/// reference.
fn punishment(sample: &Sample, config: &RlConfig) -> f64 {
    let reward = &config.reward;
    let limit = config.rollout.max_new_tokens;
    let length = overlong::penalty(sample.ids.len(), limit, reward.overlong_band, reward.overlong_penalty);
    let kl = &config.algorithm.kl;
    if kl.coefficient == 0.0 || kl.place == KlPlace::Loss {
        return length;
    }
    let distances = sample.rollout.iter().zip(&sample.reference).map(|(l, r)| f64::from(*l) - f64::from(*r));
    length + kl.coefficient * distances.map(|d| kl_estimate(kl.estimator, d).0).sum::<f64>()
}

/// Returns whether a sample takes part in the update.
pub fn is_trained(sample: &Sample, zero_variance: bool, config: &AlgorithmConfig) -> bool {
    let dropped = zero_variance && config.zero_variance != ZeroVariance::Keep;
    let masked = sample.truncated && config.mask_truncated;
    !(dropped || masked || sample.ids.is_empty())
}
