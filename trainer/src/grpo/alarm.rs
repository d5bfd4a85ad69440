//! The reward hacking alarm: a held-out judge looks at summaries of a step, and [`trend`]s over the last looks are tested.
//!
//! A look compares the reward's judges with the held-out judge on the same summaries and choices, so the difference is paired. The
//! values of a trend are means of looks, not of summaries: what all summaries of a step have in common (its users, for one) is
//! then part of the error. Each test has the level α / m, where α is `alarm.error_rate` and m the number of tests in the run
//! (Bonferroni). The sign `gap` has two tests, both of which have to reject, so its level is theirs: that the reward's judges
//! rise, and that `held_out_share` times their value rises faster than the held-out judge's.
//!
//! After an alarm, the looks so far are dropped, so that the next alarm needs a whole window of new ones.

pub mod trend;

use std::num::NonZeroUsize;
use std::path::Path;

use chat::Draw;
use configs::rl::RlConfig;
use configs::rl::alarm::{AlarmAction, AlarmConfig, AlarmSign};
use rewards::judge::OrderVerdict;
use rewards::terms::copying;
use rewards::{PanelRequest, PanelVerdict, gate};
use serde::{Deserialize, Serialize};

use self::trend::{Trend, trend};
use super::group::{Group, Sample};
use super::metrics::mean;
use crate::TrainError;
use crate::train_loop::{Halt, Numbers};

/// Path within a checkpoint folder.
const FILE: &str = "trainer/alarm.json";

/// What one look sees: means over the sampled summaries.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// The step, from 1.
    pub step: u64,
    /// Probability that the reward's judges pick the user's choices.
    pub training: f64,
    /// Probability that the held-out judge picks them.
    pub held_out: f64,
    /// Fraction of a summary's runs of `overlap_words` words that occur in the items of its prompt, as in reward term `copying`.
    pub overlap: f64,
    /// Magnitude of the mean difference between the probability of the user's choice shown first and shown second, over the
    /// reward's judges; `None` if they never showed one of the orders.
    pub position_bias: Option<f64>,
}

/// The trend of a sign over the window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrendTest {
    /// The sign.
    pub sign: AlarmSign,
    /// Its rise, and the p-value of its test; for `gap`, the rise of the reward's judges, and the larger of two p-values.
    pub trend: Trend,
}

/// The alarm of a run.
#[derive(Debug)]
pub struct Alarm<'a> {
    config: &'a AlarmConfig,
    /// Level of a test.
    level: f64,
    looks: Vec<Look>,
}

impl<'a> Alarm<'a> {
    /// Returns the alarm of `config` for a run that looks `looks` times.
    pub fn new(config: &'a AlarmConfig, looks: u64) -> Self {
        Self { config, level: config.error_rate / config.tests(looks) as f64, looks: Vec::new() }
    }

    /// Returns the configuration.
    pub fn config(&self) -> &'a AlarmConfig {
        self.config
    }

    /// Returns the level of a test: the largest p-value that raises the alarm.
    pub fn level(&self) -> f64 {
        self.level
    }

    /// Returns the looks since the start or the last alarm.
    pub fn looks(&self) -> &[Look] {
        &self.looks
    }

    /// Adds a look. Returns the tests of the window that it completes, and the reason of an alarm.
    pub fn add(&mut self, look: Look) -> (Vec<TrendTest>, Option<String>) {
        self.looks.push(look);
        let begin = self.looks.len().saturating_sub(self.config.window);
        let window = &self.looks[begin..];
        if window.len() < self.config.window {
            return (Vec::new(), None);
        }
        let tested: Vec<TrendTest> = self.config.signs.iter().filter_map(|&sign| self.test(sign, window)).collect();
        let raised = |t: &&TrendTest| t.trend.p_value <= self.level && t.trend.rise >= self.config.least_rise;
        let reasons: Vec<String> = tested.iter().filter(raised).map(|t| self.reason(t, window)).collect();
        if reasons.is_empty() {
            return (tested, None);
        }
        let reason = format!("reward hacking alarm at step {}: {}", look.step, reasons.join("; "));
        self.looks.clear();
        (tested, Some(reason))
    }

    fn test(&self, sign: AlarmSign, window: &[Look]) -> Option<TrendTest> {
        let steps: Vec<f64> = window.iter().map(|look| look.step as f64).collect();
        let of = |value: &dyn Fn(&Look) -> f64| trend(&steps, &window.iter().map(value).collect::<Vec<_>>());
        let trend = match sign {
            AlarmSign::Gap => {
                let training = of(&|look| look.training)?;
                let behind = of(&|look| self.config.held_out_share * look.training - look.held_out)?;
                Trend { p_value: training.p_value.max(behind.p_value), ..training }
            }
            AlarmSign::Overlap => of(&|look| look.overlap)?,
            AlarmSign::PositionBias => {
                let values: Option<Vec<f64>> = window.iter().map(|look| look.position_bias).collect();
                trend(&steps, &values?)?
            }
        };
        Some(TrendTest { sign, trend })
    }

    /// Describes the sign that raised the alarm.
    fn reason(&self, tested: &TrendTest, window: &[Look]) -> String {
        let TrendTest { sign, trend: Trend { rise, p_value } } = *tested;
        let (first, last) = (window.first().map_or(0, |look| look.step), window.last().map_or(0, |look| look.step));
        let test = format!("from step {first} to {last} (p = {p_value:.1e}, level {:.1e})", self.level);
        match sign {
            AlarmSign::Gap => {
                let steps: Vec<f64> = window.iter().map(|look| look.step as f64).collect();
                let held_out: Vec<f64> = window.iter().map(|look| look.held_out).collect();
                let followed = trend(&steps, &held_out).map_or(0.0, |trend| trend.rise);
                format!(
                    "the reward's judges rose by {rise:.3}, the held-out judge `{}` by {followed:.3}, less than {:.0} % of it, \
                     {test}",
                    self.config.judge,
                    100.0 * self.config.held_out_share
                )
            }
            AlarmSign::Overlap => format!("the overlap of summaries with their prompts rose by {rise:.3} {test}"),
            AlarmSign::PositionBias => format!("the position bias of the reward's judges rose by {rise:.3} {test}"),
        }
    }

    /// Adds the look at a step, and returns its metrics and whether the run halts. On an alarm that warns, logs a warning if `logs`.
    pub(crate) fn record(&mut self, look: Look, logs: bool) -> (Numbers, Option<Halt>) {
        let mut numbers: Numbers = vec![
            ("alarm/training".into(), look.training),
            ("alarm/held_out".into(), look.held_out),
            ("alarm_signs/overlap".into(), look.overlap),
            ("alarm_signs/position_bias".into(), look.position_bias.unwrap_or(f64::NAN)),
        ];
        let (tested, raised) = self.add(look);
        let p_value = |t: &TrendTest| (format!("alarm_p_value/{}", t.sign.name()), t.trend.p_value);
        numbers.extend(tested.iter().map(p_value));
        numbers.push(("alarm_raised".into(), f64::from(u8::from(raised.is_some()))));
        let halt = raised.and_then(|reason| match self.config.action {
            AlarmAction::Warn => {
                if logs {
                    tracing::warn!("{reason}");
                }
                None
            }
            AlarmAction::Pause => Some(Halt { reason, checkpoint: true }),
            AlarmAction::Stop => Some(Halt { reason, checkpoint: false }),
        });
        (numbers, halt)
    }

    /// Writes the looks into a checkpoint.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(&self, checkpoint: &Path) -> std::io::Result<()> {
        std::fs::write(checkpoint.join(FILE), serde_json::to_string(&self.looks)?)
    }

    /// Restores the looks that [`Self::write`] wrote. A checkpoint of a run without an alarm has none.
    ///
    /// # Errors
    /// [`TrainError::File`] if the file cannot be read.
    pub fn restore(&mut self, checkpoint: &Path) -> Result<(), TrainError> {
        let path = checkpoint.join(FILE);
        if !path.exists() {
            return Ok(());
        }
        let bad = |message: String| TrainError::File { path: path.clone(), message };
        let text = std::fs::read_to_string(&path);
        let text = text.map_err(|e| bad(format!("{e}; resume from an earlier checkpoint")))?;
        self.looks = serde_json::from_str(&text).map_err(|e| bad(format!("{e}; resume from an earlier checkpoint")))?;
        Ok(())
    }
}

/// Looks at up to `alarm.samples` judged summaries of a step, sampled by the seed. `ask` asks the run's judges. Returns `None` if no
/// summary of the step was judged.
///
/// # Errors
/// Those of `ask`.
pub fn look(
    groups: &[Group],
    step: u64,
    (alarm, config): (&AlarmConfig, &RlConfig),
    ask: impl FnOnce(&[PanelRequest]) -> Result<Vec<PanelVerdict>, TrainError>,
) -> Result<Option<Look>, TrainError> {
    let draw = Draw::new(config.seed).text("alarm").with(step);
    let all =
        groups.iter().enumerate().flat_map(|(g, group)| group.samples.iter().enumerate().map(move |(i, s)| (g, i, s)));
    let judged = all.filter_map(|(g, i, sample)| {
        let p_chosen = sample.p_chosen?;
        let parts = gate::split(config.reward.gate, &sample.text);
        let summary = parts.map_or(sample.text.as_str(), |parts| parts.summary);
        Some((draw.with(g as u64).with(i as u64).bits(), (g, sample, summary, p_chosen)))
    });
    let mut drawn: Vec<(u64, Judged<'_>)> = judged.collect();
    drawn.sort_by_key(|(bits, _)| *bits);
    drawn.truncate(alarm.samples);
    if drawn.is_empty() {
        return Ok(None);
    }
    let sampled: Vec<Judged<'_>> = drawn.into_iter().map(|(_, judged)| judged).collect();
    let requests_of = |&(g, _, summary, _): &Judged<'_>| -> Vec<PanelRequest> {
        // The targets have been judged, so each has a rejected item.
        let choices = groups[g].input.targets.iter().filter_map(|target| PanelRequest::choice(target, summary));
        choices.map(|request| request.of_judge(&alarm.judge)).collect()
    };
    let requests: Vec<Vec<PanelRequest>> = sampled.iter().map(requests_of).collect();
    let mut verdicts = ask(&requests.concat())?.into_iter();
    let held_out: Vec<f64> = requests
        .iter()
        .map(|of_sample| mean(verdicts.by_ref().take(of_sample.len()).map(|verdict| verdict.p_chosen)))
        .collect();
    let held_out = mean(held_out.into_iter().filter(|p| p.is_finite()));
    if !held_out.is_finite() {
        return Ok(None);
    }
    let orders = || sampled.iter().flat_map(|(_, sample, ..)| orders(sample));
    let words = NonZeroUsize::new(alarm.overlap_words).unwrap_or(NonZeroUsize::MIN);
    let overlap = |&(g, _, summary, _): &Judged<'_>| copying::overlap(summary, groups[g].input.items(), words);
    Ok(Some(Look {
        step,
        training: mean(sampled.iter().map(|&(.., p_chosen)| p_chosen)),
        held_out,
        overlap: mean(sampled.iter().map(overlap)),
        position_bias: position_bias(orders),
    }))
}

/// A judged summary: its group, its sample, its text, and the probability by the reward's judges.
type Judged<'a> = (usize, &'a Sample, &'a str, f64);

/// Returns the verdicts of the reward's judges on a sample, order by order.
fn orders(sample: &Sample) -> impl Iterator<Item = &OrderVerdict> {
    sample.verdicts.iter().flat_map(|of_target| &of_target.judges).flat_map(|judge| &judge.verdict.orders)
}

/// Returns the magnitude of the mean probability of the user's choice shown first minus that of the choice shown second.
fn position_bias<'a, I: Iterator<Item = &'a OrderVerdict>>(orders: impl Fn() -> I) -> Option<f64> {
    let of = |first: bool| mean(orders().filter(|order| order.chosen_first == first).map(|order| order.p_chosen));
    let bias = (of(true) - of(false)).abs();
    bias.is_finite().then_some(bias)
}

#[cfg(test)]
mod tests;
