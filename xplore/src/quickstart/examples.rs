//! Example summaries before and after reinforcement learning, next to the user's true preferences.

use std::path::Path;

use chat::reasoning;
use evals::evaluation::Evaluation;
use evals::{EvalUser, Setting};
use report::{Example, records::Written};

use crate::error::Error;
use crate::parts;

/// Number of users shown.
const SHOWN: usize = 8;

/// Writes examples.json for the first held-out users, in the setting that reads the full history.
pub fn write(folder: &Path, users: &[EvalUser], evaluation: &Evaluation) -> Result<(), Error> {
    let written = |model: &str, uid: &str| {
        let summary = evaluation.summary(model, Setting::Full, uid)?;
        let reasoning = reasoning::split(&summary.response).map_or("", |parts| parts.reasoning);
        Some(Written { reasoning: reasoning.into(), summary: summary.summary.clone() })
    };
    let line = |i: &chat::Interaction| {
        let rejected = i.rejected.as_deref().map_or(String::new(), |r| format!(" rather than {r}"));
        format!("{}{}{rejected}", i.query.as_deref().map_or(String::new(), |q| format!("{q}: ")), i.chosen)
    };
    let examples: Vec<Example> = users
        .iter()
        .take(SHOWN)
        .map(|p| Example {
            uid: p.uid.clone(),
            truth: p.truth.clone().unwrap_or_default(),
            history: p.history.iter().map(line).collect(),
            sft: written("sft", &p.uid),
            rl: written("rl", &p.uid),
        })
        .collect();
    let text = serde_json::to_string_pretty(&examples).expect("strings and lists always serialize");
    parts::write(&folder.join("examples.json"), &text)
}
