//! Recovers prompt templates from rows that unknown templates rendered.
//!
//! Where the values of rows are known, the constant texts are what remains (`known`, `flat`). Where they are not, the
//! constant texts are those that all rows share, and the repeated block is made of those that occur equally often
//! (`infer`). What the rows leave open is reported and not guessed (`doubt`). A template is returned only if it
//! rebuilds every row byte for byte.

mod absent;
mod block;
mod constants;
mod doubt;
mod emit;
mod error;
mod flat;
mod gaps;
mod infer;
mod known;
mod naming;
mod parse;
mod reading;
mod rows;
mod shape;
mod spans;

use std::collections::BTreeMap;
use std::path::Path;

use chat::prompts::NO_PAST;
use chat::{Message, PromptSet};

use self::block::KnownRow;
use self::emit::emit;
pub use self::error::RecoverError;
use self::parse::{Parsed, parse};
use self::rows::Values;
pub use self::rows::{PromptSample, read, read_examples};
use self::shape::{Field, Piece, TURN, TemplateShape, ValueSlot};

/// How many rows templates are derived from, at first and if those leave something open. All rows are compared
/// afterwards.
const SAMPLES: [usize; 2] = [16, 256];

/// How often rows that a template does not rebuild are added to those that it is derived from.
const ROUNDS: usize = 8;

/// How many rows are added each time.
const ADDED: usize = 4;

/// How many rows are searched for values that share a text.
const DOUBTED: usize = 2000;

/// Templates that rebuild all rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The templates by file name.
    pub templates: BTreeMap<String, String>,
    /// The number of prompts that the templates rebuild.
    pub prompts: usize,
    /// What the rows do not show.
    pub notes: Vec<String>,
}

impl Recovered {
    /// Writes the templates to a folder, which is then a prompt set.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be written, or has a template of a turn that the rows do not have.
    pub fn write(&self, folder: &Path) -> Result<(), RecoverError> {
        for name in self.templates.keys() {
            let system = name.replace(".j2", ".system.j2");
            if folder.join(&system).exists() && !self.templates.contains_key(&system) {
                let message = format!("has {system}, but the rows have no system turn; choose another folder");
                return Err(RecoverError::Row { place: folder.display().to_string(), message });
            }
        }
        for (name, text) in &self.templates {
            let path = folder.join(name);
            files::replace(&path, |out| out.write_all(text.as_bytes()))
                .map_err(|source| RecoverError::Write { path, source })?;
        }
        Ok(())
    }
}

/// Recovers the templates that rendered prompts: `summarize.j2`, and `judge.j2` for prompts with the values of a
/// judge's question.
///
/// # Errors
/// Returns [`RecoverError::Ambiguous`] if the rows have several equally good readings, and [`RecoverError::Differs`]
/// with the first row that the templates do not rebuild.
pub fn recover(samples: &[PromptSample]) -> Result<Recovered, RecoverError> {
    let is_judge = |sample: &&PromptSample| matches!(sample.values, Some(Values::Judge { .. }));
    let (judged, summarized): (Vec<&PromptSample>, Vec<&PromptSample>) = samples.iter().partition(is_judge);
    let mut recovered = Recovered { templates: BTreeMap::new(), prompts: samples.len(), notes: Vec::new() };
    for (task, samples) in [("summarize", summarized), ("judge", judged)] {
        if samples.is_empty() {
            continue;
        }
        same_turns(&samples)?;
        let shape = derive(task, &samples)?;
        recovered.templates.extend(emit(&shape, task));
        if task == "summarize" {
            recovered.notes.extend(notes(&shape));
        }
    }
    Ok(recovered)
}

/// Checks that all prompts have a system turn, or none has.
fn same_turns(samples: &[&PromptSample]) -> Result<(), RecoverError> {
    let first = samples[0].text.contains(TURN);
    match samples.iter().find(|sample| sample.text.contains(TURN) != first) {
        None => Ok(()),
        Some(other) => {
            let (with, without) = if first { (samples[0], *other) } else { (*other, samples[0]) };
            let message =
                format!("has a system turn, {} has none; pass only rows that one template rendered", without.place);
            Err(RecoverError::Row { place: with.place.clone(), message })
        }
    }
}

/// Derives the template of a task from more rows where few leave something open.
fn derive(task: &str, samples: &[&PromptSample]) -> Result<TemplateShape, RecoverError> {
    // Rows with values tell more than any number of rows without.
    let known: Vec<usize> = (0..samples.len()).filter(|index| samples[*index].values.is_some()).collect();
    let pool = if known.is_empty() { (0..samples.len()).collect() } else { known };
    let mut last = None;
    for count in SAMPLES {
        match refine(task, samples, spread(samples, &pool, count)) {
            Err(error @ RecoverError::Ambiguous { .. }) => last = Some(error),
            result => return result,
        }
        if count >= pool.len() {
            break;
        }
    }
    // The loop ends without a result only after an error.
    Err(last.unwrap_or_else(|| RecoverError::ambiguous("which template rendered them", &samples[0].text)))
}

/// Derives a template from the rows `chosen`, compares it with all rows, and adds those that it does not rebuild.
fn refine(task: &str, samples: &[&PromptSample], mut chosen: Vec<usize>) -> Result<TemplateShape, RecoverError> {
    let mut failure: Option<RecoverError> = None;
    for _ in 0..ROUNDS {
        let rows: Vec<&PromptSample> = chosen.iter().map(|index| samples[*index]).collect();
        let shape = match template(task, &rows) {
            Ok(shape) => shape,
            Err(error) => return Err(failure.unwrap_or(error)),
        };
        let set = PromptSet::new("recovered", &emit(&shape, task))?;
        let mut parsed = Vec::new();
        let mut added = Vec::new();
        let mut first = None;
        for (index, sample) in samples.iter().enumerate() {
            match rebuild(&set, &shape, sample) {
                Ok(values) if parsed.len() < DOUBTED => parsed.extend(values),
                Ok(_) => {}
                Err(error) => {
                    first.get_or_insert(error);
                    added.push(index);
                    if added.len() == ADDED {
                        break;
                    }
                }
            }
        }
        let Some(error) = first else {
            // Known values leave nothing open beside the slots.
            if rows.iter().all(|row| row.values.is_none()) {
                doubt::check(&shape, &parsed)?;
            }
            return Ok(shape);
        };
        added.retain(|index| !chosen.contains(index) && samples[*index].values.is_some() == rows[0].values.is_some());
        if added.is_empty() {
            return Err(error);
        }
        failure = Some(error);
        added.extend(chosen);
        chosen = added;
    }
    // Every round but the one that returns sets it.
    Err(failure.unwrap_or_else(|| RecoverError::ambiguous("which template rendered them", &samples[0].text)))
}

/// Derives a template from rows.
fn template(task: &str, rows: &[&PromptSample]) -> Result<TemplateShape, RecoverError> {
    if task == "judge" {
        let rows: Vec<flat::JudgeRow<'_>> = rows.iter().filter_map(|row| judge_row(row)).collect();
        return flat::derive(&rows);
    }
    let known: Vec<KnownRow<'_>> = rows.iter().filter_map(|row| known_row(row)).collect();
    if !known.is_empty() {
        return known::derive(&known);
    }
    let texts: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
    infer::infer(&texts)
}

fn known_row(sample: &PromptSample) -> Option<KnownRow<'_>> {
    let Some(Values::Summarize { past, interactions }) = &sample.values else { return None };
    let past = past.as_deref().unwrap_or(NO_PAST);
    Some(KnownRow { place: &sample.place, text: &sample.text, past, items: interactions })
}

fn judge_row(sample: &PromptSample) -> Option<flat::JudgeRow<'_>> {
    let Some(Values::Judge { query, preference, item_a, item_b }) = &sample.values else { return None };
    let query = query.as_deref().filter(|query| !query.is_empty());
    let values = [query, Some(preference.as_str()), Some(item_a.as_str()), Some(item_b.as_str())];
    Some(flat::JudgeRow { place: &sample.place, text: &sample.text, values })
}

/// Renders a row from its values, which are parsed from it if they are not known. Returns the parsed values.
fn rebuild(set: &PromptSet, shape: &TemplateShape, sample: &PromptSample) -> Result<Option<Parsed>, RecoverError> {
    let mut parsed = None;
    let messages = match &sample.values {
        Some(Values::Judge { query, preference, item_a, item_b }) => {
            set.judge(query.as_deref(), preference, item_a, item_b)?
        }
        Some(Values::Summarize { past, interactions }) => set.summarize(past.as_deref(), interactions)?,
        None => {
            let values = parse(shape, &sample.text)
                .map_err(|found| RecoverError::differs(&sample.place, &sample.text, found.at, &found.expected))?;
            parsed.insert(values).render(set)?
        }
    };
    let texts: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
    let text = texts.join(&TURN.to_string());
    if text == sample.text {
        return Ok(parsed);
    }
    let same = text.char_indices().zip(sample.text.chars()).find(|((_, a), b)| a != b);
    let position = same.map_or(text.len().min(sample.text.len()), |((at, _), _)| at);
    Err(RecoverError::differs(&sample.place, &sample.text, position, &text[position..]))
}

impl Parsed {
    fn render(&self, set: &PromptSet) -> Result<Vec<Message>, RecoverError> {
        Ok(set.summarize(self.past.as_deref(), &self.interactions)?)
    }
}

/// Chooses rows of all lengths, without repetitions.
fn spread(samples: &[&PromptSample], pool: &[usize], count: usize) -> Vec<usize> {
    let text = |index: &usize| samples[*index].text.as_str();
    let mut pool = pool.to_vec();
    pool.sort_by_key(|index| (text(index).len(), text(index)));
    pool.dedup_by(|a, b| samples[*a].text == samples[*b].text);
    if pool.len() <= count {
        return pool;
    }
    (0..count).map(|place| pool[place * (pool.len() - 1) / (count - 1)]).collect()
}

/// Returns what the rows do not show, and the template therefore cannot have.
fn notes(shape: &TemplateShape) -> Vec<String> {
    let mut notes = Vec::new();
    if !shape.has_outer(Field::Past) {
        notes.push(
            "no slot for the past summary: the rows have no text that varies outside of the interactions".to_string(),
        );
    }
    let body = shape.items.iter().flat_map(|items| &items.body);
    let slots: Vec<&ValueSlot> = body
        .filter_map(|piece| match piece {
            Piece::Slot(slot) => Some(slot),
            Piece::Text(_) => None,
        })
        .collect();
    for field in [Field::Query, Field::Rejected] {
        let name = field.name();
        match slots.iter().find(|slot| slot.field == field) {
            None => notes.push(format!("no slot for `{name}`: the rows have none, or the same one everywhere")),
            Some(ValueSlot { absent: None, .. }) => {
                notes.push(format!("no row lacks `{name}`: for one without, edit the template"));
            }
            Some(_) => {}
        }
    }
    notes
}
