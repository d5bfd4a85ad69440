//! What is written of a step's rollouts.

use std::path::Path;

use chat::{RlRow, jsonl};
use serde::Serialize;

use super::reward::Scored;
use super::rollout::Group;
use crate::TrainError;

#[derive(Serialize)]
struct Line<'a> {
    step: u64,
    uid: &'a str,
    stage: usize,
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

/// A step's rollouts with everything that was made of them.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    /// The step, from 1.
    pub step: u64,
    /// Its people.
    pub people: &'a [&'a RlRow],
    /// Their samples.
    pub groups: &'a [Group<'a>],
    /// Rewards and advantages of the samples.
    pub scored: &'a Scored,
    /// Names of the reward's terms.
    pub names: &'a [&'static str],
}

/// Writes up to `max_rows` samples of a step, whole groups in order, to rollouts/step-N.jsonl.
///
/// # Errors
/// If the file cannot be written.
pub fn write(
    folder: &Path,
    Step { step, people, groups, scored, names }: Step<'_>,
    decode: impl Fn(&[u32]) -> Result<String, TrainError>,
    max_rows: usize,
) -> Result<(), TrainError> {
    let mut lines = Vec::new();
    'all: for (g, group) in groups.iter().enumerate() {
        for (i, sample) in group.samples.iter().enumerate() {
            if lines.len() == max_rows {
                break 'all;
            }
            let reward = &scored.rewards[g][i];
            let terms = names.iter().zip(&reward.scores).map(|(n, s)| ((*n).to_owned(), (*s).into())).collect();
            lines.push(Line {
                step,
                uid: &people[group.person].uid,
                stage: group.stage,
                sample: i,
                picked: group.picked == Some(i),
                prompt: decode(&group.prompt)?,
                response: &sample.text,
                truncated: sample.truncated,
                terms,
                reward: reward.total,
                credited: scored.credited[g][i],
                advantage: scored.advantages[g][i],
            });
        }
    }
    let path = folder.join("rollouts").join(format!("step-{step:06}.jsonl"));
    jsonl::write(&path, &lines).map_err(|e| TrainError::File { path, message: e.to_string() })
}
