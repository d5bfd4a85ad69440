//! Pruning by the pass rate of a policy: a curriculum of choices that some, but not all, of its summaries predict.

use std::path::Path;

use chat::jsonl::{self, JsonlError};
use chat::prompts::PromptError;
use chat::{
    Completer, CompletionRequest, Draw, History, HistoryItems, Interaction, Message, PromptSet, RlRow, Sampling,
    reasoning,
};
use configs::synth::PolicyPruning;

use super::rule::{self, Pair, ScoredChoice};
use super::{PruneError, RowKind, kind, number, row};
use crate::rl_rows::{PolicyCounts, PruningReport};
use crate::signal::{ScoredHistory, Verify, ask, question};

/// The number of users whose summaries are generated together.
const USERS_PER_BATCH: usize = 32;

/// A policy, and the judge that its summaries have to convince.
#[derive(Clone)]
pub struct PolicyJob<'a> {
    /// The policy.
    pub policy: &'a dyn Completer,
    /// The prompts of the policy.
    pub prompts: &'a PromptSet,
    /// Sampling of the summaries.
    pub sampling: Sampling,
    /// Returns whether a prompt leaves room for a summary in the policy's context.
    pub fits: &'a dyn Fn(&[Message]) -> bool,
    /// The judge. A summary predicts a choice if its probability is above 0.5.
    pub verify: Verify<'a>,
    /// The numbers of choices and summaries, and the pass rates to keep.
    pub config: &'a PolicyPruning,
    /// The minimum number of interactions before a target, and between two.
    pub least_window: usize,
    /// The seed of the choices that are measured, and of the summaries.
    pub seed: u64,
    /// Called with the number of users that are done.
    pub progress: &'a dyn Fn(usize),
}

/// What the policy reads of a user, and the choices that its summaries of it have to predict.
struct Reading<'a> {
    user: usize,
    items: HistoryItems<'a>,
    positions: Vec<usize>,
}

/// Measures up to `targets_per_user` choices of each user in `input`, and writes to `out` the RL rows of those with two targets whose
/// pass rate is in the range: those nearest to the middle of the range, the earlier one first if two are as near. The file holds
/// histories, scored or not. It is read once, a batch of users at a time. Of a history that is too long for the policy, the later half
/// is read, as in an evaluation.
///
/// # Errors
/// Returns [`PruneError`] if a file cannot be read or written, a row is not valid, or the policy or the judge fails.
pub fn prune_by_policy(input: &Path, out: &Path, job: &PolicyJob<'_>) -> Result<PruningReport, PruneError> {
    let kind = kind(input)?;
    let mut report = PruningReport::default();
    let mut counts = PolicyCounts { by_passes: vec![0; job.config.num_generations + 1], ..PolicyCounts::default() };
    jsonl::write_with::<RlRow, PruneError>(out, |write| {
        let mut rows = histories(input, kind)?;
        loop {
            let batch: Vec<ScoredHistory> = rows.by_ref().take(USERS_PER_BATCH).collect::<Result<_, _>>()?;
            if batch.is_empty() {
                break;
            }
            batch.iter().for_each(|history| report.count(history));
            let measured = measure(&batch, job, &mut counts)?;
            for (history, passes) in batch.into_iter().zip(measured) {
                report.choices += passes.len();
                if let Some(pair) = targets(&history, &passes, job, &mut report, &mut counts) {
                    report.rows += 1;
                    write(&row::of_history(history, &pair))?;
                }
            }
            (job.progress)(report.users);
        }
        Ok(())
    })?;
    report.policy = Some(counts);
    Ok(report)
}

/// A stream of histories.
type Histories<'a> = Box<dyn Iterator<Item = Result<ScoredHistory, JsonlError>> + 'a>;

/// Returns the histories of a file; those that were not scored get no records.
fn histories(input: &Path, kind: RowKind) -> Result<Histories<'_>, PruneError> {
    let unscored = |(_, history): (usize, History)| {
        let records = vec![None; history.choices().len()];
        ScoredHistory::new(history, records)
    };
    match kind {
        RowKind::Scored => {
            Ok(Box::new(jsonl::stream::<ScoredHistory>(input)?.map(|row| row.map(|(_, history)| history))))
        }
        RowKind::Histories => Ok(Box::new(jsonl::stream::<History>(input)?.map(move |row| row.map(unscored)))),
        RowKind::Flat => Err(PruneError::Unknown {
            path: input.into(),
            found: "original_history_item of a flat record".into(),
            expected: "histories (`interactions` or `messages`), which a policy can read",
        }),
    }
}

/// Returns, for each user of a batch, the positions of the measured choices and the numbers of summaries that predict them.
fn measure(
    batch: &[ScoredHistory],
    job: &PolicyJob<'_>,
    counts: &mut PolicyCounts,
) -> Result<Vec<Vec<(usize, usize)>>, PruneError> {
    let (mut read, mut requests) = (Vec::new(), Vec::new());
    for reading in batch.iter().enumerate().flat_map(|(user, history)| readings(user, history, job)) {
        let Reading { user, items, positions } = &reading;
        let Some(messages) = prompt(*items, job)? else {
            counts.too_long += positions.len();
            continue;
        };
        let draw = Draw::new(job.seed).text("policy summary").text(&batch[*user].uid).with(positions[0] as u64);
        requests.extend((0..job.config.num_generations).map(|sample| CompletionRequest {
            seed: draw.with(sample as u64).bits(),
            ..CompletionRequest::new(messages.clone(), job.sampling.clone())
        }));
        read.push(reading);
    }
    let completions = job.policy.complete(&requests)?;
    let mut questions = Vec::new();
    // For each question, the user and the choice.
    let mut about = Vec::new();
    for (reading, summaries) in read.iter().zip(completions.chunks(job.config.num_generations)) {
        let choices: Vec<&Interaction> = batch[reading.user].choices().map(|(choice, _)| choice).collect();
        for completion in summaries {
            counts.summaries += 1;
            let Some(parts) = reasoning::split(&completion.text) else {
                counts.malformed += 1;
                continue;
            };
            for &position in &reading.positions {
                questions.extend(question(choices[position], parts.summary));
                about.push((reading.user, position));
            }
        }
    }
    let answers = ask(job.verify, &questions)?;
    let mut measured: Vec<Vec<(usize, usize)>> = batch.iter().map(|_| Vec::new()).collect();
    for Reading { user, positions, .. } in &read {
        measured[*user].extend(positions.iter().map(|&position| (position, 0)));
    }
    for ((user, position), p) in about.into_iter().zip(answers) {
        let passes = measured[user].iter_mut().find(|(measured, _)| *measured == position);
        if let Some((_, passes)) = passes.filter(|_| p > 0.5) {
            *passes += 1;
        }
    }
    Ok(measured)
}

/// Returns the prompt of the latest interactions or messages that fit; `None` if not even one does.
fn prompt(items: HistoryItems<'_>, job: &PolicyJob<'_>) -> Result<Option<Vec<Message>>, PromptError> {
    let mut kept = items;
    loop {
        let messages = job.prompts.summarize(None, kept)?;
        if (job.fits)(&messages) {
            return Ok(Some(messages));
        }
        if kept.len() <= 1 {
            return Ok(None);
        }
        kept = kept.latest(kept.len() / 2);
    }
}

/// Returns what the policy reads of a user: the interactions before each of the measured choices, or once all messages.
fn readings<'a>(user: usize, history: &'a ScoredHistory, job: &PolicyJob<'_>) -> Vec<Reading<'a>> {
    let items = history.items();
    let of_messages = !history.messages.is_empty();
    let before = if of_messages { 0 } else { job.least_window.max(1) };
    let choices = history.choices().enumerate().skip(before);
    let mut positions: Vec<usize> = choices.filter(|(_, (c, _))| c.rejected.is_some()).map(|(i, _)| i).collect();
    let draw = Draw::new(job.seed).text("policy target").text(&history.uid);
    positions.sort_by_key(|&position| draw.with(position as u64).bits());
    positions.truncate(job.config.targets_per_user);
    positions.sort_unstable();
    match (of_messages, positions.is_empty()) {
        (_, true) => Vec::new(),
        (true, false) => vec![Reading { user, items, positions }],
        (false, false) => {
            let reading = |position| Reading { user, items: items.slice(0, position), positions: vec![position] };
            positions.into_iter().map(reading).collect()
        }
    }
}

/// Returns the two targets of a user, if there are two with a pass rate in the range.
fn targets(
    history: &ScoredHistory,
    passes: &[(usize, usize)],
    job: &PolicyJob<'_>,
    report: &mut PruningReport,
    counts: &mut PolicyCounts,
) -> Option<Pair> {
    let [low, high] = job.config.pass_rate;
    let rate = |passed: usize| passed as f64 / job.config.num_generations as f64;
    // In whole billionths, because the distances of rates that are as near, such as 0.3 and 0.7, differ in their last bits.
    let distance = |passed: usize| ((rate(passed) - (low + high) / 2.0).abs() * 1e9).round() as u64;
    let mut inside: Vec<(usize, usize)> = Vec::new();
    for &(position, passed) in passes {
        counts.by_passes[passed] += 1;
        counts.too_hard += usize::from(rate(passed) < low);
        counts.too_easy += usize::from(rate(passed) > high);
        inside.extend((low..=high).contains(&rate(passed)).then_some((position, passed)));
    }
    report.in_band += inside.len();
    inside.sort_by_key(|&(position, passed)| (distance(passed), position));
    let records: Vec<_> = history.choices().map(|(_, record)| record.unwrap_or_default()).collect();
    let candidate = |(position, _): (usize, usize)| ScoredChoice {
        user: 0,
        position: number(position),
        first: number(position),
        record: records[position],
    };
    let candidates: Vec<ScoredChoice> = inside.into_iter().map(candidate).collect();
    match history.messages.is_empty() {
        true => rule::pair(&candidates, job.least_window),
        false => rule::best_two(&candidates),
    }
}

#[cfg(test)]
mod tests;
