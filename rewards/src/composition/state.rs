//! What a composition remembers from step to step: statistics of scores, and what the warnings are about.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::normalization::RunningStatistics;

/// The state of a [`Composition`](super::Composition), which checkpoints hold.
///
/// During a step, the statistics are those of the earlier steps: the scores of the step are added when it is over. So a reward depends
/// on the state and the responses, not on the order in which stages are scored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CompositionState {
    /// The last step that was scored, from 0.
    pub step: Option<u64>,
    /// Number of finished steps.
    pub steps: u64,
    /// Tasks of the targets so far.
    pub tasks: BTreeSet<String>,
    /// The terms, by name.
    pub terms: BTreeMap<String, TermState>,
}

/// What is remembered of a term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TermState {
    /// Scores of well-formed responses in finished steps, after clipping and gate.
    pub scores: RunningStatistics,
    /// Scores of the step in progress.
    pub pending: RunningStatistics,
    /// Whether the gate was ever open for a well-formed response.
    pub opened: bool,
    /// Whether the scores of the well-formed responses of a group ever differed.
    pub varied: bool,
}

impl CompositionState {
    /// Finishes the step in progress if `step` is another one.
    pub(super) fn begin(&mut self, step: u64) {
        if self.step.is_some_and(|last| last != step) {
            self.finish();
        }
        self.step = Some(step);
    }

    /// Adds the scores of the step in progress to the statistics.
    pub(super) fn finish(&mut self) {
        if self.step.take().is_none() {
            return;
        }
        self.steps += 1;
        for term in self.terms.values_mut() {
            let pending = std::mem::take(&mut term.pending);
            term.scores.merge(&pending);
        }
    }
}
