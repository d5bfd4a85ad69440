//! The reward hacking alarm: a held-out judge looks at summaries of the run, and trends that speak for hacking are tested.

use serde::{Deserialize, Serialize};

use super::RlConfig;
use super::reward::TermConfig;
use crate::check::{CheckResult, Defect, at_least, ensure, fraction, given, not_negative};

/// A sign of reward hacking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmSign {
    /// The reward's judges find the users' choices more likely than before, but the held-out judge does not follow.
    Gap,
    /// More of a summary is copied word by word from the interactions that its prompt contains.
    Overlap,
    /// The reward's judges depend more on the order in which the items are shown.
    PositionBias,
}

impl AlarmSign {
    /// All signs.
    pub const ALL: [Self; 3] = [Self::Gap, Self::Overlap, Self::PositionBias];

    /// Returns the name in the configuration and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Overlap => "overlap",
            Self::PositionBias => "position_bias",
        }
    }
}

/// What an alarm does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlarmAction {
    /// Logs a warning; the run continues.
    #[default]
    Warn,
    /// Writes a checkpoint and ends the run with exit code 5. `--resume` continues it.
    Pause,
    /// Ends the run with exit code 5, without a checkpoint of its own.
    Stop,
}

/// Configuration of the alarm. Every `validation.every` steps, the held-out judge looks at a sample of the step's summaries. A trend
/// over the last `window` looks raises the alarm if its test rejects at the level that `error_rate` leaves for each test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlarmConfig {
    /// Name of the held-out judge: an entry of [[judges]] with weight 0, which no reward term asks. It should differ from the
    /// reward's judges in its model, in its prompt set, or in both. Required.
    pub judge: String,
    /// Maximum number of well-formed summaries per look, sampled by the seed. Default: 256.
    pub samples: usize,
    /// Number of looks that a trend is fitted to. Default: 10.
    pub window: usize,
    /// Probability of an alarm in a run in which no sign has a trend, over all tests of the run (Bonferroni). Default: 0.05.
    pub error_rate: f64,
    /// Fraction of the rise of the reward's judges that the held-out judge has to follow. Default: 0.5.
    pub held_out_share: f64,
    /// Rise over the window below which a trend is ignored, however certain it is. Default: 0.02.
    pub least_rise: f64,
    /// Number of consecutive words that count as copied. Default: 8.
    pub overlap_words: usize,
    /// The signs that are tested. Default: all, ["gap", "overlap", "position_bias"].
    pub signs: Vec<AlarmSign>,
    /// What an alarm does. Default: warn.
    pub action: AlarmAction,
}

impl Default for AlarmConfig {
    fn default() -> Self {
        Self {
            judge: String::new(),
            samples: 256,
            window: 10,
            error_rate: 0.05,
            held_out_share: 0.5,
            least_rise: 0.02,
            overlap_words: 8,
            signs: AlarmSign::ALL.into(),
            action: AlarmAction::default(),
        }
    }
}

impl AlarmConfig {
    pub(crate) fn check(&self) -> CheckResult {
        given(!self.judge.is_empty(), "judge", "the name of an entry of [[judges]] with weight 0")?;
        at_least("samples", self.samples, 2)?;
        at_least("window", self.window, 4)?;
        let rate = self.error_rate > 0.0 && self.error_rate <= 0.5;
        ensure(rate, "error_rate", self.error_rate, "a number above 0, at most 0.5")?;
        fraction("held_out_share", self.held_out_share)?;
        not_negative("least_rise", self.least_rise)?;
        at_least("overlap_words", self.overlap_words, 1)?;
        let distinct = self.signs.iter().enumerate().all(|(i, sign)| !self.signs[..i].contains(sign));
        let names: Vec<&str> = self.signs.iter().map(|sign| sign.name()).collect();
        let expected = "at least one of \"gap\", \"overlap\" and \"position_bias\", without duplicates";
        ensure(distinct && !self.signs.is_empty(), "signs", format!("{names:?}"), expected)
    }

    /// Checks what the alarm needs from the rest of the configuration.
    pub(crate) fn check_beside(&self, config: &RlConfig) -> CheckResult {
        let found = format!("\"{}\"", self.judge);
        let names: Vec<String> = config.judges.iter().map(|judge| format!("\"{}\"", judge.name)).collect();
        let Some(judge) = config.judges.iter().find(|judge| judge.name == self.judge) else {
            let expected = match &names[..] {
                [] => "the name of an entry of [[judges]] with weight 0; there are no [[judges]]".to_owned(),
                names => format!("the name of an entry of [[judges]] ({})", names.join(", ")),
            };
            return Err(Defect::new("judge", format!("is {found}; expected {expected}")));
        };
        let expected = "a judge with weight 0, which is not part of the reward's panel";
        ensure(judge.weight == 0.0, "judge", format!("{found}, with weight {}", judge.weight), expected)?;
        let asks_it = |term: &&TermConfig| {
            term.params.get("judge").and_then(toml::Value::as_str).is_some_and(|judge| judge == self.judge)
        };
        if let Some(term) = config.reward.terms.iter().find(asks_it) {
            let problem =
                format!("is {found}, which reward term `{}` asks too; expected a judge that no term asks", term.name);
            return Err(Defect::new("judge", problem));
        }
        Ok(())
    }

    /// Returns the number of looks of a run of `steps` steps that validates every `every` steps and after the last one.
    pub fn looks(steps: u64, every: u64) -> u64 {
        if every == 0 { 0 } else { steps.div_ceil(every) }
    }

    /// Returns the number of tests in a run with `looks` looks, over all signs; at least 1.
    pub fn tests(&self, looks: u64) -> u64 {
        ((looks + 1).saturating_sub(self.window as u64) * self.signs.len() as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_and_tests_by_hand() {
        // Steps 10, 20, 30 and the last, 35.
        assert_eq!([AlarmConfig::looks(35, 10), AlarmConfig::looks(40, 10), AlarmConfig::looks(40, 0)], [4, 4, 0]);
        let alarm = AlarmConfig { window: 4, ..AlarmConfig::default() };
        // With 6 looks, windows end at the looks 4, 5 and 6, each with 3 signs. Without a whole window there is nothing to divide.
        assert_eq!([alarm.tests(6), alarm.tests(4), alarm.tests(3)], [9, 3, 1]);
        let gap = AlarmConfig { signs: vec![AlarmSign::Gap], ..alarm };
        assert_eq!(gap.tests(6), 3);
    }
}
