//! Which metrics share a chart. Unknown metrics get a chart under their own name.

use crate::error::ReportError;
use crate::lines::{self, Curve, Form};
use crate::metrics::PhaseMetrics;
use crate::palette;
use crate::run::RunRecord;

/// The chart of a metric, or of all metrics under a prefix that ends in `/`.
struct Known {
    /// The key, or the prefix.
    key: &'static str,
    title: &'static str,
    unit: &'static str,
    form: Form,
    /// Whether the chart is visible by default, not folded.
    main: bool,
}

const fn known(key: &'static str, title: &'static str, unit: &'static str, form: Form, main: bool) -> Known {
    Known { key, title, unit, form, main }
}

/// The known metrics, in the order of their charts.
const KNOWN: [Known; 24] = [
    known("reward/", "Reward", "", Form::Lines, true),
    known("entropy", "Entropy", "nats per token", Form::Lines, true),
    known("length/", "Length", "tokens", Form::Lines, true),
    known("loss", "Loss", "", Form::Lines, true),
    known("time/", "Time", "seconds per step", Form::Stacked, true),
    known("credit/", "Streaming credit", "", Form::Lines, true),
    known("pass_rate", "Pass rate", "fraction of summaries", Form::Lines, true),
    known("validation/", "Held-out users", "", Form::Lines, true),
    known("alarm/", "Training and held-out judge", "probability of the user's choice", Form::Lines, true),
    known("alarm_signs/", "Signs of reward hacking", "", Form::Lines, true),
    known("reward by stage/", "Reward by stage", "", Form::Lines, true),
    known("alarm_p_value/", "p-values of the alarm", "", Form::Lines, false),
    known("alarm_raised", "Alarms", "", Form::Lines, false),
    known("truncated", "Truncated responses", "", Form::Lines, false),
    known("zero_variance", "Groups with zero reward variance", "", Form::Lines, false),
    known("clip/", "Clipped ratios", "", Form::Lines, false),
    known("ratio/", "Importance ratio", "", Form::Lines, false),
    known("grad_norm", "Gradient norm", "", Form::Lines, false),
    known("lr", "Learning rate", "", Form::Lines, false),
    known("kl/", "KL to old policy and reference", "nats per token", Form::Lines, false),
    known("mismatch/", "Mismatch of rollout and training", "", Form::Lines, false),
    known("tokens_per_second", "Throughput", "tokens per second", Form::Lines, false),
    known("tokens_per_second/", "Throughput", "tokens per second", Form::Lines, false),
    known("trained_tokens", "Trained tokens", "", Form::Lines, false),
];

/// A legend entry.
#[derive(serde::Serialize)]
pub(crate) struct Key {
    /// The name.
    pub label: String,
    /// The color, in CSS notation.
    pub color: String,
}

/// A chart on the page.
#[derive(serde::Serialize)]
pub(crate) struct Chart {
    /// The heading.
    pub title: String,
    /// The unit of the values, if they have one.
    pub unit: &'static str,
    /// The legend; empty if there is one curve.
    pub legend: Vec<Key>,
    /// The drawing.
    pub svg: String,
    /// Whether the chart is visible by default, not folded.
    #[serde(skip)]
    pub main: bool,
}

/// Returns the title of a phase.
pub(crate) fn phase_title(name: &str) -> String {
    match name {
        "judge" => "Training judge".into(),
        "second_judge" => "Second judge".into(),
        "sft" => "SFT".into(),
        "rl" => "RL".into(),
        "" => "Training".into(),
        other => other.replace('_', " "),
    }
}

/// Returns the names of all phases of all runs, in order of first appearance, and whether each has rewards.
pub(crate) fn phases(runs: &[RunRecord]) -> Vec<(String, bool)> {
    let mut names: Vec<(String, bool)> = Vec::new();
    for phase in runs.iter().flat_map(|run| &run.phases) {
        match names.iter_mut().find(|(name, _)| *name == phase.name) {
            Some((_, rl)) => *rl |= phase.is_rl(),
            None => names.push((phase.name.clone(), phase.is_rl())),
        }
    }
    names
}

/// Returns the charts of one phase. For one run, metrics of a kind share a chart. For several runs, each metric has a
/// chart with one curve per run.
pub(crate) fn charts(runs: &[RunRecord], phase: &str) -> Result<Vec<Chart>, ReportError> {
    let logs: Vec<(usize, &RunRecord, &PhaseMetrics)> = runs
        .iter()
        .enumerate()
        .filter_map(|(index, run)| Some((index, run, run.phases.iter().find(|p| p.name == phase)?)))
        .collect();
    let mut charts = Vec::new();
    for (stem, keys) in stems(logs.iter().map(|(_, _, log)| *log)) {
        let known = KNOWN.iter().find(|known| known.key == stem);
        let title = known.map_or_else(|| stem.trim_end_matches('/').replace('_', " "), |known| known.title.to_owned());
        let unit = known.map_or("", |known| known.unit);
        let main = known.is_some_and(|known| known.main);
        let mut add = |title: String, curves: Vec<Curve>, form: Form, names: bool| {
            let key = |curve: &Curve| Key { label: curve.label.clone(), color: palette::hex(curve.color) };
            let legend = if names { curves.iter().map(key).collect() } else { Vec::new() };
            lines::chart(&curves, form).map(|svg| charts.push(Chart { title, unit, legend, svg, main }))
        };
        if let ([_], [(_, _, log)]) = (runs, &logs[..]) {
            let curve = |(index, key): (usize, &String)| Curve {
                label: short(key, &stem),
                color: palette::series(index),
                points: log.points(key).unwrap_or_default().to_vec(),
            };
            let form = known.map_or(Form::Lines, |known| known.form);
            add(title, keys.iter().enumerate().map(curve).collect(), form, stem.ends_with('/'))?;
        } else {
            for key in &keys {
                let curve = |&(index, run, log): &(usize, &RunRecord, &PhaseMetrics)| {
                    let points = log.points(key)?.to_vec();
                    Some(Curve { label: run.name.clone(), color: palette::series(index), points })
                };
                let title = if stem.ends_with('/') { format!("{title}: {}", short(key, &stem)) } else { title.clone() };
                add(title, logs.iter().filter_map(curve).collect(), Form::Lines, true)?;
            }
        }
    }
    Ok(charts)
}

/// Groups the metrics of a phase by stem, the known ones first: `reward/` with `reward/judge`, …, or a key alone.
fn stems<'a>(logs: impl Iterator<Item = &'a PhaseMetrics>) -> Vec<(String, Vec<String>)> {
    let mut stems: Vec<(String, Vec<String>)> = Vec::new();
    for series in logs.flat_map(|log| &log.series).filter(|series| !series.points.is_empty()) {
        let stem = stem(&series.key);
        let keys = match stems.iter_mut().position(|(known, _)| *known == stem) {
            Some(there) => &mut stems[there].1,
            None => &mut stems.push_mut((stem, Vec::new())).1,
        };
        if !keys.contains(&series.key) {
            keys.push(series.key.clone());
        }
    }
    stems.sort_by_key(|(stem, _)| KNOWN.iter().position(|known| known.key == stem).unwrap_or(KNOWN.len()));
    for (_, keys) in &mut stems {
        // The total comes first, in the first color.
        keys.sort_by_key(|key| !key.ends_with("/total"));
    }
    for (_, keys) in stems.iter_mut().filter(|(stem, _)| stem == "time/") {
        // The phases of a step add up to its time; the total, and what is not part of a step, would be counted twice.
        let parts: Vec<String> = keys.iter().filter(|key| !OF_NO_PHASE.contains(&key.as_str())).cloned().collect();
        *keys = if parts.is_empty() { vec!["time/step".into()] } else { parts };
    }
    stems
}

/// The keys under `time/` that are not phases of a step.
const OF_NO_PHASE: [&str; 4] = ["time/step", "time/left", "time/tokens_per_second", "time/trained_tokens_per_second"];

/// Returns the stem of a key, which groups charts: `reward/` for `reward/judge`, `reward by stage/` for
/// `stage1/reward/judge`, or the key itself.
fn stem(key: &str) -> String {
    let first = |key: &str| key.find('/').map_or(key, |slash| &key[..=slash]).to_owned();
    match of_stage(key) {
        Some((_, rest)) => format!("{} by stage/", first(rest).trim_end_matches('/')),
        None => first(key),
    }
}

/// Splits `stage1/reward/judge` into `stage1` and `reward/judge`.
fn of_stage(key: &str) -> Option<(&str, &str)> {
    let (stage, rest) = key.split_once('/')?;
    let number = stage.strip_prefix("stage")?;
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some((stage, rest))
}

/// Returns a key without the part that the title of its chart contains.
fn short(key: &str, stem: &str) -> String {
    if let Some((stage, rest)) = of_stage(key) {
        let what = rest.split_once('/').map_or("", |(_, what)| what);
        return format!("{} {}", stage.replace("stage", "stage "), what.replace('_', " ")).trim_end().to_owned();
    }
    let rest = if stem.ends_with('/') { key.strip_prefix(stem).unwrap_or(key) } else { key };
    rest.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_share_a_chart_of_what_they_are_compared_by() {
        for (key, chart, label) in [
            ("reward/judge", "reward/", "judge"),
            ("stage1/reward/total", "reward by stage/", "stage 1 total"),
            ("stage12/length/mean", "length by stage/", "stage 12 mean"),
            ("stage2/pass_rate", "pass_rate by stage/", "stage 2"),
            ("stages/x", "stages/", "x"),
            ("grad_norm", "grad_norm", "grad norm"),
        ] {
            assert_eq!((stem(key).as_str(), short(key, &stem(key)).as_str()), (chart, label), "{key}");
        }
    }
}
