//! What can be said about a reward before it is used.

use std::collections::BTreeSet;

use configs::rl::Normalization;
use configs::rl::reward::MalformedReward;

use super::{Composition, Term};
use crate::terms::TermInput;

/// What is known of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunFacts {
    /// Number of stages.
    pub stages: usize,
    /// Whether the prompt of a stage contains the target of the previous one (`rollout.reread_target`).
    pub rereads_target: bool,
    /// Whether summaries that are not carried earn `reward.carry_baseline`.
    pub baseline_credit: bool,
    /// Number of judges of the panel; 0 if it is not known.
    pub panel_judges: usize,
    /// Number of steps; `None` if it is not known.
    pub steps: Option<u64>,
    /// What the rows hold; `None` if they were not read.
    pub rows: Option<RowFacts>,
}

/// What the rows of a run hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowFacts {
    /// Whether any row has choices in other domains, and the run uses them.
    pub transfer: bool,
    /// Whether any row has reference summaries.
    pub references: bool,
    /// The tasks of all interactions.
    pub tasks: BTreeSet<String>,
}

impl Composition {
    /// Returns sentences about terms that cannot have the effect that they are configured for: a weight that is always 0, inputs that
    /// the run does not have, past targets that can be copied, a normalization that removes the credit of later stages, tasks that no
    /// row has, a fault that is rewarded, and malformed responses that have more than well-formed ones.
    pub fn advice(&self, facts: &RunFacts) -> Vec<String> {
        let mut advice = Vec::new();
        for term in &self.terms {
            let name = &term.spec.name;
            let mut say = |text: String| advice.push(format!("reward term `{name}`: {text}"));
            if self.is_weightless(term, facts) && !self.is_required(name) {
                say("its weight is 0 at every step and stage, so it is logged and has no effect on the reward".into());
                continue;
            }
            if let Some(reason) = missing_input(term, facts) {
                say(reason.into());
            }
            if let Some(reason) = misled_by_stages(term, facts) {
                say(reason.into());
            }
            if term.spec.weight > 0.0 && term.term.penalizes() {
                say("a high score is a fault, and its weight is positive; a negative weight penalizes it".into());
            }
            if let Some(rows) = &facts.rows {
                for task in term.spec.task_weights.keys().filter(|task| !rows.tasks.contains(*task)) {
                    say(format!("task_weights.{task} has no effect: no interaction of the rows has this task"));
                }
            }
        }
        advice.extend(self.malformed_above(facts));
        advice
    }

    /// Returns whether no step and stage of the run gives the term a weight.
    fn is_weightless(&self, term: &Term, facts: &RunFacts) -> bool {
        let (spec, stages) = (&term.spec, facts.stages.max(1));
        let no_stage = (0..stages).all(|stage| spec.stage_weights.get(stage) == Some(&0.0));
        let never = |steps: u64| steps > 0 && (0..steps).all(|step| spec.schedule.factor(step) == 0.0);
        let no_step = facts.steps.is_some_and(never);
        spec.weight == 0.0 || no_stage || no_step
    }

    fn is_required(&self, name: &str) -> bool {
        self.terms.iter().filter_map(|term| term.spec.gate.as_ref()).any(|gate| gate.term == name)
    }

    /// Warns of a reward of malformed responses that is above the lowest possible one of well-formed responses.
    fn malformed_above(&self, facts: &RunFacts) -> Option<String> {
        let MalformedReward::Value(value) = self.malformed else { return None };
        let lowest: f64 = self.terms.iter().map(|term| term.lowest(facts)).sum();
        // Sums of products are rounded.
        (value > lowest + 1e-9).then(|| {
            let lowest = if lowest.is_finite() { format!("{lowest:.3}") } else { "any negative number".into() };
            format!(
                "reward.malformed is {value}, but a well-formed response can have {lowest}, which makes a malformed one \
                 better; set reward.malformed = \"minimum\", or a lower number"
            )
        })
    }
}

impl Term {
    /// Returns the lowest contribution of the term to the total of a well-formed response.
    fn lowest(&self, facts: &RunFacts) -> f64 {
        let spec = &self.spec;
        if spec.weight == 0.0 {
            return 0.0;
        }
        if spec.normalize != Normalization::None {
            return f64::NEG_INFINITY;
        }
        let (mut low, mut high) = self.term.range();
        if let Some([least, most]) = spec.clip {
            (low, high) = (low.clamp(least, most), high.clamp(least, most));
        }
        if spec.gate.is_some() {
            (low, high) = (low.min(0.0), high.max(0.0));
        }
        let steps = facts.steps.unwrap_or(1).max(1);
        let tasks = spec.task_weights.values().copied().chain([1.0]);
        let stages = (0..facts.stages.max(1)).map(|stage| spec.stage_weights.get(stage).copied().unwrap_or(1.0));
        let products = |factors: &[f64], by: f64| -> Vec<f64> { factors.iter().map(|f| f * by).collect() };
        let factors: Vec<f64> = tasks.collect();
        let factors: Vec<f64> = stages.flat_map(|stage| products(&factors, stage)).collect();
        let over_steps = (0..steps).map(|step| spec.weight * spec.schedule.factor(step));
        let (least, most) = over_steps.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, m), w| (l.min(w), m.max(w)));
        let weights = factors.iter().flat_map(|f| [f * least, f * most]);
        // 0 times an unlimited range is not a number.
        let parts = |weight: f64| if weight == 0.0 { [0.0; 2] } else { [weight * low, weight * high] };
        weights.flat_map(parts).fold(f64::INFINITY, f64::min)
    }
}

/// Returns which input of a term the run does not have, and what follows from that.
fn missing_input(term: &Term, facts: &RunFacts) -> Option<&'static str> {
    let rows = facts.rows.as_ref();
    term.term.needs().iter().find_map(|input| match input {
        TermInput::PastSummary if facts.stages < 2 => {
            Some("it compares with the past summary, and rollout.stages is 1, so there is none to compare with")
        }
        TermInput::PastTargets if facts.stages < 2 => {
            Some("it asks about the targets of the previous stage, and rollout.stages is 1, so there are none")
        }
        TermInput::Transfer if rows.is_some_and(|rows| !rows.transfer) => Some(
            "it needs `transfer` choices, and no row has any or reward.transfer_per_stage is 0, so its score is the same for \
             all responses of a group",
        ),
        TermInput::References if rows.is_some_and(|rows| !rows.references) => Some(
            "it needs `references` (summaries), and no row has any, so its score is the same for all responses of a group",
        ),
        TermInput::SeveralJudges if facts.panel_judges == 1 => Some(
            "it takes the lowest probability of the panel's judges, and the panel has one, so its score is that of `judge`; \
             name a second judge in its params, as judge = \"NAME\"",
        ),
        _ => None,
    })
}

/// Returns what the streaming stages of the run make of a term that it is not meant for.
fn misled_by_stages(term: &Term, facts: &RunFacts) -> Option<&'static str> {
    if facts.stages < 2 {
        return None;
    }
    if facts.rereads_target && term.term.needs().contains(&TermInput::PastTargets) {
        return Some(
            "with rollout.reread_target = true the prompt contains the past target, so a summary that copies it scores high; \
             set rollout.reread_target = false",
        );
    }
    (facts.baseline_credit && term.spec.normalize == Normalization::Group).then_some(
        "with normalize = \"group\" its mean is 0 in every group, so later stages earn a carried summary nothing by it, while \
         others get reward.carry_baseline; set carry_baseline = 0, or normalize = \"running\"",
    )
}
