//! Group-relative advantages: how much better a response is than the other responses to the same prompt.

use configs::rl::algorithm::Advantage;

/// Advantages of several groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Advantages {
    /// One advantage per reward, in the shape of the rewards.
    pub groups: Vec<Vec<f64>>,
    /// Whether all rewards of a group are equal, so that the group contributes no gradient; one entry per group.
    pub zero_variance: Vec<bool>,
}

impl Advantages {
    /// Returns the number of groups whose rewards are all equal.
    pub fn zero_variance(&self) -> usize {
        self.zero_variance.iter().filter(|zero| **zero).count()
    }
}

/// Computes advantages within each group. A group holds the rewards of the samples of one prompt. If all rewards of a group are
/// equal, or the group has a single reward, its advantages are exactly 0 for every `kind`. ε is `eps`.
pub fn group_advantages(groups: &[Vec<f64>], kind: Advantage, eps: f64) -> Advantages {
    let zero_variance: Vec<bool> = groups.iter().map(|g| g.windows(2).all(|pair| pair[0] == pair[1])).collect();
    let all: Vec<f64> = groups.iter().flatten().copied().collect();
    let of = |g: &Vec<f64>| -> Vec<f64> {
        let n = g.len() as f64;
        let factor = match kind {
            Advantage::GroupStd => 1.0 / (deviation(g) + eps),
            Advantage::GroupMean => 1.0,
            Advantage::BatchStd => 1.0 / (deviation(&all) + eps),
            Advantage::LeaveOneOut => n / (n - 1.0),
        };
        let mean = mean(g);
        g.iter().map(|r| (r - mean) * factor).collect()
    };
    let groups =
        groups.iter().zip(&zero_variance).map(|(g, zero)| if *zero { vec![0.0; g.len()] } else { of(g) }).collect();
    Advantages { groups, zero_variance }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use std::f64::consts::FRAC_1_SQRT_2;

    use tolerance::assert_within;

    use super::*;

    #[track_caller]
    fn close(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        for (g, w) in got.iter().zip(want) {
            assert_within!(g - w, 1e-7, "{got:?} is not {want:?}");
        }
    }

    /// 1, 2, 3, 6: mean 3, squared deviations 4 + 1 + 0 + 9 = 14, std √(14/3) = 2.160247. 0, 1: mean 0.5, std √0.5 = 0.707107.
    const GROUPS: [&[f64]; 2] = [&[1.0, 2.0, 3.0, 6.0], &[0.0, 1.0]];

    fn advantages(kind: Advantage, eps: f64) -> Vec<Vec<f64>> {
        group_advantages(&GROUPS.map(<[f64]>::to_vec), kind, eps).groups
    }

    #[test]
    fn by_the_groups_deviation() {
        let got = advantages(Advantage::GroupStd, 0.0);
        close(&got[0], &[-0.925_820_1, -0.462_910_05, 0.0, 1.388_730_15]);
        // Two different rewards are always √2 standard deviations apart.
        close(&got[1], &[-FRAC_1_SQRT_2, FRAC_1_SQRT_2]);
        // ε is added to the deviation, not to the variance: 3 / 3.160247.
        close(&advantages(Advantage::GroupStd, 1.0)[0][3..], &[0.949_292_92]);
    }

    #[test]
    fn without_a_deviation() {
        let got = advantages(Advantage::GroupMean, 1.0);
        close(&got[0], &[-2.0, -1.0, 0.0, 3.0]);
        close(&got[1], &[-0.5, 0.5]);
    }

    #[test]
    fn by_the_batchs_deviation() {
        // All six rewards: mean 13/6, squared deviations 51 − 169/6 = 137/6, over 5: variance 4.566667, std 2.136976.
        let got = advantages(Advantage::BatchStd, 0.0);
        close(&got[0], &[-0.935_901_92, -0.467_950_96, 0.0, 1.403_852_88]);
        close(&got[1], &[-0.233_975_48, 0.233_975_48]);
        close(&advantages(Advantage::BatchStd, 1.0)[1], &[-0.159_389_17, 0.159_389_17]);
    }

    #[test]
    fn against_the_others() {
        // 1 minus (2 + 3 + 6)/3, 6 minus (1 + 2 + 3)/3.
        let got = advantages(Advantage::LeaveOneOut, 1.0);
        close(&got[0], &[1.0 - 11.0 / 3.0, 2.0 - 10.0 / 3.0, 0.0, 4.0]);
        close(&got[1], &[-1.0, 1.0]);
    }

    #[test]
    fn flat_groups_are_zero_and_known() {
        let groups = [vec![0.1; 3], vec![0.45], vec![0.1, 0.2], vec![0.0; 4]];
        for kind in [Advantage::GroupStd, Advantage::GroupMean, Advantage::BatchStd, Advantage::LeaveOneOut] {
            let got = group_advantages(&groups, kind, 1e-6);
            assert_eq!(got.zero_variance, [true, true, false, true]);
            assert_eq!(got.zero_variance(), 3);
            for i in [0, 1, 3] {
                assert!(got.groups[i].iter().all(|a| *a == 0.0));
            }
            assert!(got.groups[2][1] > 0.04);
        }
    }
}
