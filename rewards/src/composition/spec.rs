//! What a config says about a term.

use std::collections::BTreeMap;

use configs::rl::reward::TermConfig;
use configs::rl::{ExternalConfig, Normalization, WeightSchedule};
use serde_json::Value;

/// The gate of a term: another term's score, and what it must exceed.
#[derive(Clone, Debug, PartialEq)]
pub struct TermGate {
    /// Name of the other term, which is listed too.
    pub term: String,
    /// The score above which the gate is open.
    pub above: f64,
}

/// Specification of a reward term in a config.
#[derive(Clone, Debug, PartialEq)]
pub struct TermSpec {
    /// Name in metrics and records.
    pub name: String,
    /// Name under which the term is registered.
    pub term: String,
    /// Factor of the term in the sum; negative for a penalty.
    pub weight: f64,
    /// Parameters of the term: a JSON object, empty if the term takes none.
    pub params: Value,
    /// The program or endpoint that computes the term; `None` for a registered term.
    pub external: Option<ExternalConfig>,
    /// Where the gate is closed, the score counts as 0.
    pub gate: Option<TermGate>,
    /// Lower and upper limit of the score.
    pub clip: Option<[f64; 2]>,
    /// Normalization of the score.
    pub normalize: Normalization,
    /// Factor of the weight as a function of the step.
    pub schedule: WeightSchedule,
    /// Factors of the weight by task; 1 for other tasks.
    pub task_weights: BTreeMap<String, f64>,
    /// Factors of the weight by stage; 1 for further stages.
    pub stage_weights: Vec<f64>,
}

impl TermSpec {
    /// Returns a specification of the term that is registered as `name`, without parameters and with nothing else than a weight.
    pub fn new(name: &str, weight: f64) -> Self {
        Self::from(&TermConfig { name: name.into(), weight, ..TermConfig::default() })
    }

    /// Returns the factors of the weight for a target of `task` at `stage`, both from the response, at `step`.
    pub(super) fn factor(&self, step: u64, stage: usize, task: Option<&str>) -> f64 {
        let of_task = task.and_then(|task| self.task_weights.get(task)).copied().unwrap_or(1.0);
        self.schedule.factor(step) * of_task * self.stage_weights.get(stage).copied().unwrap_or(1.0)
    }
}

impl From<&TermConfig> for TermSpec {
    fn from(config: &TermConfig) -> Self {
        let gate = TermGate { term: config.requires.clone(), above: config.requires_above };
        Self {
            name: config.name.clone(),
            term: config.registered_name().into(),
            weight: config.weight,
            params: serde_json::to_value(&config.params).expect("a TOML table has strings as keys"),
            external: config.external(),
            gate: (!gate.term.is_empty()).then_some(gate),
            clip: config.clip,
            normalize: config.normalize,
            schedule: config.schedule.clone(),
            task_weights: config.task_weights.clone(),
            stage_weights: config.stage_weights.clone(),
        }
    }
}
