//! Sentence attribution: what each sentence of a summary earns from each judge in each domain.
//!
//! Each sentence is deleted in turn, and the judges predict the user's choices from the rest. What the sentence earns is the
//! probability of the choices with the whole summary, minus the probability without the sentence. Prompts put the summary before the
//! question, so the engine computes the text before the deleted sentence once (prefix caching).

use std::path::Path;

use evals::attribution::attribution_rows;
use evals::{EvalUser, ExplainedSummary, attribute, judge_tables};

use crate::error::Error;
use crate::judge_tools::{JudgeSetup, REQUESTS_PER_CALL, loaded};
use crate::parts;
use crate::reporter::Reporter;

/// Judges `summaries`, one for each of `users`, with and without each of their sentences. The judges ask in both orders of the items:
/// with one, deleting a sentence could change the order.
///
/// # Errors
/// Returns an error if a judge cannot be loaded or fails, or a user is invalid.
pub fn explain(
    setup: &JudgeSetup,
    users: &[EvalUser],
    summaries: &[String],
    reporter: &dyn Reporter,
) -> Result<Vec<ExplainedSummary>, Error> {
    let loaded = loaded::load(setup, true, reporter)?;
    let mut task = reporter.task("explain");
    let mut show = |words: &str, done: usize, total: usize| task.at(done as u64, total as u64, words);
    let explained =
        loaded::with_judges(&loaded, |judges| Ok(attribute(users, summaries, judges, REQUESTS_PER_CALL, &mut show)?))?;
    let sentences: usize = explained.iter().map(|summary| summary.sentences.len()).sum();
    task.done(&format!("{sentences} sentences of {} users, {} judges", users.len(), loaded.len()));
    Ok(explained)
}

/// Returns the attribution as text: a table by judge and domain, and one with the sentences of the first `shown` users.
pub fn tables(explained: &[ExplainedSummary], shown: usize) -> String {
    let rows = judge_tables::attribution(&attribution_rows(explained));
    match &explained[..shown.min(explained.len())] {
        [] => rows,
        first => format!("{rows}\n\n{}", judge_tables::sentences(first)),
    }
}

/// Writes the attribution as a JSON list. The report of a run shades the examples with the file [`report::EXPLAIN`] of its folder.
///
/// # Errors
/// Returns an error if the file cannot be written.
pub fn write(path: &Path, explained: &[ExplainedSummary]) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(explained).expect("strings and numbers always serialize");
    parts::write(path, &(text + "\n"))
}
