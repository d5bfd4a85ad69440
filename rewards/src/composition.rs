//! The reward of a run: a weighted sum of terms, gated by the response format.
//!
//! A term's score goes through these steps: limits (`clip`), gate (`requires`), normalization (`normalize`), and the weight, which
//! depends on the step, the stage and the task.

mod advice;
mod normalization;
mod spec;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use configs::rl::reward::MalformedReward;
use configs::rl::{Normalization, RewardConfig};
use serde::{Deserialize, Serialize};

pub use self::advice::{RowFacts, RunFacts};
pub use self::normalization::RunningStatistics;
pub use self::spec::{TermGate, TermSpec};
pub use self::state::{CompositionState, TermState};
use crate::batch::{JudgeRequest, RewardBatch, RewardResponse};
use crate::error::RewardError;
use crate::external::{ExternalScores, ExternalTerm};
use crate::panel::PanelVerdict;
use crate::registry::Registry;
use crate::terms::{RewardTerm, TermInput};

/// The reward of one response, with its breakdown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reward {
    /// Σ of `parts`; for a response that failed the format gate, `reward.malformed`.
    pub total: f64,
    /// Scores of the terms as they return them, in the order of [`Composition::names`].
    pub scores: Vec<f64>,
    /// What each term adds to the total: the score after limits, gate and normalization, times its weight. All 0 for a response
    /// that failed the format gate.
    #[serde(default)]
    pub parts: Vec<f64>,
    /// Whether the response passed the format gate.
    pub well_formed: bool,
}

/// Rewards of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewards {
    /// One reward per response, in order.
    pub rewards: Vec<Reward>,
    /// Metrics of the terms, under the key `reward/TERM/KEY`.
    pub metrics: Vec<(String, f64)>,
}

struct Term {
    spec: TermSpec,
    term: Box<dyn RewardTerm>,
}

/// A weighted sum of reward terms.
pub struct Composition {
    terms: Vec<Term>,
    malformed: MalformedReward,
    normalize_eps: f64,
    warn_after: u64,
    state: Mutex<CompositionState>,
}

impl Composition {
    /// Builds the terms of `specs`. A malformed response has reward 0, ε of the normalization is 1e-6, and there are no warnings.
    ///
    /// # Errors
    /// Returns a [`RewardError`] for an unknown or repeated name, an external term with a registered name, a gate on a term that is
    /// not listed, parameters that a term does not accept, a non-finite weight, or an empty `specs`.
    pub fn new(registry: &Registry, specs: &[TermSpec]) -> Result<Self, RewardError> {
        let mut terms: Vec<Term> = Vec::new();
        for spec in specs {
            let term: Box<dyn RewardTerm> = match &spec.external {
                None => registry.build(&spec.term, &spec.params)?,
                Some(_) if registry.names().contains(&spec.name) => {
                    return Err(RewardError::Registered(spec.name.clone()));
                }
                Some(config) => Box::new(ExternalTerm::new(&spec.name, &spec.params, config.clone())),
            };
            if terms.iter().any(|t| t.spec.name == spec.name) {
                return Err(RewardError::Twice(spec.name.clone()));
            }
            if !spec.weight.is_finite() {
                return Err(RewardError::Weight { term: spec.name.clone(), weight: spec.weight });
            }
            terms.push(Term { spec: spec.clone(), term });
        }
        if terms.is_empty() {
            return Err(RewardError::Empty);
        }
        let known: Vec<String> = terms.iter().map(|t| t.spec.name.clone()).collect();
        for Term { spec, .. } in &terms {
            if let Some(gate) = spec.gate.as_ref().filter(|gate| gate.term == spec.name || !known.contains(&gate.term))
            {
                return Err(RewardError::Requires { term: spec.name.clone(), required: gate.term.clone(), known });
            }
        }
        let (malformed, state) = (MalformedReward::default(), Mutex::default());
        Ok(Self { terms, malformed, normalize_eps: 1e-6, warn_after: 0, state })
    }

    /// Builds the reward of a config.
    ///
    /// # Errors
    /// Same as [`Self::new`].
    pub fn from_config(registry: &Registry, config: &RewardConfig) -> Result<Self, RewardError> {
        let specs: Vec<TermSpec> = config.terms.iter().map(TermSpec::from).collect();
        let RewardConfig { malformed, normalize_eps, warn_after, .. } = *config;
        let composition = Self::new(registry, &specs)?;
        Ok(Self { malformed, normalize_eps, warn_after: warn_after as u64, ..composition })
    }

    /// Sets the reward of malformed responses.
    #[must_use]
    pub fn with_malformed(self, malformed: MalformedReward) -> Self {
        Self { malformed, ..self }
    }

    /// Returns the names of the terms, in the order of the specifications.
    pub fn names(&self) -> Vec<&str> {
        self.terms.iter().map(|t| t.spec.name.as_str()).collect()
    }

    /// Returns the specifications of the terms.
    pub fn specs(&self) -> impl Iterator<Item = &TermSpec> {
        self.terms.iter().map(|t| &t.spec)
    }

    /// Returns the judges that terms ask by name, each with the name of the term.
    pub fn judges(&self) -> Vec<(&str, &str)> {
        self.terms.iter().filter_map(|t| Some((t.spec.name.as_str(), t.term.judge()?))).collect()
    }

    /// Returns the names of the terms that need the likelihood of a text, each with the judge that it asks; `None` for the panel.
    pub fn asking_likelihood(&self) -> Vec<(&str, Option<&str>)> {
        let asking = self.terms.iter().filter(|t| t.term.needs().contains(&TermInput::Likelihood));
        asking.map(|t| (t.spec.name.as_str(), t.term.judge())).collect()
    }

    /// Returns whether a term asks the panel about choices in other domains.
    pub fn asks_panel_about_transfer(&self) -> bool {
        let asks = |t: &Term| t.term.judge().is_none() && t.term.needs().contains(&TermInput::Transfer);
        self.terms.iter().any(asks)
    }

    /// Returns whether the scores of a term are normalized.
    pub fn normalizes(&self) -> bool {
        self.terms.iter().any(|t| t.spec.normalize != Normalization::None)
    }

    /// Returns the requests of each term to the judges.
    ///
    /// # Errors
    /// Returns the errors of the terms.
    pub fn judgments(
        &self,
        step: u64,
        responses: &[RewardResponse<'_>],
    ) -> Result<Vec<Vec<JudgeRequest>>, RewardError> {
        let batch = RewardBatch { step, responses, verdicts: &[] };
        self.terms.iter().map(|t| t.term.judgments(&batch)).collect()
    }

    /// Returns the terms that programs and endpoints compute.
    pub fn external(&self) -> impl Iterator<Item = &ExternalTerm> {
        self.terms.iter().filter_map(|t| t.term.external())
    }

    /// Starts the programs of external terms, and waits until they and the endpoints answer.
    ///
    /// # Errors
    /// Returns [`RewardError::External`] for the first that does not.
    pub fn start_external(&self) -> Result<(), RewardError> {
        self.external().try_for_each(ExternalTerm::start)
    }

    /// Asks all external terms for the scores of `responses`. On several ranks, one asks, and the others get its answers.
    ///
    /// # Errors
    /// Returns [`RewardError::External`] if a term fails and has no fallback.
    pub fn ask_external(
        &self,
        step: u64,
        responses: &[RewardResponse<'_>],
    ) -> Result<Vec<ExternalScores>, RewardError> {
        self.external().map(|term| term.ask(step, responses)).collect()
    }

    /// Computes the rewards of `responses`. `verdicts` holds the answers to [`Self::judgments`], term by term. External terms are
    /// asked.
    ///
    /// # Errors
    /// Returns the errors of the terms, [`RewardError::Count`] for a wrong number of scores, and [`RewardError::NotFinite`] for a
    /// non-finite score or total.
    pub fn score(
        &self,
        step: u64,
        responses: &[RewardResponse<'_>],
        verdicts: &[Vec<PanelVerdict>],
    ) -> Result<Rewards, RewardError> {
        self.score_with(step, responses, verdicts, &self.ask_external(step, responses)?)
    }

    /// Computes the rewards of `responses` as [`Self::score`] does, with the answers to [`Self::ask_external`].
    ///
    /// # Errors
    /// Same as [`Self::score`].
    pub fn score_with(
        &self,
        step: u64,
        responses: &[RewardResponse<'_>],
        verdicts: &[Vec<PanelVerdict>],
        external: &[ExternalScores],
    ) -> Result<Rewards, RewardError> {
        let (mut columns, mut metrics) = (Vec::new(), Vec::new());
        for (i, Term { spec, term }) in self.terms.iter().enumerate() {
            let verdicts = verdicts.get(i).map_or(&[][..], Vec::as_slice);
            let batch = RewardBatch { step, responses, verdicts };
            let (scores, own) = match external.iter().find(|answer| answer.term == spec.name) {
                Some(answer) => (answer.scores.clone(), answer.metrics.clone()),
                None => {
                    let scores = term.score(&batch)?;
                    let own = term.metrics(&batch, &scores);
                    (scores, own)
                }
            };
            check(&spec.name, responses, &scores)?;
            metrics.extend(own.into_iter().map(|(key, value)| (format!("reward/{}/{key}", spec.name), value)));
            columns.push(scores);
        }
        let rewards = self.compose(step, responses, &columns);
        let totals: Vec<f64> = rewards.iter().map(|reward| reward.total).collect();
        check("total", responses, &totals)?;
        Ok(Rewards { rewards, metrics })
    }

    /// Composes the scores of the terms, one column per term, to rewards, and remembers them.
    fn compose(&self, step: u64, responses: &[RewardResponse<'_>], columns: &[Vec<f64>]) -> Vec<Reward> {
        let well_formed: Vec<bool> = responses.iter().map(|response| response.well_formed).collect();
        let mut state = self.state();
        state.begin(step);
        state.tasks.extend(responses.iter().filter_map(|r| r.task.map(str::to_owned)));
        let mut parts = vec![Vec::new(); responses.len()];
        for (Term { spec, .. }, scores) in self.terms.iter().zip(columns) {
            let open = self.open(spec, columns, responses.len());
            let limited = |score: f64| spec.clip.map_or(score, |[low, high]| score.clamp(low, high));
            let mut values: Vec<f64> =
                scores.iter().zip(&open).map(|(score, open)| if *open { limited(*score) } else { 0.0 }).collect();
            let memory = state.terms.entry(spec.name.clone()).or_default();
            memory.opened |= open.iter().zip(&well_formed).any(|(open, formed)| *open && *formed);
            memory.varied |= varies(responses, &values);
            values.iter().zip(&well_formed).filter(|(_, formed)| **formed).for_each(|(v, _)| memory.pending.add(*v));
            match spec.normalize {
                Normalization::None => {}
                Normalization::Running => {
                    values.iter_mut().for_each(|v| *v = memory.scores.normalized(*v, self.normalize_eps));
                }
                Normalization::Group => {
                    normalization::within_groups(responses, &well_formed, &mut values, self.normalize_eps);
                }
            }
            for ((response, value), parts) in responses.iter().zip(values).zip(&mut parts) {
                parts.push(spec.weight * spec.factor(step, response.stage, response.task) * value);
            }
        }
        drop(state);
        let reward = |((i, parts), well_formed): ((usize, Vec<f64>), bool)| Reward {
            total: parts.iter().sum(),
            scores: columns.iter().map(|scores| scores[i]).collect(),
            parts: if well_formed { parts } else { vec![0.0; columns.len()] },
            well_formed,
        };
        let mut rewards: Vec<Reward> = parts.into_iter().enumerate().zip(well_formed).map(reward).collect();
        self.reward_malformed(responses, &mut rewards);
        rewards
    }

    /// Returns for each response whether the gate of a term is open. A term without a gate is always counted.
    fn open(&self, spec: &TermSpec, columns: &[Vec<f64>], responses: usize) -> Vec<bool> {
        let Some(TermGate { term, above }) = &spec.gate else { return vec![true; responses] };
        let required = self.terms.iter().position(|t| t.spec.name == *term);
        // The constructor rejects a gate on a term that is not listed.
        required.map_or_else(|| vec![true; responses], |i| columns[i].iter().map(|score| score > above).collect())
    }

    /// Sets the totals of malformed responses.
    fn reward_malformed(&self, responses: &[RewardResponse<'_>], rewards: &mut [Reward]) {
        let mut minima: HashMap<usize, f64> = HashMap::new();
        for (response, reward) in responses.iter().zip(&*rewards).filter(|(_, reward)| reward.well_formed) {
            let minimum = minima.entry(response.group).or_insert(f64::INFINITY);
            *minimum = minimum.min(reward.total);
        }
        for (response, reward) in responses.iter().zip(rewards).filter(|(_, reward)| !reward.well_formed) {
            reward.total = match self.malformed {
                MalformedReward::Value(value) => value,
                MalformedReward::Minimum => minima.get(&response.group).copied().unwrap_or(0.0),
            };
        }
    }

    fn state(&self) -> MutexGuard<'_, CompositionState> {
        // A panic of another thread cannot leave the state inconsistent: it is only added to.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finishes the step in progress, and returns the state for a checkpoint.
    pub fn save(&self) -> CompositionState {
        let mut state = self.state();
        state.finish();
        state.clone()
    }

    /// Restores a saved state.
    pub fn restore(&self, saved: CompositionState) {
        *self.state() = saved;
    }

    /// Finishes the step in progress, and returns warnings if `reward.warn_after` steps are now finished: of gates that never
    /// opened, of terms that were constant over the well-formed responses of each group, and of task weights whose task did not
    /// occur. Each run warns once.
    pub fn take_warnings(&self) -> Vec<String> {
        let mut state = self.state();
        if state.step.is_none() {
            return Vec::new();
        }
        state.finish();
        if state.steps != self.warn_after {
            return Vec::new();
        }
        let steps = state.steps;
        let mut warnings = Vec::new();
        for Term { spec, term } in &self.terms {
            let memory = state.terms.get(&spec.name).copied().unwrap_or_default();
            let (low, high) = term.range();
            let mut warn = |text: String| warnings.push(format!("reward term `{}`: {text}", spec.name));
            match &spec.gate {
                Some(TermGate { term, above }) if !memory.opened => warn(format!(
                    "its gate never opened in {steps} steps: the score of `{term}` was never above {above}; the term had no effect"
                )),
                // Of a term with a single value, such as `format`, nothing else is expected.
                _ if !memory.varied && spec.weight != 0.0 && low != high => warn(format!(
                    "its score was the same for all well-formed responses of each group in {steps} steps, so it did not tell \
                     them apart"
                )),
                _ => {}
            }
            for task in spec.task_weights.keys().filter(|task| !state.tasks.contains(*task)) {
                warn(format!("task_weights.{task} had no effect: no target had this task in {steps} steps"));
            }
        }
        warnings
    }
}

/// Returns whether the values of the well-formed responses of any group differ.
fn varies(responses: &[RewardResponse<'_>], values: &[f64]) -> bool {
    let mut first: BTreeMap<usize, f64> = BTreeMap::new();
    let mut well_formed = responses.iter().zip(values).filter(|(response, _)| response.well_formed);
    well_formed.any(|(response, value)| *first.entry(response.group).or_insert(*value) != *value)
}

fn check(term: &str, responses: &[RewardResponse<'_>], scores: &[f64]) -> Result<(), RewardError> {
    let term = || term.to_owned();
    if scores.len() != responses.len() {
        return Err(RewardError::Count { term: term(), expected: responses.len(), got: scores.len() });
    }
    match scores.iter().position(|score| !score.is_finite()) {
        Some(response) => {
            let (uid, score) = (responses[response].uid.into(), scores[response]);
            Err(RewardError::NotFinite { term: term(), response, uid, score })
        }
        None => Ok(()),
    }
}
