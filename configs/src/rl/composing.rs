//! How the terms of a reward are combined: gates, schedules, weights by stage and task, normalization, clipping.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::reward::TermConfig;
use crate::check::{CheckResult, Defect, Under, at_least, ensure};

/// Normalization of a term's scores before they are weighted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalization {
    /// None.
    #[default]
    None,
    /// (score − mean) / (std + ε) over the well-formed responses of all earlier steps. The first step is not normalized.
    Running,
    /// (score − mean) / (std + ε) over the well-formed responses of the group, as in GDPO (arXiv 2601.05242).
    Group,
}

/// How the weight of a term changes over the steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// The factor is 1 at every step.
    #[default]
    Constant,
    /// The factor changes linearly.
    Linear,
    /// The factor follows half a period of a cosine.
    Cosine,
    /// The factor is interpolated linearly between points.
    Piecewise,
}

/// A factor of a term's weight as a function of the step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WeightSchedule {
    /// The shape of the schedule. Default: constant, a factor of 1.
    pub kind: ScheduleKind,
    /// Factor up to step `begin`, for linear and cosine. Default: 0.
    pub from: f64,
    /// Factor from step `begin` + `steps` on, for linear and cosine. Default: 1.
    pub to: f64,
    /// Step, counted from 0, at which the change begins, for linear and cosine. Default: 0.
    pub begin: usize,
    /// Number of steps over which the factor changes; required for linear and cosine.
    pub steps: usize,
    /// `[step, factor]` pairs with increasing steps; required for piecewise. Before the first and after the last point, the factor is
    /// that of the point.
    pub points: Vec<[f64; 2]>,
}

impl Default for WeightSchedule {
    fn default() -> Self {
        Self { kind: ScheduleKind::Constant, from: 0.0, to: 1.0, begin: 0, steps: 0, points: Vec::new() }
    }
}

impl WeightSchedule {
    /// Returns whether the factor is 1 at every step.
    pub fn is_constant(&self) -> bool {
        self.kind == ScheduleKind::Constant
    }

    /// Returns the factor at `step`, counted from 0.
    pub fn factor(&self, step: u64) -> f64 {
        let progress = ((step as f64 - self.begin as f64) / self.steps.max(1) as f64).clamp(0.0, 1.0);
        let between = |share: f64| self.from + (self.to - self.from) * share;
        match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Linear => between(progress),
            ScheduleKind::Cosine => between((1.0 - (PI * progress).cos()) / 2.0),
            ScheduleKind::Piecewise => interpolated(&self.points, step as f64),
        }
    }

    fn check(&self) -> CheckResult {
        let default = Self::default();
        let no_change = (self.from, self.to, self.begin, self.steps) == (default.from, default.to, 0, 0);
        match self.kind {
            ScheduleKind::Constant => {
                let expected = "\"linear\", \"cosine\" or \"piecewise\" with other keys beside it, which \"constant\" does not use";
                ensure(*self == default, "kind", "\"constant\"", expected)
            }
            ScheduleKind::Linear | ScheduleKind::Cosine => {
                at_least("steps", self.steps, 1)?;
                ensure(self.from.is_finite(), "from", self.from, "a finite number")?;
                ensure(self.to.is_finite(), "to", self.to, "a finite number")?;
                ensure(
                    self.from != self.to,
                    "to",
                    self.to,
                    "a number other than `from`, which the schedule starts at",
                )?;
                let expected = "no points: only kind = \"piecewise\" uses them";
                ensure(self.points.is_empty(), "points", format!("{} points", self.points.len()), expected)
            }
            ScheduleKind::Piecewise => {
                let expected = "\"linear\" or \"cosine\" for from, to, begin and steps; \"piecewise\" uses points";
                ensure(no_change, "kind", "\"piecewise\"", expected)?;
                at_least("points", self.points.len(), 1)
                    .map_err(|_| Defect::new("points", "is empty; expected [step, factor] pairs"))?;
                let valid =
                    self.points.iter().all(|[step, factor]| *step >= 0.0 && step.is_finite() && factor.is_finite());
                let ordered = self.points.windows(2).all(|pair| pair[0][0] < pair[1][0]);
                let found = format!("{:?}", self.points);
                ensure(
                    valid && ordered,
                    "points",
                    found,
                    "[step, factor] pairs of finite numbers with increasing steps",
                )
            }
        }
    }
}

/// Interpolates between `points`, which are sorted.
fn interpolated(points: &[[f64; 2]], step: f64) -> f64 {
    let after = points.partition_point(|[at, _]| *at <= step);
    match (after.checked_sub(1).and_then(|i| points.get(i)), points.get(after)) {
        (Some([begin, from]), Some([end, to])) => from + (to - from) * (step - begin) / (end - begin),
        (Some([_, factor]), None) | (None, Some([_, factor])) => *factor,
        (None, None) => 1.0,
    }
}

impl TermConfig {
    /// Checks the keys of the composition. `names` are the names of all terms.
    pub(super) fn check_composition(&self, names: &[&str]) -> CheckResult {
        let other = names.contains(&self.requires.as_str()) && self.requires != self.name;
        let expected = format!("the name of another term of reward.terms; known: {}", names.join(", "));
        let found = format!("\"{}\"", self.requires);
        ensure(self.requires.is_empty() || other, "requires", found, &expected)?;
        let above = self.requires_above;
        ensure(above.is_finite(), "requires_above", above, "a finite number")?;
        let expected = "0, or the name of a term whose score must be above it: requires";
        ensure(above == 0.0 || !self.requires.is_empty(), "requires_above", above, expected)?;
        self.schedule.check().under("schedule")?;
        for (task, weight) in &self.task_weights {
            ensure(weight.is_finite(), &format!("task_weights.{task}"), weight, "a finite number")?;
        }
        for (stage, weight) in self.stage_weights.iter().enumerate() {
            ensure(weight.is_finite(), &format!("stage_weights[{stage}]"), weight, "a finite number")?;
        }
        match self.clip {
            Some([low, high]) => {
                let valid = low.is_finite() && high.is_finite() && low < high;
                ensure(valid, "clip", format!("[{low}, {high}]"), "two finite numbers, the lower first")
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-12, "{got} is not {want}");
    }

    #[test]
    fn schedules_as_worked_by_hand() {
        let linear = WeightSchedule { kind: ScheduleKind::Linear, begin: 10, steps: 20, ..WeightSchedule::default() };
        for (step, want) in [(0, 0.0), (10, 0.0), (15, 0.25), (20, 0.5), (30, 1.0), (99, 1.0)] {
            near(linear.factor(step), want);
        }
        // (1 − cos(π/4)) / 2 = 0.146447 a quarter of the way; from 2 down to 0.
        let cosine = WeightSchedule { kind: ScheduleKind::Cosine, from: 2.0, to: 0.0, ..linear.clone() };
        for (step, want) in [(10, 2.0), (15, 2.0 - 2.0 * (1.0 - 0.5f64.sqrt()) / 2.0), (20, 1.0), (30, 0.0)] {
            near(cosine.factor(step), want);
        }
        let points = vec![[5.0, 0.0], [10.0, 1.0], [20.0, 0.5]];
        let piecewise = WeightSchedule { kind: ScheduleKind::Piecewise, points, ..WeightSchedule::default() };
        for (step, want) in [(0, 0.0), (5, 0.0), (6, 0.2), (10, 1.0), (14, 0.8), (20, 0.5), (1000, 0.5)] {
            near(piecewise.factor(step), want);
        }
        assert_eq!(WeightSchedule::default().factor(7), 1.0);
    }
}
