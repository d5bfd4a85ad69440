//! The reward of a run: a weighted sum of terms behind the format gate.

use serde::{Deserialize, Serialize};

use crate::terms::{self, UnknownTerm};
use crate::{Judged, RewardTerm};

/// A composition that cannot be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CompositionError {
    /// A term that does not exist.
    #[error(transparent)]
    Unknown(#[from] UnknownTerm),
    /// The same term twice.
    #[error("reward term `{0}` is named twice; name it once, with the sum of the weights")]
    Twice(String),
    /// A weight that is no number.
    #[error("reward term `{term}` has weight {weight}; expected a finite number")]
    Weight {
        /// The term.
        term: String,
        /// Its weight.
        weight: f64,
    },
    /// No term at all.
    #[error("no reward term is named; name at least one, such as judge = 1.0")]
    Empty,
}

/// The reward of one response, with where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reward {
    /// Σ weight · score; 0 for a response that failed the format gate, whatever the terms say.
    pub total: f64,
    /// The terms' scores before weighting, in the order of [`Composition::names`].
    pub scores: Vec<f64>,
    /// Whether the response passed the format gate.
    pub well_formed: bool,
}

/// A weighted sum of reward terms.
pub struct Composition {
    terms: Vec<(&'static dyn RewardTerm, f64)>,
}

impl Composition {
    /// Finds the terms by name.
    ///
    /// # Errors
    /// [`CompositionError`] for an unknown or repeated name, a weight that is not finite, or no term.
    pub fn new<S: AsRef<str>>(weights: &[(S, f64)]) -> Result<Self, CompositionError> {
        let mut terms: Vec<(&'static dyn RewardTerm, f64)> = Vec::new();
        for (name, weight) in weights {
            let (name, weight) = (name.as_ref(), *weight);
            let term = terms::find(name)?;
            if terms.iter().any(|(t, _)| t.name() == name) {
                return Err(CompositionError::Twice(name.into()));
            }
            if !weight.is_finite() {
                return Err(CompositionError::Weight { term: name.into(), weight });
            }
            terms.push((term, weight));
        }
        if terms.is_empty() { Err(CompositionError::Empty) } else { Ok(Self { terms }) }
    }

    /// The terms' names, in the order in which they were given.
    pub fn names(&self) -> Vec<&'static str> {
        self.terms.iter().map(|(t, _)| t.name()).collect()
    }

    /// One reward a response, in order.
    pub fn score(&self, responses: &[Judged<'_>]) -> Vec<Reward> {
        let columns: Vec<(Vec<f64>, f64)> = self.terms.iter().map(|(t, w)| (t.score(responses), *w)).collect();
        let reward = |(i, response): (usize, &Judged<'_>)| {
            let well_formed = response.well_formed();
            let total = if well_formed { columns.iter().map(|(scores, w)| w * scores[i]).sum() } else { 0.0 };
            Reward { total, scores: columns.iter().map(|(scores, _)| scores[i]).collect(), well_formed }
        };
        responses.iter().enumerate().map(reward).collect()
    }
}

#[cfg(test)]
mod tests {
    use tolerance::assert_within;

    use super::*;

    fn judged(p_chosen: Option<f64>, tokens: usize) -> Judged<'static> {
        Judged { text: "", tokens, token_limit: 100, p_chosen }
    }

    #[test]
    fn the_total_is_the_weighted_sum_and_the_breakdown_unweighted() {
        let reward = Composition::new(&[("judge", 1.0), ("brevity", 0.5), ("format", 0.1)]).unwrap();
        assert_eq!(reward.names(), ["judge", "brevity", "format"]);
        let rows = reward.score(&[judged(Some(0.8), 40), judged(Some(0.25), 120)]);
        // 0.8 + 0.5 · (1 − 40/100) + 0.1 = 1.2; over the limit brevity is 0: 0.25 + 0.1 = 0.35.
        assert_eq!(rows[0].scores, [0.8, 0.6, 1.0]);
        assert_within!(rows[0].total - 1.2, 1e-12);
        assert_eq!(rows[1].scores, [0.25, 0.0, 1.0]);
        assert_within!(rows[1].total - 0.35, 1e-12);
    }

    #[test]
    fn a_malformed_response_earns_nothing_by_any_term() {
        let reward = Composition::new(&[("judge", 1.0), ("brevity", 1.0)]).unwrap();
        let row = &reward.score(&[judged(None, 10)])[0];
        assert_eq!((row.total, row.well_formed), (0.0, false));
        assert_eq!(row.scores, [0.0, 0.9]);
    }

    #[test]
    fn bad_compositions_are_refused() {
        let refusal = |weights: &[(&str, f64)]| Composition::new(weights).err();
        assert_eq!(refusal(&[]), Some(CompositionError::Empty));
        assert_eq!(refusal(&[("judge", 1.0), ("judge", 1.0)]), Some(CompositionError::Twice("judge".into())));
        assert!(matches!(refusal(&[("judge", f64::NAN)]), Some(CompositionError::Weight { .. })));
        assert!(matches!(refusal(&[("jugde", 1.0)]), Some(CompositionError::Unknown(_))));
    }
}
