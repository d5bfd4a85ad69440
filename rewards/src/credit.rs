//! Streaming credit: a summary that later summaries are built on earns part of what they earn.
//!
//! At each stage but the last, one of a person's n rows is picked and becomes the past summary of the next stage. With
//! discount γ and baseline b, and rewards R already carrying their own credit (so worked out from the last stage back):
//!
//! - the picked row's reward += γ · mean of the person's next-stage R;
//! - every other row's reward += γ · b.
//!
//! b is what a picked row earns by chance, so that not being picked is no punishment. AlignXplore+ has two stages,
//! γ = 0.9 and b = 0.5 (the published code adds the product, 0.45). Any row may be picked, a malformed one too.

use crate::Draw;

/// How much of the next stage's reward counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CreditRule {
    /// γ: the weight of the next stage.
    pub discount: f64,
    /// b: what rows that were not picked are credited with, before the discount.
    pub baseline: f64,
}

impl Default for CreditRule {
    /// The published values.
    fn default() -> Self {
        Self { discount: 0.9, baseline: 0.5 }
    }
}

/// Rewards and picks that do not belong together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreditError {
    /// One pick is needed for every stage but the last.
    #[error("{stages} stages need {expected} picked rows, got {picks}", expected = stages.saturating_sub(1))]
    Picks {
        /// Stages given.
        stages: usize,
        /// Picks given.
        picks: usize,
    },
    /// A stage without rows.
    #[error("stage {stage} has no rows; every stage needs at least one")]
    NoRows {
        /// The stage, from 0.
        stage: usize,
    },
    /// A pick beyond the stage's rows.
    #[error("stage {stage} has {rows} rows, so row {pick} cannot have been picked")]
    Pick {
        /// The stage, from 0.
        stage: usize,
        /// Rows of that stage.
        rows: usize,
        /// The pick, from 0.
        pick: usize,
    },
}

impl CreditRule {
    /// One person's rewards with credit: `stages[k][i]` is the reward of row `i` at stage `k`, `picks[k]` the row picked
    /// at stage `k`. With a single stage, the rewards as they are.
    ///
    /// # Errors
    /// [`CreditError`] if picks and rewards do not fit together.
    pub fn carry(&self, stages: &[Vec<f64>], picks: &[usize]) -> Result<Vec<Vec<f64>>, CreditError> {
        if picks.len() + 1 != stages.len().max(1) {
            return Err(CreditError::Picks { stages: stages.len(), picks: picks.len() });
        }
        if let Some(stage) = stages.iter().position(Vec::is_empty) {
            return Err(CreditError::NoRows { stage });
        }
        let mut credited = stages.to_vec();
        for (stage, &pick) in picks.iter().enumerate().rev() {
            let next = &credited[stage + 1];
            let mean = next.iter().sum::<f64>() / next.len() as f64;
            let rows = credited[stage].len();
            if pick >= rows {
                return Err(CreditError::Pick { stage, rows, pick });
            }
            for (row, reward) in credited[stage].iter_mut().enumerate() {
                *reward += self.discount * if row == pick { mean } else { self.baseline };
            }
        }
        Ok(credited)
    }
}

/// Which of a person's `rows` becomes the past summary of the next stage. Uniform; depends on these arguments alone.
pub fn pick(seed: u64, step: u64, uid: &str, stage: usize, rows: usize) -> usize {
    Draw::new(seed).text("picked row").with(step).text(uid).with(stage as u64).below(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: &[Vec<f64>], want: &[&[f64]]) {
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert_eq!(got.len(), want.len());
            assert!(got.iter().zip(*want).all(|(g, w)| (g - w).abs() < 1e-12), "{got:?} is not {want:?}");
        }
    }

    #[test]
    fn a_single_stage_keeps_its_rewards() {
        close(&CreditRule::default().carry(&[vec![0.2, 0.8]], &[]).unwrap(), &[&[0.2, 0.8]]);
        assert_eq!(CreditRule::default().carry(&[], &[]), Ok(vec![]));
    }

    #[test]
    fn two_stages_as_published() {
        // Stage 2: mean of 1, 0, 0.6, 0.4 is 0.5. Picked row 2: 0.3 + 0.9 · 0.5; the others + 0.45.
        let stages = [vec![0.9, 0.0, 0.3, 0.5], vec![1.0, 0.0, 0.6, 0.4]];
        let credited = CreditRule::default().carry(&stages, &[2]).unwrap();
        close(&credited, &[&[1.35, 0.45, 0.75, 0.95], &[1.0, 0.0, 0.6, 0.4]]);
        // A perfect second stage lifts the picked row, malformed or not (reward 0), to 0.9.
        let credited = CreditRule::default().carry(&[vec![0.0, 0.4], vec![1.0, 1.0]], &[0]).unwrap();
        close(&credited, &[&[0.9, 0.85], &[1.0, 1.0]]);
    }

    #[test]
    fn three_stages_carry_credit_back_twice() {
        // γ = 0.5, b = 0.4. Stage 3: mean 0.8. Stage 2, row 0 picked: 0.2 + 0.4 = 0.6; row 1: 0.6 + 0.2 = 0.8; mean 0.7.
        // Stage 1, row 1 picked: 1 + 0.35; row 0: 0 + 0.2.
        let rule = CreditRule { discount: 0.5, baseline: 0.4 };
        let credited = rule.carry(&[vec![0.0, 1.0], vec![0.2, 0.6], vec![0.7, 0.9]], &[1, 0]).unwrap();
        close(&credited, &[&[0.2, 1.35], &[0.6, 0.8], &[0.7, 0.9]]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let rule = CreditRule::default();
        assert_eq!(rule.carry(&[vec![0.1], vec![0.2]], &[]), Err(CreditError::Picks { stages: 2, picks: 0 }));
        assert_eq!(rule.carry(&[vec![0.1]], &[0]), Err(CreditError::Picks { stages: 1, picks: 1 }));
        assert_eq!(rule.carry(&[vec![0.1], vec![]], &[0]), Err(CreditError::NoRows { stage: 1 }));
        assert_eq!(rule.carry(&[vec![0.1], vec![0.2]], &[1]), Err(CreditError::Pick { stage: 0, rows: 1, pick: 1 }));
    }

    #[test]
    fn picks_are_uniform_and_depend_on_person_stage_and_step() {
        // 8,000 picks over 4 rows; chi-square with 3 degrees of freedom exceeds 30.7 once in a million.
        let mut counts = [0usize; 4];
        for person in 0..8000 {
            counts[pick(3, 10, &format!("p{person}"), 0, 4)] += 1;
        }
        let chi: f64 = counts.iter().map(|&c| (c as f64 - 2000.0).powi(2) / 2000.0).sum();
        assert!(chi < 30.7, "{counts:?}");
        // Of 200 people, a change of step, stage or seed must move some (all staying: 4^-200).
        let all =
            |seed, step, stage| (0..200).map(|p| pick(seed, step, &format!("p{p}"), stage, 4)).collect::<Vec<_>>();
        assert_eq!(all(3, 10, 0), all(3, 10, 0));
        for other in [all(4, 10, 0), all(3, 11, 0), all(3, 10, 1)] {
            assert_ne!(all(3, 10, 0), other);
        }
    }
}
