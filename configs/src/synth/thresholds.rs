//! The thresholds of synthesis and pruning, which the quickstart shares.

use serde::{Deserialize, Serialize};

use crate::check::{CheckResult, at_least, below_one, ensure, fraction};

/// The teacher's synthesis: generate, verify with the judge, merge, re-test. The defaults are the published thresholds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SynthesisConfig {
    /// Minimum probability, exclusive, that the informed judge must give a choice for it to be a target. Default: 0.9.
    pub target_probability: f64,
    /// Maximum number of targets of a stage. Default: 5.
    pub most_targets: usize,
    /// Minimum number of targets of a stage. Default: 4.
    pub least_targets: usize,
    /// Minimum number of candidate summaries that must predict their target. Default: 3.
    pub least_correct: usize,
    /// Fraction of the predicted targets that the merged summary must also predict. Default: 0.8.
    pub retest: f64,
}

impl Default for SynthesisConfig {
    fn default() -> Self {
        Self { target_probability: 0.9, most_targets: 5, least_targets: 4, least_correct: 3, retest: 0.8 }
    }
}

impl SynthesisConfig {
    pub(crate) fn check(&self) -> CheckResult {
        below_one("target_probability", self.target_probability)?;
        at_least("least_targets", self.least_targets, 1)?;
        let expected = format!("at least least_targets ({})", self.least_targets);
        ensure(self.most_targets >= self.least_targets, "most_targets", self.most_targets, &expected)?;
        at_least("least_correct", self.least_correct, 1)?;
        let expected = format!("at most most_targets ({}), the number of candidates", self.most_targets);
        ensure(self.least_correct <= self.most_targets, "least_correct", self.least_correct, &expected)?;
        fraction("retest", self.retest)
    }
}

/// The details in which the released code of the pruning differs from that of the built-in world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PruningRule {
    /// The band never holds the most probable choice, because it starts at `max(1, int(M · (band_end − band_width)))`, counted from 0,
    /// of M choices. Candidates of equal signal keep the order of the band. A choice that occurred before with the same query and items
    /// stands at its first occurrence.
    Published,
    /// None of the three.
    #[default]
    Windowed,
}

/// Curriculum pruning of the RL rows, which selects the choices that become targets. The defaults are those of the built-in world;
/// `[prune.thresholds]` has the published rule as its default. See docs/data.md.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PruningConfig {
    /// Fraction of all choices to keep, by descending signal (a). Default: 0.8.
    pub most_signal: f64,
    /// Minimum probability that the informed judge must give the choice (b). Default: 0.5.
    pub least_probability: f64,
    /// End of the band of descending probability that is kept (c). Default: 1.
    pub band_end: f64,
    /// Width of that band; published: 0.1. Default: 1, because every user counts in a small world.
    pub band_width: f64,
    /// The rule's details: published or windowed. Default: windowed.
    pub rule: PruningRule,
    /// Minimum number of interactions that each of the two stages reads. Default: 4, as in the published rows from AlignX. With 1, two
    /// targets only have to be as published: the first is not the first interaction, and they are not adjacent.
    pub least_window: usize,
}

impl Default for PruningConfig {
    fn default() -> Self {
        Self {
            most_signal: 0.8,
            least_probability: 0.5,
            band_end: 1.0,
            band_width: 1.0,
            rule: PruningRule::Windowed,
            least_window: 4,
        }
    }
}

impl PruningConfig {
    /// Returns the published rule. Its thresholds a, b and c were not published; the values are those of the built-in world.
    pub fn published() -> Self {
        Self { band_width: 0.1, rule: PruningRule::Published, least_window: 1, ..Self::default() }
    }

    pub(crate) fn check(&self) -> CheckResult {
        fraction("most_signal", self.most_signal)?;
        fraction("least_probability", self.least_probability)?;
        let published = self.rule == PruningRule::Published;
        for (key, value, whole) in [("band_end", self.band_end, !published), ("band_width", self.band_width, false)] {
            fraction(key, value)?;
            ensure(whole || value > 0.0, key, value, "above 0, without which the band is empty")?;
        }
        at_least("least_window", self.least_window, 1)
    }
}
