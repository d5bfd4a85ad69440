//! Verified synthesis of SFT rows, as AlignXplore+ has it: a teacher reads part of a history with a later choice in view
//! (unlabelled), a judge keeps the summaries that predict the choice, the teacher merges them, and the merged summary is
//! tested again on the choices. Twice a person: on the first third of the history, then on the second with the first
//! summary as the past.

mod stage;

use chat::completer::CompleterError;
use chat::prompts::PromptError;
use chat::{Completer, Message, PromptSet, Sampling, SftRow, reasoning};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::signal::{JudgeError, ScoredHistory, Verify};
pub use stage::StageReport;
use stage::{Part, Tools};

/// What parts reasoning from preference in a merge's answer.
pub const PREFERENCE_SEPARATOR: &str = "|PREFERENCE|";

/// Thresholds and sampling. The defaults are the published values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SynthesisConfig {
    /// Seed of target choice, item order and the teacher's draws.
    pub seed: u64,
    /// Fewest interactions in a third; people with less are left out.
    pub least_third: usize,
    /// A choice is a target if the informed judge gives it more than this probability.
    pub target_probability: f64,
    /// Most targets of a stage.
    pub most_targets: usize,
    /// Fewest targets of a stage.
    pub least_targets: usize,
    /// Fewest candidate summaries that must predict their target.
    pub least_correct: usize,
    /// Fraction of the predicted targets that the merged summary must predict too.
    pub retest: f64,
    /// How the teacher's tokens are drawn.
    pub sampling: Sampling,
    /// How many people are worked on at a time: one batch of teacher requests and judge questions each step.
    pub people_a_batch: usize,
}

impl Default for SynthesisConfig {
    fn default() -> Self {
        Self {
            seed: 42,
            least_third: 3,
            target_probability: 0.9,
            most_targets: 5,
            least_targets: 4,
            least_correct: 3,
            retest: 0.8,
            sampling: Sampling { temperature: 0.6, top_k: 20, top_p: 0.95, ..Sampling::all(4096) },
            people_a_batch: 1024,
        }
    }
}

/// Where people were lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SynthesisReport {
    /// People given.
    pub people: usize,
    /// People whose thirds are too short.
    pub too_short: usize,
    /// First third read, second third predicted.
    pub first: StageReport,
    /// Second third read, last third predicted.
    pub second: StageReport,
    /// Rows made: two for each person who passed both stages.
    pub rows: usize,
}

/// Why synthesis stopped.
#[derive(Debug, thiserror::Error)]
pub enum SynthesisError {
    /// A prompt cannot be made.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// The teacher cannot answer.
    #[error("the teacher cannot answer: {0}")]
    Teacher(#[from] CompleterError),
    /// The judge cannot answer.
    #[error(transparent)]
    Judge(#[from] JudgeError),
}

/// Makes two rows for each person who passes both stages, in the order of `people`, and says who was lost where.
/// The rows' prompts are those of the set's `summarize`, without the targets.
///
/// # Errors
/// [`SynthesisError`] if a prompt does not render, or the teacher or the judge fails as a whole; a teacher's malformed
/// answer only costs that candidate.
pub fn synthesize(
    people: &[ScoredHistory],
    teacher: &dyn Completer,
    prompts: &PromptSet,
    verify: Verify<'_>,
    config: &SynthesisConfig,
) -> Result<(Vec<SftRow>, SynthesisReport), SynthesisError> {
    let mut report = SynthesisReport { people: people.len(), ..SynthesisReport::default() };
    let tools = Tools { teacher, prompts, verify, config };
    let mut rows = Vec::new();
    for batch in people.chunks(config.people_a_batch.max(1)) {
        let long: Vec<&ScoredHistory> =
            batch.iter().filter(|p| p.interactions.len() / 3 >= config.least_third.max(1)).collect();
        report.too_short += batch.len() - long.len();

        let first: Vec<Part<'_>> = long.iter().map(|p| part(p, 0, None, config)).collect();
        let first_lessons = tools.run(&first, &mut report.first)?;
        let passed = first.iter().zip(&first_lessons).zip(&long).filter_map(|((f, l), p)| Some((f, l.as_ref()?, p)));
        let (mut second, mut openings) = (Vec::new(), Vec::new());
        for (first, lesson, person) in passed {
            second.push(part(person, 1, Some(lesson.preference.clone()), config));
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

/// Third number `stage` to read, the next one to predict; the last third takes the remainder.
fn part<'a>(person: &'a ScoredHistory, stage: usize, past: Option<String>, config: &SynthesisConfig) -> Part<'a> {
    let n = person.interactions.len();
    let third = n / 3;
    let (start, middle) = (stage * third, (stage + 1) * third);
    let end = if stage == 0 { middle + third } else { n };
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed ^ fingerprint(&person.uid));
    rng.set_stream(stage as u64);
    Part {
        past,
        read: &person.interactions[start..middle],
        ahead: &person.interactions[middle..end],
        signals: &person.signals[middle..end],
        rng,
    }
}

/// FNV-1a: a person's random stream depends on their name, not on their place in the file.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn row(part: &Part<'_>, reasoning: &str, preference: &str, prompts: &PromptSet) -> Result<SftRow, PromptError> {
    Ok(SftRow {
        prompt: prompts.summarize(part.past.as_deref(), part.read)?,
        completion: vec![Message::assistant(reasoning::join(reasoning, preference))],
    })
}

#[cfg(test)]
mod tests;
