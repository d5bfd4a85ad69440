//! From groups of samples to advantages: judge, compose, carry credit back, compare within the group.

use configs::rl::{AlgorithmConfig, RewardConfig};
use rewards::{Composition, CreditRule, Judge, Response, Reward, gate, group_advantages};

use super::rollout::Group;
use crate::TrainError;

/// Rewards of a step, in the shape of its groups.
#[derive(Debug)]
pub struct Scored {
    /// Each sample's own reward with its terms.
    pub rewards: Vec<Vec<Reward>>,
    /// Totals with the credit of later stages.
    pub credited: Vec<Vec<f64>>,
    /// Group-relative advantages.
    pub advantages: Vec<Vec<f64>>,
    /// Groups that teach nothing.
    pub zero_variance: usize,
}

/// Judges every sample of a step in one call and works out its advantage.
///
/// # Errors
/// If the judge fails.
pub fn score(
    groups: &[Group<'_>],
    judge: &Judge<'_>,
    composition: &Composition,
    reward: &RewardConfig,
    algorithm: &AlgorithmConfig,
    token_limit: usize,
) -> Result<Scored, TrainError> {
    let responses: Vec<Response<'_>> = groups
        .iter()
        .flat_map(|g| g.samples.iter().map(|s| Response { text: &s.text, tokens: s.ids.len(), target: g.cut.target }))
        .collect();
    let judged = gate::judge_responses(judge, &responses, token_limit)?;
    let mut flat = composition.score(&judged).into_iter();
    let rewards: Vec<Vec<Reward>> = groups.iter().map(|g| flat.by_ref().take(g.samples.len()).collect()).collect();

    let rule = CreditRule { discount: reward.carry_discount, baseline: reward.carry_baseline };
    let people = groups.iter().map(|g| g.person + 1).max().unwrap_or(0);
    let mut credited: Vec<Vec<f64>> = groups.iter().map(|_| Vec::new()).collect();
    for person in 0..people {
        // Groups of one person, in order of stage.
        let of_person: Vec<usize> = (0..groups.len()).filter(|&g| groups[g].person == person).collect();
        let totals: Vec<Vec<f64>> = of_person.iter().map(|&g| rewards[g].iter().map(|r| r.total).collect()).collect();
        let picks: Vec<usize> = of_person.iter().filter_map(|&g| groups[g].picked).collect();
        for (&g, with_credit) in of_person.iter().zip(rule.carry(&totals, &picks)?) {
            credited[g] = with_credit;
        }
    }
    let advantages = group_advantages(&credited, algorithm.advantage_eps);
    Ok(Scored { rewards, credited, advantages: advantages.groups, zero_variance: advantages.zero_variance })
}
