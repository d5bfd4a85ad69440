//! The step `signal`: scores each choice with and without what is known of the user, by the scorer or by the judge.

mod scorer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use chat::jsonl;
use chat::prompts::NO_PAST;
use chat::records::{Checked, RowDefect, SignalRecord};
use chat::{History, HistoryItems, Interaction, Question, fields};
use configs::SynthStep;
use configs::synth::SignalBy;
use data_synth::scorer::tokens::ScorerTokens;
use data_synth::scorer::{self as scoring, ScorerSettings};
use data_synth::signal::{self, ScoredHistory};
use hub::HubSettings;
use serde::Deserialize;

use super::verifier::{self, Verifier};
use super::{StepContext, time_left};
use crate::error::Error;
use crate::{runtime, wording};

/// The number of users that the scorer scores together.
const SCORER_USERS: usize = 32;
/// The number of users about whose choices the judge is asked together. Each question may hold a whole history.
const JUDGE_USERS: usize = 8;

/// Returns the files that the step reads.
pub fn inputs(context: &StepContext<'_>) -> Vec<PathBuf> {
    let signal = &context.config.signal;
    let summaries = Some(&signal.summaries).filter(|path| signal.by == SignalBy::Judge && !path.as_os_str().is_empty());
    let histories = context.input_or(SynthStep::Import, "train.jsonl");
    std::iter::once(histories).chain(summaries.cloned()).collect()
}

/// Returns the files that the step writes.
pub fn outputs(context: &StepContext<'_>) -> Vec<PathBuf> {
    vec![context.of(SynthStep::Signal).join("scored.jsonl")]
}

/// Scores the histories, and writes them with a record for each choice. The scorer is trained first, unless `scorer.trained` names one
/// or an earlier run of the step trained it on the same rows.
///
/// # Errors
/// Returns an error if the histories cannot be read, a model cannot be loaded, trained or asked, a file cannot be written, or a stop
/// was requested.
pub fn run(context: &StepContext<'_>) -> Result<String, Error> {
    let histories = context.input_or(SynthStep::Import, "train.jsonl");
    let histories = hub::data(&histories, &HubSettings::from_environment())?;
    match context.config.signal.by {
        SignalBy::Scorer => by_scorer(context, &histories),
        SignalBy::Judge => by_judge(context, &histories),
    }
}

fn by_scorer(context: &StepContext<'_>, histories: &Path) -> Result<String, Error> {
    let config = context.config;
    let model = scorer::model(context, histories)?;
    let settings = ScorerSettings {
        seed: config.seed,
        max_interactions: config.signal.max_interactions,
        max_length: config.scorer.max_length.min(model.decoder.spec().context()),
    };
    let logprobs = |texts: &[ScorerTokens]| scorer::letter_logprobs(&model, texts);
    score_users(context, histories, SCORER_USERS, |users| {
        Ok(scoring::score(users, settings, &model.tokenizer, &logprobs)?)
    })
}

fn by_judge(context: &StepContext<'_>, histories: &Path) -> Result<String, Error> {
    let config = context.config;
    let summaries = match config.signal.summaries.as_os_str().is_empty() {
        true => None,
        false => Some(summaries(&config.signal.summaries)?),
    };
    let verifier = Verifier::load(context, SynthStep::Signal)?;
    let judge = verifier.judge()?;
    let verify = verifier::probabilities(&judge);
    let fits = |question: &Question| verifier.fits(&judge, question);
    let first = jsonl::stream::<History>(histories)?.next();
    let of_messages = matches!(first, Some(Ok((_, history))) if !history.messages.is_empty());
    let prompts = wording::of_histories(&config.prompts, std::slice::from_ref(&verifier.prompts), of_messages)?;
    let render = |items: HistoryItems<'_>| prompts.history(items).map_err(|e| e.to_string());
    score_users(context, histories, JUDGE_USERS, |users| {
        let latest = |history| signal::latest(history, config.signal.max_interactions);
        let users: Vec<History> = users.into_iter().map(latest).collect();
        Ok(match &summaries {
            Some(summaries) => signal::score(&users, &informed(&users, summaries)?, NO_PAST, &verify),
            None => signal::score_by_history(&users, &render, &fits, NO_PAST, &verify),
        }?)
    })
}

/// A summary of a user that the judge reads.
#[derive(Deserialize)]
struct SummaryRow {
    #[serde(alias = "userid", deserialize_with = "fields::user_id")]
    uid: String,
    summary: String,
}

impl Checked for SummaryRow {
    fn defect(&self) -> Option<RowDefect> {
        None
    }
}

/// Returns the summaries of a file by user id.
fn summaries(path: &Path) -> Result<HashMap<String, String>, Error> {
    let path = hub::data(path, &HubSettings::from_environment())?;
    let rows: Vec<SummaryRow> = jsonl::read(&path)?;
    Ok(rows.into_iter().map(|row| (row.uid, row.summary)).collect())
}

fn informed(users: &[History], summaries: &HashMap<String, String>) -> Result<Vec<String>, Error> {
    let of_user = |user: &History| {
        summaries.get(&user.uid).cloned().ok_or_else(|| {
            Error::data(format!(
                "signal.summaries has no summary of the user `{}`; add one for each user, or leave the key empty",
                user.uid
            ))
        })
    };
    users.iter().map(of_user).collect()
}

/// What was scored.
#[derive(Default)]
struct Counts {
    users: u64,
    scored: usize,
    /// Choices between two items that do not fit into a prompt.
    too_long: usize,
    /// Targets of messages that were not scored.
    targets: usize,
}

impl Counts {
    fn add(&mut self, history: &ScoredHistory) {
        self.users += 1;
        let open =
            |(choice, record): &(&Interaction, Option<SignalRecord>)| choice.rejected.is_some() && record.is_none();
        let unscored = history.choices().filter(open).count();
        match history.messages.is_empty() {
            true => self.too_long += unscored,
            false => self.targets += unscored,
        }
        self.scored += history.choices().filter(|(_, record)| record.is_some()).count();
    }

    /// Returns the numbers of choices without a record, by the reason, as words to append.
    fn unscored(&self, by: SignalBy) -> String {
        let (long, targets) = match by {
            SignalBy::Scorer => (self.too_long, self.targets),
            SignalBy::Judge => (self.too_long + self.targets, 0),
        };
        let long = if long > 0 { format!(", {long} not (too long)") } else { String::new() };
        let by_judge = "targets of messages, which signal.by = \"judge\" scores";
        if targets > 0 { format!("{long}, {targets} not ({by_judge})") } else { long }
    }
}

/// Scores the users of a file in batches with `score`, writes scored.jsonl, and returns a summary.
fn score_users(
    context: &StepContext<'_>,
    histories: &Path,
    users_per_batch: usize,
    mut score: impl FnMut(Vec<History>) -> Result<Vec<ScoredHistory>, Error>,
) -> Result<String, Error> {
    let total = jsonl::count(histories)? as u64;
    let mut task = context.reporter.task("signal");
    let (mut counts, begun) = (Counts::default(), Instant::now());
    // Within the file that is written, so that an earlier one remains if there is nothing to replace it with.
    jsonl::write_with::<ScoredHistory, Error>(&context.of(SynthStep::Signal).join("scored.jsonl"), |write| {
        let mut rows = jsonl::stream::<History>(histories)?.map(|row| row.map(|(_, history)| history));
        loop {
            if runtime::stop_requested() {
                return Err(Error::interrupted("stopped"));
            }
            let batch: Vec<History> = rows.by_ref().take(users_per_batch).collect::<Result<_, _>>()?;
            if batch.is_empty() {
                break;
            }
            for history in score(batch)? {
                counts.add(&history);
                write(&history)?;
            }
            let left = time_left(begun.elapsed(), counts.users, total);
            task.at(counts.users, total, &format!("{} choices scored{left}", counts.scored));
        }
        if counts.scored > 0 { Ok(()) } else { Err(nothing_scored(histories)) }
    })?;
    task.done(&format!("{} choices scored", counts.scored));
    let Counts { users, scored, .. } = counts;
    Ok(format!("{scored} choices of {users} users scored{}", counts.unscored(context.config.signal.by)))
}

fn nothing_scored(histories: &Path) -> Error {
    Error::data(format!(
        "{}: no choice was scored; expected choices with a `rejected` item that fit into the model's prompt (targets of messages need \
         signal.by = \"judge\")",
        histories.display()
    ))
}

#[cfg(test)]
mod tests;
