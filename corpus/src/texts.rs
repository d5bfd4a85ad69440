//! The texts of rows, for training a tokenizer.

use configs::sft::SftData;

use crate::open::sets;
use crate::{CorpusError, Row, raw, source};

/// The number of bytes of text beyond which a tokenizer learns nothing new.
const ENOUGH: usize = 64 << 20;

/// Returns the texts of the training rows of all sets, in order; at most 64 MiB of each set.
///
/// # Errors
/// Returns an error if a set is not available, or a row has none of the known formats.
pub fn texts(data: &SftData) -> Result<Vec<String>, CorpusError> {
    let mut texts = Vec::new();
    for set in sets(data) {
        let mut bytes = 0;
        for file in source::files(&set.path, &hub::HubSettings::from_environment())? {
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
