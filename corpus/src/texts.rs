//! What rows say, for the training of a tokenizer.

use configs::sft::SftData;

use crate::open::sets;
use crate::{CorpusError, Row, raw, source};

/// Bytes of text beyond which a tokenizer learns nothing new.
const ENOUGH: usize = 64 << 20;

/// The texts of the rows to train on, in order, of all sets; of each set 64 MiB at most.
///
/// # Errors
/// A set that is not to be had, or a row of no known form.
pub fn texts(data: &SftData) -> Result<Vec<String>, CorpusError> {
    let mut texts = Vec::new();
    for set in sets(data) {
        let mut bytes = 0;
        for file in source::files(&set.path, &hub::Settings::from_environment())? {
            for raw in raw::open(&file)? {
                let raw = raw?;
                let row = Row::parse(&raw.json).map_err(|message| CorpusError::Row {
                    path: file.clone(),
                    place: raw.place,
                    message,
                })?;
                for text in said(row) {
                    bytes += text.len();
                    texts.push(text);
                }
                if bytes > ENOUGH {
                    break;
                }
            }
        }
    }
    Ok(texts)
}

fn said(row: Row) -> Vec<String> {
    match row {
        Row::Turns { prompt, completion } => prompt.into_iter().chain(completion).map(|m| m.content).collect(),
        Row::Continued { prompt, completion } => vec![prompt, completion],
        Row::Conversation { messages } => messages.into_iter().map(|m| m.content).collect(),
        Row::Text { text } | Row::Marked { text, .. } => vec![text],
    }
}
