//! Human-readable records of a step's rollouts.

use std::path::Path;

use chat::jsonl;
use serde::Serialize;

use super::advantages::StepAdvantages;
use super::group::Group;
use crate::TrainError;

#[derive(Serialize)]
struct RecordLine<'a> {
    step: u64,
    uid: &'a str,
    stage: usize,
    group: usize,
    sample: usize,
    picked: bool,
    prompt: String,
    response: &'a str,
    truncated: bool,
    terms: serde_json::Map<String, serde_json::Value>,
    reward: f64,
    credited: f64,
    advantage: f64,
}

/// Returns the path of a step's file: `rollouts/step-000010.jsonl`, or the replay record beside it.
pub fn path(run: &Path, step: u64, extension: &str) -> std::path::PathBuf {
    run.join("rollouts").join(format!("step-{step:06}.{extension}"))
}

/// Writes up to `most` samples of step `step` (from 1), group by group. `names` are the names of the reward terms.
///
/// # Errors
/// If the file cannot be written.
pub fn write(
    run: &Path,
    step: u64,
    (groups, advantages): (&[Group], &StepAdvantages),
    names: &[&str],
    decode: impl Fn(&[u32]) -> Result<String, TrainError>,
    most: usize,
) -> Result<(), TrainError> {
    let places = groups.iter().enumerate().flat_map(|(g, group)| (0..group.samples.len()).map(move |i| (g, i)));
    let line = |(g, i): (usize, usize)| -> Result<RecordLine<'_>, TrainError> {
        let group = &groups[g];
        let sample = &group.samples[i];
        let terms = names.iter().zip(&sample.reward.scores).map(|(n, s)| ((*n).to_owned(), (*s).into())).collect();
        Ok(RecordLine {
            step,
            uid: &group.uid,
            stage: group.stage,
            group: g,
            sample: i,
            picked: group.carried.contains(&i),
            prompt: decode(&group.prompt)?,
            response: &sample.text,
            truncated: sample.truncated,
            terms,
            reward: sample.reward.total,
            credited: advantages.rewards[g][i],
            advantage: advantages.advantages[g][i],
        })
    };
    let lines = places.take(most).map(line).collect::<Result<Vec<_>, _>>()?;
    let path = path(run, step, "jsonl");
    jsonl::write(&path, &lines).map_err(|e| TrainError::File { path, message: e.to_string() })
}
