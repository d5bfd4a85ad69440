//! The step log, `metrics.jsonl`, as series of points.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::ReportError;

/// One metric over the steps of one phase.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Series {
    /// The key in the log, such as `reward/judge`.
    pub key: String,
    /// The `(step, value)` pairs, sorted by step.
    pub points: Vec<(u64, f64)>,
}

/// One phase of a run, such as `sft` or `rl`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PhaseMetrics {
    /// The value of the `phase` field; empty if the log has none.
    pub name: String,
    /// The metrics, in order of first appearance.
    pub series: Vec<Series>,
}

impl PhaseMetrics {
    /// Returns the points of one metric, if the phase has it.
    pub fn points(&self, key: &str) -> Option<&[(u64, f64)]> {
        self.series.iter().find(|s| s.key == key).map(|s| s.points.as_slice())
    }

    /// Returns whether this is a phase with rewards.
    pub fn is_rl(&self) -> bool {
        self.name == "rl" || self.series.iter().any(|s| s.key.starts_with("reward/"))
    }
}

/// A phase while its lines are read: the points of each key, by step.
struct Collected {
    name: String,
    series: Vec<(String, BTreeMap<u64, f64>)>,
}

/// Parses the log. A null means "not measured" and leaves a gap. A text field is a note and is not plotted. If a step
/// occurs twice (a run resumed from an earlier checkpoint), the later line wins.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Vec<PhaseMetrics>, ReportError> {
    let mut phases: Vec<Collected> = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let at = |message| ReportError::Malformed { path: path.into(), line: index + 1, message };
        let row: Map<String, Value> = serde_json::from_str(line).map_err(|e| at(in_words(&e)))?;
        let (phase, step) = place(&row).map_err(at)?;
        let phase = match phases.iter_mut().position(|p| p.name == phase) {
            Some(known) => &mut phases[known],
            None => phases.push_mut(Collected { name: phase.to_owned(), series: Vec::new() }),
        };
        for (key, value) in row.iter().filter(|(key, _)| *key != "step" && *key != "phase") {
            if let Some(value) = number(key, value).map_err(at)? {
                match phase.series.iter_mut().find(|(known, _)| known == key) {
                    Some((_, points)) => drop(points.insert(step, value)),
                    None => phase.series.push((key.clone(), BTreeMap::from([(step, value)]))),
                }
            }
        }
    }
    let finished = |(key, points): (String, BTreeMap<u64, f64>)| Series { key, points: points.into_iter().collect() };
    Ok(phases
        .into_iter()
        .map(|p| PhaseMetrics { name: p.name, series: p.series.into_iter().map(finished).collect() })
        .collect())
}

/// Returns the phase and the step of a line.
fn place(row: &Map<String, Value>) -> Result<(&str, u64), String> {
    let phase = match row.get("phase") {
        None | Some(Value::Null) => "",
        Some(Value::String(name)) => name,
        Some(other) => return Err(format!("field `phase` is {other}; expected a string such as \"rl\"")),
    };
    let step = row.get("step").ok_or("field `step` is missing; expected a whole number, 0 or more")?;
    let step = step.as_u64().ok_or_else(|| format!("field `step` is {step}; expected a whole number, 0 or more"))?;
    Ok((phase, step))
}

fn number(key: &str, value: &Value) -> Result<Option<f64>, String> {
    match value {
        Value::Number(number) => Ok(number.as_f64().filter(|v| v.is_finite())),
        Value::Bool(flag) => Ok(Some(f64::from(u8::from(*flag)))),
        Value::Null | Value::String(_) => Ok(None),
        Value::Array(_) | Value::Object(_) => Err(format!("field `{key}` is nested; expected a number")),
    }
}

/// Returns serde_json's message with its position reduced to the column; the line number is always 1 here.
fn in_words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let cause = text.rsplit_once(" at line ").map_or(text.as_str(), |(cause, _)| cause);
    format!("not a JSON object: {cause} (column {})", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<PhaseMetrics>, String> {
        parse(Path::new("run/metrics.jsonl"), text).map_err(|e| e.to_string())
    }

    #[test]
    fn phases_keep_their_own_steps_and_a_repeated_step_counts_as_last_written() {
        let text = "{\"phase\":\"sft\",\"step\":1,\"loss\":2.0}\n\n{\"phase\":\"rl\",\"step\":1,\"loss\":0.5}\n\
                    {\"phase\":\"sft\",\"step\":2,\"loss\":null,\"note\":\"skipped\"}\n\
                    {\"phase\":\"sft\",\"step\":1,\"loss\":1.5}\n";
        let phases = parsed(text).unwrap();
        assert_eq!(phases.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["sft", "rl"]);
        assert_eq!(phases[0].points("loss"), Some(&[(1, 1.5)][..]));
        assert_eq!(phases[0].points("note"), None);
        assert_eq!(phases[1].points("loss"), Some(&[(1, 0.5)][..]));
    }

    #[test]
    fn a_bad_line_is_named_with_its_field() {
        let cases = [
            ("{\"step\":1}\n{\"step\":2,\"loss\":", ":2: not a JSON object"),
            ("{\"step\":1}\n\n{\"loss\":2.0}", ":3: field `step` is missing"),
            ("{\"step\":-1}", ":1: field `step` is -1"),
            ("{\"step\":1,\"phase\":7}", ":1: field `phase` is 7"),
            ("{\"step\":1,\"reward\":{\"judge\":1}}", ":1: field `reward` is nested"),
            ("[1]", ":1: not a JSON object"),
        ];
        for (text, expected) in cases {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(&format!("run/metrics.jsonl{expected}")), "{error}");
        }
    }
}
