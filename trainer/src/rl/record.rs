//! What is written of a step's rollouts for people to read.

use std::path::Path;

use chat::jsonl;
use serde::Serialize;

use super::credited::Credited;
use super::rollout::Group;
use crate::TrainError;

#[derive(Serialize)]
struct Line<'a> {
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

/// The files of a step: `rollouts/step-000010.jsonl`, and beside it what replays it.
pub fn path(run: &Path, step: u64, extension: &str) -> std::path::PathBuf {
    run.join("rollouts").join(format!("step-{step:06}.{extension}"))
}

/// Writes up to `most` samples of step `step` (from 1), whole groups in order. `names` are those of the reward's terms.
///
/// # Errors
/// If the file cannot be written.
pub fn write(
    run: &Path,
    step: u64,
    (groups, credited): (&[Group], &Credited),
    names: &[&str],
    decode: impl Fn(&[u32]) -> Result<String, TrainError>,
    most: usize,
) -> Result<(), TrainError> {
    let places = groups.iter().enumerate().flat_map(|(g, group)| (0..group.samples.len()).map(move |i| (g, i)));
    let line = |(g, i): (usize, usize)| -> Result<Line<'_>, TrainError> {
        let group = &groups[g];
        let sample = &group.samples[i];
        let terms = names.iter().zip(&sample.reward.scores).map(|(n, s)| ((*n).to_owned(), (*s).into())).collect();
        Ok(Line {
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
            credited: credited.rewards[g][i],
            advantage: credited.advantages[g][i],
        })
    };
    let lines = places.take(most).map(line).collect::<Result<Vec<_>, _>>()?;
    let path = path(run, step, "jsonl");
    jsonl::write(&path, &lines).map_err(|e| TrainError::File { path, message: e.to_string() })
}
