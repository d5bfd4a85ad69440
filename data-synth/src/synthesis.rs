//! Verified synthesis of SFT rows, as in AlignXplore+. A teacher reads part of a history together with a later choice
//! (unlabeled); a judge keeps the summaries that predict the choice; the teacher merges them; and the merged summary is
//! re-tested on the choices. This runs twice per user: on the first third of the history, then on the second third with
//! the first summary as the past summary.

mod stage;

use chat::completer::CompleterError;
use chat::prompts::PromptError;
use chat::{Completer, Interaction, Message, PromptSet, Sampling, SftRow, reasoning};
use configs::world::SynthesisConfig;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::signal::{ScoredHistory, Verify, VerifyError};
pub use stage::StageReport;
use stage::{Part, Tools};

/// The separator between reasoning and preference in the answer to a merge prompt.
pub const PREFERENCE_SEPARATOR: &str = "|PREFERENCE|";

/// Thresholds and sampling. The defaults are the published values.
#[derive(Clone, Debug, PartialEq)]
pub struct SynthesisSettings {
    /// The thresholds.
    pub thresholds: SynthesisConfig,
    /// The seed of target selection, item order and the teacher's sampling.
    pub seed: u64,
    /// The minimum number of interactions in a third; users with fewer are skipped.
    pub least_third: usize,
    /// The sampling parameters of the teacher.
    pub sampling: Sampling,
    /// The number of users processed at a time: each step sends one batch of teacher requests and judge questions.
    pub users_per_batch: usize,
}

impl Default for SynthesisSettings {
    fn default() -> Self {
        Self {
            thresholds: SynthesisConfig::default(),
            seed: 42,
            least_third: 3,
            sampling: Sampling { temperature: 0.6, top_k: 20, top_p: 0.95, ..Sampling::all(4096) },
            users_per_batch: 1024,
        }
    }
}

/// The numbers of users lost at each step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SynthesisReport {
    /// The number of users given.
    pub users: usize,
    /// The number of users whose thirds are too short.
    pub too_short: usize,
    /// The first stage: reads the first third, predicts choices of the second.
    pub first: StageReport,
    /// The second stage: reads the second third, predicts choices of the last.
    pub second: StageReport,
    /// The number of rows: two for each user who passed both stages.
    pub rows: usize,
}

/// The error that stopped synthesis.
#[derive(Debug, thiserror::Error)]
pub enum SynthesisError {
    /// A prompt does not render.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// The teacher does not answer.
    #[error("the teacher failed: {0}")]
    Teacher(#[from] CompleterError),
    /// The judge does not answer.
    #[error(transparent)]
    Judge(#[from] VerifyError),
}

/// Generates two rows for each user who passes both stages, in the order of `users`, and reports where users were lost.
/// The rows use the prompts of the set's `summarize` template, without the targets.
///
/// # Errors
/// Returns [`SynthesisError`] if a prompt does not render, or the teacher or the judge fails as a whole. A malformed
/// answer of the teacher only drops that candidate.
pub fn synthesize(
    users: &[ScoredHistory],
    teacher: &dyn Completer,
    prompts: &PromptSet,
    verify: Verify<'_>,
    config: &SynthesisSettings,
) -> Result<(Vec<SftRow>, SynthesisReport), SynthesisError> {
    let mut report = SynthesisReport { users: users.len(), ..SynthesisReport::default() };
    let tools = Tools { teacher, prompts, verify, config };
    let mut rows = Vec::new();
    for batch in users.chunks(config.users_per_batch.max(1)) {
        let long: Vec<&ScoredHistory> =
            batch.iter().filter(|p| p.interactions.len() / 3 >= config.least_third.max(1)).collect();
        report.too_short += batch.len() - long.len();

        let first: Vec<Part<'_>> = long.iter().map(|p| part(p, 0, None, config)).collect();
        let first_lessons = tools.run(&first, &mut report.first)?;
        let passed = first.iter().zip(&first_lessons).zip(&long).filter_map(|((f, l), p)| Some((f, l.as_ref()?, p)));
        let (mut second, mut openings) = (Vec::new(), Vec::new());
        for (first, lesson, user) in passed {
            second.push(part(user, 1, Some(lesson.preference.clone()), config));
            openings.push((first, lesson));
        }
        let second_lessons = tools.run(&second, &mut report.second)?;
        for ((part, lesson), (first, opening)) in second.iter().zip(second_lessons).zip(openings) {
            if let Some(lesson) = lesson {
                rows.push(row(first, &opening.reasoning, &opening.preference, prompts)?);
                rows.push(row(part, &lesson.reasoning, &lesson.preference, prompts)?);
            }
        }
    }
    report.rows = rows.len();
    Ok((rows, report))
}

/// Returns third number `stage` to read and the next one to predict; the last third includes the remainder.
fn part<'a>(user: &'a ScoredHistory, stage: usize, past: Option<String>, config: &SynthesisSettings) -> Part<'a> {
    let n = user.interactions.len();
    let third = n / 3;
    let (start, middle) = (stage * third, (stage + 1) * third);
    let end = if stage == 0 { middle + third } else { n };
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed ^ fingerprint(&user.uid));
    rng.set_stream(stage as u64);
    Part {
        past,
        read: &user.interactions[start..middle],
        ahead: &user.interactions[middle..end],
        signals: &user.signals[middle..end],
        rng,
    }
}

/// Hashes a text with FNV-1a: a user's random stream depends on their name, not on their position in the file.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn row(part: &Part<'_>, reasoning: &str, preference: &str, prompts: &PromptSet) -> Result<SftRow, PromptError> {
    sft_row(prompts, part.past.as_deref(), part.read, reasoning, preference)
}

/// Returns the row that trains a model to write `reasoning` and the summary `preference` about `interactions`, given the past
/// summary.
///
/// # Errors
/// Returns [`PromptError`] if the set has no `summarize` template or it does not render.
pub fn sft_row(
    prompts: &PromptSet,
    past: Option<&str>,
    interactions: &[Interaction],
    reasoning: &str,
    preference: &str,
) -> Result<SftRow, PromptError> {
    Ok(SftRow {
        prompt: prompts.summarize(past, interactions)?,
        completion: vec![Message::assistant(reasoning::join(reasoning, preference))],
    })
}

#[cfg(test)]
mod tests;
