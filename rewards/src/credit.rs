//! Streaming credit: a carried summary receives part of the reward of the stage that reads it.
//!
//! Samples form groups; all samples of a group share one prompt. A group of a later stage reads one sample of the previous stage as
//! past summary: its parent. Let λ be the discount, b the baseline, and R the rewards that already include their own credit (so
//! credit is computed backward from the last stage):
//!
//! - A sample that a group was built on: reward += λ · mean of that group's R.
//! - Every other sample of a stage that has a next stage: reward += λ · b.
//!
//! b is the chance-level reward of a carried sample, so that a sample is not penalized for not being carried. AlignXplore+ has two
//! stages, carries one sample of four, and uses λ = 0.9 and b = 0.5 (the published code adds the product, 0.45). If every sample is
//! carried, b has no effect and the credit is unbiased, because each sample has its own next stage.

use configs::rl::rollout::Carry;

use crate::Draw;

/// Parameters of streaming credit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CreditRule {
    /// Discount λ: the weight of the next stage's reward.
    pub discount: f64,
    /// Baseline b: the credit of samples that were not carried, before the discount.
    pub baseline: f64,
    /// Whether samples that failed the format gate receive credit. Published: `true`.
    pub malformed: bool,
}

impl Default for CreditRule {
    /// Returns the published values.
    fn default() -> Self {
        Self { discount: 0.9, baseline: 0.5, malformed: true }
    }
}

/// The sample that a group reads as past summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Parent {
    /// Index of the sample's group.
    pub group: usize,
    /// Index of the sample in that group.
    pub sample: usize,
}

/// A group of samples, for the computation of credit.
#[derive(Clone, Debug)]
pub struct CreditGroup<'a> {
    /// Rewards of the samples, without credit.
    pub rewards: &'a [f64],
    /// Whether each sample passed the format gate.
    pub well_formed: &'a [bool],
    /// The sample that the group was built on; `None` at the first stage.
    pub parent: Option<Parent>,
    /// Whether the group's stage has a next stage.
    pub continues: bool,
}

/// Error for a group whose parent is not among the groups before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("group {group} builds on sample {sample} of group {parent}, but no earlier group has that sample")]
pub struct CreditError {
    /// Index of the group.
    pub group: usize,
    /// Index of the parent's group.
    pub parent: usize,
    /// Index of the parent in that group.
    pub sample: usize,
}

impl CreditRule {
    /// Adds credit to the rewards. Returns rewards in the shape of `groups`. Parents must precede their children.
    ///
    /// # Errors
    /// Returns a [`CreditError`] if a parent does not precede its child.
    pub fn carry(&self, groups: &[CreditGroup<'_>]) -> Result<Vec<Vec<f64>>, CreditError> {
        let mut credited: Vec<Vec<f64>> = groups.iter().map(|g| g.rewards.to_vec()).collect();
        let mut built_on: Vec<Vec<Option<f64>>> = groups.iter().map(|g| vec![None; g.rewards.len()]).collect();
        for (index, group) in groups.iter().enumerate().rev() {
            if group.continues {
                for (i, reward) in credited[index].iter_mut().enumerate() {
                    if self.malformed || group.well_formed[i] {
                        *reward += self.discount * built_on[index][i].unwrap_or(self.baseline);
                    }
                }
            }
            if let Some(Parent { group: parent, sample }) = group.parent {
                let place = (parent < index).then(|| built_on[parent].get_mut(sample)).flatten();
                let place = place.ok_or(CreditError { group: index, parent, sample })?;
                *place = Some(credited[index].iter().sum::<f64>() / credited[index].len() as f64);
            }
        }
        Ok(credited)
    }
}

/// Selects the samples of a group that become past summaries of the next stage, and returns their indices. Without `malformed`,
/// samples that failed the format gate are skipped unless all samples failed it. The result depends on the arguments only.
pub fn carried(rule: Carry, malformed: bool, rewards: &[f64], well_formed: &[bool], draw: Draw) -> Vec<usize> {
    let all = || 0..rewards.len();
    let mut among: Vec<usize> = all().filter(|&i| malformed || well_formed[i]).collect();
    if among.is_empty() {
        among = all().collect();
    }
    if rule == Carry::Best {
        let best = among.iter().map(|&i| rewards[i]).fold(f64::NEG_INFINITY, f64::max);
        among.retain(|&i| rewards[i] == best);
    }
    match rule {
        Carry::Each => among,
        Carry::Random | Carry::Best => vec![among[draw.below(among.len())]],
    }
}

#[cfg(test)]
mod tests {
    use tolerance::assert_within;

    use super::*;

    const FINE: [bool; 4] = [true; 4];

    fn group(rewards: &[f64], parent: Option<(usize, usize)>, continues: bool) -> CreditGroup<'_> {
        let parent = parent.map(|(group, sample)| Parent { group, sample });
        CreditGroup { rewards, well_formed: &FINE[..rewards.len()], parent, continues }
    }

    #[track_caller]
    fn close(rule: CreditRule, groups: &[CreditGroup<'_>], want: &[&[f64]]) {
        let got = rule.carry(groups).unwrap();
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert_eq!(got.len(), want.len());
            for (g, w) in got.iter().zip(*want) {
                assert_within!(g - w, 1e-12, "{got:?} is not {want:?}");
            }
        }
    }

    #[test]
    fn a_single_stage_keeps_its_rewards() {
        close(CreditRule::default(), &[group(&[0.2, 0.8], None, false)], &[&[0.2, 0.8]]);
        close(CreditRule::default(), &[], &[]);
    }

    #[test]
    fn two_stages_as_published() {
        // Stage 2: the mean of 1, 0, 0.6, 0.4 is 0.5. Carried sample 2: 0.3 + 0.9 · 0.5; the other samples: + 0.45.
        let groups = [group(&[0.9, 0.0, 0.3, 0.5], None, true), group(&[1.0, 0.0, 0.6, 0.4], Some((0, 2)), false)];
        close(CreditRule::default(), &groups, &[&[1.35, 0.45, 0.75, 0.95], &[1.0, 0.0, 0.6, 0.4]]);
        // A perfect second stage raises the carried sample (reward 0) to 0.9, malformed or not.
        let mut groups = [group(&[0.0, 0.4], None, true), group(&[1.0, 1.0], Some((0, 0)), false)];
        groups[0].well_formed = &[false, true];
        close(CreditRule::default(), &groups, &[&[0.9, 0.85], &[1.0, 1.0]]);
        // With `malformed: false`, malformed samples receive no credit.
        close(CreditRule { malformed: false, ..CreditRule::default() }, &groups, &[&[0.0, 0.85], &[1.0, 1.0]]);
    }

    #[test]
    fn two_users_do_not_mix() {
        let rule = CreditRule { discount: 1.0, baseline: 0.0, malformed: true };
        let groups = [
            group(&[0.1, 0.2], None, true),
            group(&[0.3, 0.4], None, true),
            group(&[0.5, 0.7], Some((0, 1)), false),
            group(&[0.0, 0.2], Some((1, 0)), false),
        ];
        close(rule, &groups, &[&[0.1, 0.8], &[0.4, 0.4], &[0.5, 0.7], &[0.0, 0.2]]);
    }

    #[test]
    fn three_stages_carry_credit_back_twice() {
        // λ = 0.5, b = 0.4. Stage 3: mean 0.8. Stage 2: sample 0, carried: 0.2 + 0.4 = 0.6; sample 1: 0.6 + 0.2 = 0.8; mean 0.7.
        // Stage 1: sample 1, carried: 1 + 0.35; sample 0: 0 + 0.2.
        let rule = CreditRule { discount: 0.5, baseline: 0.4, malformed: true };
        let groups = [
            group(&[0.0, 1.0], None, true),
            group(&[0.2, 0.6], Some((0, 1)), true),
            group(&[0.7, 0.9], Some((1, 0)), false),
        ];
        close(rule, &groups, &[&[0.2, 1.35], &[0.6, 0.8], &[0.7, 0.9]]);
    }

    #[test]
    fn each_sample_earns_by_its_own_next_stage() {
        // λ = 0.5: 0.4 + 0.5 · 0.8, and 0.6 + 0.5 · 0.1. The baseline has no effect, however high it is.
        let rule = CreditRule { discount: 0.5, baseline: 99.0, malformed: true };
        let groups = [
            group(&[0.4, 0.6], None, true),
            group(&[0.6, 1.0], Some((0, 0)), false),
            group(&[0.0, 0.2], Some((0, 1)), false),
        ];
        close(rule, &groups, &[&[0.8, 0.65], &[0.6, 1.0], &[0.0, 0.2]]);
    }

    #[test]
    fn a_parent_that_is_not_there_is_refused() {
        let rule = CreditRule::default();
        let missing = [group(&[0.1], None, true), group(&[0.2], Some((0, 1)), false)];
        assert_eq!(rule.carry(&missing), Err(CreditError { group: 1, parent: 0, sample: 1 }));
        let later = [group(&[0.1], Some((1, 0)), false), group(&[0.2], None, true)];
        assert_eq!(rule.carry(&later), Err(CreditError { group: 0, parent: 1, sample: 0 }));
    }

    #[test]
    fn what_is_carried_by_rule() {
        let (rewards, formed) = ([0.2, 0.9, 0.9, 0.1], [true, false, true, true]);
        let pick = |rule, malformed, seed| carried(rule, malformed, &rewards, &formed, Draw::new(seed));
        assert_eq!(pick(Carry::Each, true, 0), [0, 1, 2, 3]);
        assert_eq!(pick(Carry::Each, false, 0), [0, 2, 3]);
        assert_eq!(pick(Carry::Best, false, 0), [2]);
        // The probability that 40 picks between two tied samples are all the same is 2 · 2^-40.
        let mut best: Vec<usize> = (0..40).map(|seed| pick(Carry::Best, true, seed)[0]).collect();
        best.sort_unstable();
        best.dedup();
        assert_eq!(best, [1, 2]);
        assert_eq!(carried(Carry::Each, false, &[0.0; 2], &[false; 2], Draw::new(0)), [0, 1]);
    }

    #[test]
    fn random_picks_are_uniform() {
        // 8,000 picks from 4 samples; chi-square with 3 degrees of freedom exceeds 30.7 with probability 1e-6.
        let mut counts = [0usize; 4];
        for user in 0..8000 {
            counts[carried(Carry::Random, true, &[0.5; 4], &FINE, Draw::new(3).with(user))[0]] += 1;
        }
        let chi: f64 = counts.iter().map(|&c| (c as f64 - 2000.0).powi(2) / 2000.0).sum();
        assert!(chi < 30.7, "{counts:?}");
    }
}
