//! Verified synthesis of SFT rows, as in AlignXplore+. A teacher reads part of a history together with a later choice
//! (unlabeled); a judge keeps the summaries that predict the choice; the teacher merges them; and the merged summary is
//! re-tested on the choices. This runs twice per user: on the first third of the history, then on the second third with
//! the first summary as the past summary.

mod stage;

use std::cell::Cell;

use chat::completer::CompleterError;
use chat::prompts::PromptError;
use chat::{Completer, HistoryItems, Message, PromptSet, Question, Sampling, SftRow, reasoning};
use configs::SynthesisConfig;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::signal::{ScoredHistory, Verify, VerifyError};
use crate::teach::record::TaughtUser;
pub use stage::StageReport;
use stage::{Part, STEPS, StageOutcome, Tools};

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
    /// The text between reasoning and summary in the answer to a merge prompt.
    pub separator: String,
    /// Whether a user whose request fails is left out. Otherwise the synthesis ends with the error.
    pub skip_failed: bool,
}

impl Default for SynthesisSettings {
    fn default() -> Self {
        Self {
            thresholds: SynthesisConfig::default(),
            seed: 42,
            least_third: 3,
            sampling: Sampling { temperature: 0.6, top_k: 20, top_p: 0.95, ..Sampling::all(4096) },
            users_per_batch: 1024,
            separator: PREFERENCE_SEPARATOR.into(),
            skip_failed: false,
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
    /// The teacher refuses a request about a user.
    #[error("user {uid}: the teacher refuses a request: {message}")]
    User {
        /// The user.
        uid: String,
        /// What is wrong with the request.
        message: String,
    },
    /// The judge does not answer.
    #[error("the verifier failed: {0}")]
    Verifier(CompleterError),
    /// The answers of the judge cannot be used.
    #[error(transparent)]
    Judge(#[from] VerifyError),
}

/// An answer of the verifier to a question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verification {
    /// The probability that it picks the user's choice; the summary predicts the choice if this is above 0.5.
    pub probability: f64,
    /// Whether the user's choice was shown first; `None` if it was shown in both orders.
    pub chosen_first: Option<bool>,
    /// Whether the verifier gave an answer.
    pub answered: bool,
}

/// The verifier as a function: for each question, its answer, or the error of the request. The outer error is that of a verifier
/// that fails as a whole.
pub type VerifyEach<'a> = &'a dyn Fn(&[Question]) -> Result<Vec<Result<Verification, String>>, CompleterError>;

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
    let answered = |probability| Ok(Verification { probability, chosen_first: None, answered: true });
    let verify = |questions: &[Question]| -> Result<Vec<Result<Verification, String>>, CompleterError> {
        Ok(verify(questions).map_err(CompleterError::Model)?.into_iter().map(answered).collect())
    };
    let synthesizer = Synthesizer { teacher, prompts, verify: &verify, settings: config };
    let (mut rows, mut report) = (Vec::new(), SynthesisReport::default());
    for batch in users.chunks(config.users_per_batch.max(1)) {
        let taught = synthesizer.batch(batch, &mut report, &|_| {})?;
        rows.extend(taught.into_iter().flat_map(|user| user.rows));
    }
    Ok((rows, report))
}

/// The models and rules of the synthesis.
pub(crate) struct Synthesizer<'a> {
    pub teacher: &'a dyn Completer,
    pub prompts: &'a PromptSet,
    pub verify: VerifyEach<'a>,
    pub settings: &'a SynthesisSettings,
}

/// A user with the rows of both stages, if the user passed them.
pub(crate) struct Taught {
    pub record: TaughtUser,
    pub rows: Vec<SftRow>,
}

impl Synthesizer<'_> {
    /// The number of steps of a batch that ask a model.
    pub const STEPS: usize = 2 * STEPS;

    /// Runs both stages for some users, whose requests are sent together, and adds to the report. `observe` is called after each of
    /// the [`Self::STEPS`] and after each answer of the teacher, with the number of finished steps.
    ///
    /// # Errors
    /// Same as [`synthesize`].
    pub fn batch(
        &self,
        users: &[ScoredHistory],
        report: &mut SynthesisReport,
        observe: &dyn Fn(usize),
    ) -> Result<Vec<Taught>, SynthesisError> {
        let settings = self.settings;
        let long = |user: &ScoredHistory| user.items().len() / 3 >= settings.least_third.max(1);
        let mut taught: Vec<Taught> = users.iter().map(Taught::new).collect();
        let mut members: Vec<usize> = (0..users.len()).filter(|&i| long(&users[i])).collect();
        report.users += users.len();
        report.too_short += users.len() - members.len();
        let mut past: Vec<Option<String>> = vec![None; users.len()];
        let steps = Cell::new(0);
        for stage in 0..2 {
            let entering = |&i: &usize| part(&users[i], stage, past[i].clone(), settings);
            let parts: Vec<Part<'_>> = members.iter().map(entering).collect();
            let Self { teacher, prompts, verify, settings: config } = *self;
            let step = |step: usize| {
                steps.set(stage * STEPS + step + 1);
                observe(steps.get());
            };
            let answered = || observe(steps.get());
            let tools = Tools { teacher, prompts, verify, config, observe: &step, answered: &answered };
            let outcomes = tools.run(&parts, if stage == 0 { &mut report.first } else { &mut report.second })?;
            let mut passed = Vec::new();
            for ((&i, part), StageOutcome { row, record, error }) in members.iter().zip(&parts).zip(outcomes) {
                let user = &mut taught[i];
                user.record.stages.push(record);
                user.record.error = error;
                if let Some(found) = row {
                    user.rows.push(sft_row(
                        prompts,
                        part.past.as_deref(),
                        part.read,
                        &found.reasoning,
                        &found.preference,
                    )?);
                    past[i] = Some(found.preference);
                    passed.push(i);
                }
            }
            members = passed;
        }
        for user in &mut taught {
            // A user has the rows of both stages or none.
            if user.rows.len() < 2 {
                user.rows.clear();
            }
            user.record.rows = user.rows.len();
            report.rows += user.rows.len();
        }
        Ok(taught)
    }
}

impl Taught {
    fn new(user: &ScoredHistory) -> Self {
        Self { record: TaughtUser { uid: user.uid.clone(), ..TaughtUser::default() }, rows: Vec::new() }
    }
}

/// Returns third number `stage` to read and the choices to predict: those of the next third, which is the last one with the remainder
/// in the second stage. Messages have no choices, so theirs are the targets of the user.
fn part<'a>(user: &'a ScoredHistory, stage: usize, past: Option<String>, config: &SynthesisSettings) -> Part<'a> {
    let items = user.items();
    let n = items.len();
    let third = n / 3;
    let (start, middle) = (stage * third, (stage + 1) * third);
    let end = if stage == 0 { middle + third } else { n };
    let (ahead, signals) = match items {
        HistoryItems::Interactions(all) => (&all[middle..end], &user.signals[middle..end]),
        HistoryItems::Messages(_) => (&user.targets[..], &user.target_signals[..]),
    };
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed ^ fingerprint(&user.uid));
    rng.set_stream(stage as u64);
    Part { uid: &user.uid, past, read: items.slice(start, middle), ahead, signals, rng }
}

/// Hashes a text with FNV-1a: a user's random stream depends on their name, not on their position in the file.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Returns the row that trains a model to write `reasoning` and the summary `preference` about `items`, given the past summary.
///
/// # Errors
/// Returns [`PromptError`] if the set has no `summarize` template or it does not render.
pub fn sft_row<'h>(
    prompts: &PromptSet,
    past: Option<&str>,
    items: impl Into<HistoryItems<'h>>,
    reasoning: &str,
    preference: &str,
) -> Result<SftRow, PromptError> {
    Ok(SftRow {
        prompt: prompts.summarize(past, items)?,
        completion: vec![Message::assistant(reasoning::join(reasoning, preference))],
    })
}

#[cfg(test)]
mod tests;
