//! Position bias: whether a model prefers the item that it is shown first.

use serde::{Deserialize, Serialize};
use statrs::distribution::{Binomial, DiscreteCDF};

use super::{Finding, FindingKind};
use crate::teach::record::{TaughtCandidate, TaughtUser};

/// The picks of one model.
#[derive(Clone, Copy, Default)]
struct Picks {
    all: usize,
    first: usize,
}

impl Picks {
    fn add(&mut self, pick: Option<bool>) {
        self.all += usize::from(pick.is_some());
        self.first += usize::from(pick == Some(true));
    }
}

/// The picks of both models.
#[derive(Default)]
pub(super) struct AllPicks {
    teacher: Picks,
    verifier: Picks,
}

impl AllPicks {
    /// Adds the picks for a user.
    ///
    /// The verifier's pick is recorded. The teacher writes no letter: its pick is the item for which its summary speaks, which is the
    /// chosen one if the verifier predicts the choice.
    pub(super) fn add(&mut self, user: &TaughtUser) {
        for candidate in user.stages.iter().flat_map(|stage| &stage.candidates) {
            self.teacher.add(of_teacher(candidate));
            self.verifier.add(candidate.verifier_chose_a);
        }
    }

    /// Returns the bias of the models that picked something.
    pub(super) fn biases(&self) -> Vec<PositionBias> {
        let both = [("teacher", self.teacher), ("verifier", self.verifier)];
        both.into_iter().filter_map(|(model, picks)| PositionBias::of(model, picks)).collect()
    }
}

fn of_teacher(candidate: &TaughtCandidate) -> Option<bool> {
    // Where the verifier gave no answer, the verdict says nothing about the summary.
    let unanswered = candidate.verifier_chosen_first.is_some() && candidate.verifier_chose_a.is_none();
    let verdict = candidate.verdict.filter(|_| !unanswered)?;
    Some((verdict > 0.5) == candidate.chosen_first)
}

/// How often a model picked the item shown first (A). The order of the items is random, so without bias it is one half of the time,
/// however often the model is right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PositionBias {
    /// The model: teacher or verifier.
    pub model: String,
    /// The number of picks.
    pub picks: usize,
    /// The number of picks of the item shown first.
    pub first: usize,
    /// The p-value of the two-sided, exact binomial test of a share of one half.
    pub p_value: f64,
}

impl PositionBias {
    fn of(model: &str, Picks { all, first }: Picks) -> Option<Self> {
        (all > 0).then(|| Self { model: model.into(), picks: all, first, p_value: two_sided(first, all) })
    }

    /// Returns a finding if the p-value is below `alpha`.
    pub(super) fn finding(&self, alpha: f64) -> Option<Finding> {
        let Self { model, picks, first, p_value } = self;
        let share = 100.0 * *first as f64 / *picks as f64;
        let message = format!(
            "the {model} picked item A in {first} of {picks} questions ({share:.1} %, p = {p_value:.2e}); the items are in random \
             order, so half of the time is expected"
        );
        (*p_value < alpha).then(|| Finding { kind: FindingKind::PositionBias, message, examples: Vec::new() })
    }
}

/// Computes the p-value of `first` successes in `all` trials for a probability of one half.
fn two_sided(first: usize, all: usize) -> f64 {
    let (tail, all) = (first.min(all - first) as u64, all as u64);
    // A probability of one half is always valid.
    Binomial::new(0.5, all).map_or(1.0, |binomial| (2.0 * binomial.cdf(tail)).min(1.0))
}

#[cfg(test)]
mod tests {
    use tolerance::assert_within;

    use super::*;

    #[test]
    fn p_values_are_those_of_the_exact_test() {
        // 2 · (1 + 10) / 1024, and 2 · (1 + 10 + 45) / 1024.
        assert_within!(two_sided(9, 10) - 22.0 / 1024.0, 1e-12);
        assert_within!(two_sided(2, 10) - 112.0 / 1024.0, 1e-12);
        assert_eq!((two_sided(5, 10), two_sided(1, 2)), (1.0, 1.0));
        assert_within!(two_sided(0, 1) - 1.0, 1e-12);
        assert!(two_sided(5200, 10_000) < 1e-4 && two_sided(5050, 10_000) > 0.3);
    }

    #[test]
    fn fair_picks_are_rarely_a_finding_and_unfair_ones_are() {
        use chat::Draw;

        let set = |seed: u64, share: usize| {
            let first = (0..500).filter(|i| Draw::new(seed).with(*i).below(100) < share).count();
            PositionBias::of("teacher", Picks { all: 500, first }).unwrap().finding(0.01)
        };
        // At most one percent of 1000 fair sets: 10 in the mean, and five standard deviations are 26.
        let alarms = (0..1000).filter(|&seed| set(seed, 50).is_some()).count();
        assert!(alarms <= 26, "{alarms}");
        // 60 percent of 500 picks are 4.5 standard deviations from one half.
        assert!((0..50).filter(|&seed| set(seed, 60).is_some()).count() >= 45);
        let message = set(1, 90).unwrap().message;
        assert!(
            message.starts_with("the teacher picked item A in 4") && message.contains("of 500 questions"),
            "{message}"
        );
    }

    #[test]
    fn the_teacher_s_pick_is_the_item_that_its_summary_predicts() {
        let candidate = |verdict, chosen_first| TaughtCandidate { verdict, chosen_first, ..TaughtCandidate::default() };
        // The verifier was asked in one order, and its answer could not be read.
        let unanswered = TaughtCandidate { verifier_chosen_first: Some(true), ..candidate(Some(0.0), false) };
        let stage = crate::teach::record::TaughtStage {
            // Right with the chosen item first, wrong with it second: both times A. Not asked: no pick.
            candidates: vec![
                candidate(Some(0.9), true),
                candidate(Some(0.1), false),
                candidate(None, true),
                unanswered,
            ],
            ..Default::default()
        };
        let mut picks = AllPicks::default();
        picks.add(&TaughtUser { uid: "u".into(), stages: vec![stage], ..TaughtUser::default() });
        let found = picks.biases();
        assert_eq!(found.len(), 1, "the verifier's picks are unknown");
        assert_eq!((found[0].picks, found[0].first), (2, 2));
    }
}
