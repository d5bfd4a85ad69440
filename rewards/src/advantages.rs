//! Group-relative advantages (GRPO, arXiv 2402.03300): how much better a response is than the other responses to the
//! same prompt.

/// What AlignXplore+ adds to the standard deviation.
pub const EPSILON: f64 = 1e-6;

/// Advantages of several groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Advantages {
    /// One a reward, in the shape of the rewards.
    pub groups: Vec<Vec<f64>>,
    /// How many groups had equal rewards throughout, and so teach nothing.
    pub zero_variance: usize,
}

/// (r − mean) / (std + `eps`) in each group, where a group holds the rewards of one person at one stage and std divides by
/// n − 1. A group with equal rewards throughout, or with a single one, gets exactly 0.
pub fn group_advantages(groups: &[Vec<f64>], eps: f64) -> Advantages {
    let flat = |group: &[f64]| group.windows(2).all(|pair| pair[0] == pair[1]);
    Advantages {
        groups: groups.iter().map(|g| if flat(g) { vec![0.0; g.len()] } else { standardized(g, eps) }).collect(),
        zero_variance: groups.iter().filter(|g| flat(g)).count(),
    }
}

fn standardized(rewards: &[f64], eps: f64) -> Vec<f64> {
    let n = rewards.len() as f64;
    let mean = rewards.iter().sum::<f64>() / n;
    let variance = rewards.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / (n - 1.0);
    rewards.iter().map(|r| (r - mean) / (variance.sqrt() + eps)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_by_hand() {
        // 1, 2, 3, 6: mean 3, squares 4 + 1 + 0 + 9 = 14, std √(14/3) = 2.160247. With eps 0: −2/std and so on.
        let got = group_advantages(&[vec![1.0, 2.0, 3.0, 6.0], vec![0.0, 1.0]], 0.0);
        let want = [-0.925_820_1, -0.462_910_05, 0.0, 1.388_730_15];
        assert!(got.groups[0].iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-7), "{got:?}");
        // Two rewards always differ by √2 standard deviations.
        assert!((got.groups[1][1] - 0.5f64.sqrt()).abs() < 1e-12);
        assert_eq!(got.zero_variance, 0);
        // eps = 1 is added to the deviation, not to the variance: 3 / 3.160247.
        assert!((group_advantages(&[vec![1.0, 2.0, 3.0, 6.0]], 1.0).groups[0][3] - 0.949_292_9).abs() < 1e-7);
    }

    #[test]
    fn flat_groups_are_zero_and_counted() {
        let got = group_advantages(&[vec![0.1; 3], vec![0.45], vec![0.1, 0.2], vec![0.0; 4]], EPSILON);
        assert_eq!(got.zero_variance, 3);
        for i in [0, 1, 3] {
            assert!(got.groups[i].iter().all(|a| *a == 0.0));
        }
        assert!(got.groups[2][1] > 0.7);
    }
}
