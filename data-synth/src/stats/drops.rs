//! What the reports of the steps counted, as flat lists of numbers.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::StatsError;

/// The reports of a pipeline, and the fields that are no counts.
const REPORTS: [(&str, &[&str]); 3] = [
    ("import/card.json", &["seed", "inputs", "options", "lengths"]),
    ("prune/report.json", &[]),
    ("teach/report.json", &["failed"]),
];

/// The numbers in the report of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepCounts {
    /// The path of the report.
    pub path: PathBuf,
    /// Each number with its name, whose parts are joined by points.
    pub counts: Vec<(String, f64)>,
}

/// Returns the numbers of the reports in a folder; a report that is absent is left out.
pub(super) fn of_folder(folder: &Path) -> Result<Vec<StepCounts>, StatsError> {
    let mut steps = Vec::new();
    for (name, left_out) in REPORTS {
        let path = folder.join(name);
        if !path.is_file() {
            continue;
        }
        let failed = |message: String| StatsError::Report { path: path.clone(), message };
        let text = std::fs::read_to_string(&path).map_err(|e| failed(e.to_string()))?;
        let report: Json = serde_json::from_str(&text).map_err(|e| failed(e.to_string()))?;
        let mut counts = Vec::new();
        for (field, value) in report.as_object().into_iter().flatten() {
            if !left_out.contains(&field.as_str()) {
                flatten(field, value, &mut counts);
            }
        }
        steps.push(StepCounts { path, counts });
    }
    Ok(steps)
}

fn flatten(name: &str, value: &Json, counts: &mut Vec<(String, f64)>) {
    match value {
        Json::Number(number) => counts.extend(number.as_f64().map(|number| (name.to_owned(), number))),
        Json::Object(fields) => {
            fields.iter().for_each(|(field, value)| flatten(&format!("{name}.{field}"), value, counts));
        }
        _ => {}
    }
}
