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
    texts_up_to(data, ENOUGH)
}

fn texts_up_to(data: &SftData, enough: usize) -> Result<Vec<String>, CorpusError> {
    let mut texts = Vec::new();
    for set in sets(data) {
        let mut bytes = 0;
        'files: for file in source::files(&set.path, &hub::HubSettings::from_environment())? {
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
                if bytes > enough {
                    break 'files;
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_limit_is_for_all_files_of_a_set() {
        let folder = tempfile::tempdir().unwrap();
        for (file, letter) in [("1.jsonl", 'a'), ("2.jsonl", 'b')] {
            let row = |n: usize| format!("{{\"text\":\"{}\"}}\n", letter.to_string().repeat(n));
            fs::write(folder.path().join(file), row(6) + &row(6)).unwrap();
        }
        let data = SftData { train: folder.path().into(), ..SftData::default() };
        assert_eq!(texts_up_to(&data, 100).unwrap().len(), 4);
        assert_eq!(texts_up_to(&data, 15).unwrap(), ["aaaaaa", "aaaaaa", "bbbbbb"]);
        assert_eq!(texts_up_to(&data, 10).unwrap(), ["aaaaaa", "aaaaaa"]);
    }
}
