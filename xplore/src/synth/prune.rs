//! The step `prune`: selects the choices that become targets of RL, and writes RL rows.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Instant;

use chat::jsonl;
use chat::prompt_manifest::PromptTask;
use configs::SynthStep;
use configs::synth::PruneBy;
use data_synth::prune::policy::{PolicyJob, prune_by_policy};
use data_synth::rl_rows::PruningReport;
use hub::HubSettings;

use super::verifier::{self, Policy};
use super::{StepContext, time_left};
use crate::error::Error;
use crate::{parts, wording};

/// Returns the files that the step reads.
pub fn inputs(context: &StepContext<'_>) -> Vec<PathBuf> {
    vec![context.input_or(SynthStep::Signal, "scored.jsonl")]
}

/// Returns the files that the step writes.
pub fn outputs(context: &StepContext<'_>) -> Vec<PathBuf> {
    let folder = context.of(SynthStep::Prune);
    vec![folder.join("rl.jsonl"), folder.join("report.json")]
}

/// Selects two targets of each user where the rule allows it, and writes the RL rows with a report of what each rule left.
///
/// # Errors
/// Returns an error if the scored histories cannot be read, a model cannot be loaded or asked, a file cannot be written, or no user
/// remains.
pub fn run(context: &StepContext<'_>) -> Result<String, Error> {
    let scored = context.input_or(SynthStep::Signal, "scored.jsonl");
    let scored = hub::data(&scored, &HubSettings::from_environment())?;
    let config = &context.config.prune;
    let folder = context.of(SynthStep::Prune);
    let rows = folder.join("rl.jsonl");
    let report = match config.by {
        PruneBy::Signal => data_synth::prune::prune(&scored, &rows, &config.thresholds)?,
        PruneBy::Policy => by_policy(context, &scored, &rows)?,
    };
    let text = serde_json::to_string_pretty(&report).expect("numbers are JSON");
    parts::write(&folder.join("report.json"), &format!("{text}\n"))?;
    match report.rows {
        0 => Err(Error::data(format!("{}: no user remains: {}; {}", scored.display(), counts(&report), fix(&report)))),
        rows => Ok(format!("{rows} RL rows of {}", counts(&report))),
    }
}

fn by_policy(context: &StepContext<'_>, scored: &Path, rows: &Path) -> Result<PruningReport, Error> {
    let config = context.config;
    let policy = &config.prune.policy;
    let prompts = wording::of_model(&config.prompts, &policy.model.path, PromptTask::Summarize)?;
    let (Policy { model, room }, verifier) = verifier::with_policy(context)?;
    let judge = verifier.judge()?;
    let verify = verifier::probabilities(&judge);
    let total = jsonl::count(scored)? as u64;
    let (task, begun) = (RefCell::new(context.reporter.task("prune")), Instant::now());
    let progress = |users: usize| {
        let users = users as u64;
        task.borrow_mut().at(users, total, &format!("users measured{}", time_left(begun.elapsed(), users, total)));
    };
    let report = prune_by_policy(
        scored,
        rows,
        &PolicyJob {
            policy: &*model,
            prompts: &prompts,
            sampling: parts::sampling(&policy.sampling),
            fits: &|messages| room.fits(messages),
            verify: &verify,
            config: policy,
            least_window: config.prune.thresholds.least_window,
            seed: config.seed,
            progress: &progress,
        },
    )?;
    task.into_inner().done(&format!("{} choices measured", report.choices));
    Ok(report)
}

/// Returns what each rule left, in one line.
fn counts(report: &PruningReport) -> String {
    let PruningReport { users, choices, with_signal, solvable, in_band, policy, .. } = report;
    match policy {
        Some(counts) => {
            let of = |count: usize, what: &str| if count > 0 { format!("; {count} {what}") } else { String::new() };
            format!(
                "{users} users; of {choices} measured choices, {} are too hard, {} too easy, {in_band} in between{}{}",
                counts.too_hard,
                counts.too_easy,
                of(counts.too_long, "choices do not fit into the policy's context"),
                of(counts.malformed, &format!("of {} summaries are malformed", counts.summaries)),
            )
        }
        None => format!(
            "{users} users; of {choices} scored choices, {with_signal} have enough signal, {solvable} are solvable, {in_band} are in \
             the band"
        ),
    }
}

/// Returns what to change if no user remains.
fn fix(report: &PruningReport) -> &'static str {
    match &report.policy {
        None => {
            "raise prune.thresholds.most_signal or band_width, lower least_probability or least_window, or import more users"
        }
        Some(counts) if 2 * counts.malformed > counts.summaries => {
            "the policy must write `<think>…</think>` and a summary: check prompts and prune.policy.model, or raise \
             prune.policy.sampling.max_new_tokens"
        }
        Some(counts) if counts.too_long > report.choices => {
            "name a policy with a longer context, or lower prune.policy.sampling.max_new_tokens"
        }
        Some(_) => "widen prune.policy.pass_rate, raise targets_per_user, or import more users",
    }
}

#[cfg(test)]
mod tests;
