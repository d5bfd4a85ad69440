//! What `xplore generate` and `xplore score` read: one prompt a line, and where their answers go.

use std::io::Write;
use std::path::Path;

use chat::records::{Checked, Defect};
use chat::tokenizer::Tokenizer;
use chat::{Message, jsonl};
use serde::Deserialize;
use serde_json::Value as Json;

use crate::failure::Failure;

/// A line: exactly one of the three.
#[derive(Debug, Default, Deserialize)]
pub struct Row {
    /// Text, tokenized as it stands.
    text: Option<String>,
    /// Token ids.
    ids: Option<Vec<u32>>,
    /// A conversation, rendered by the model's chat template.
    messages: Option<Vec<Message>>,
    /// The template's `enable_thinking`.
    thinking: Option<bool>,
}

impl Checked for Row {
    fn defect(&self) -> Option<Defect> {
        let given = [self.text.is_some(), self.ids.is_some(), self.messages.is_some()];
        let message = "or `ids` or `messages`: give exactly one of the three";
        (given.iter().filter(|g| **g).count() != 1).then(|| Defect { field: "text", message: message.into() })
    }
}

/// What a row's messages are for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The assistant is to speak: its turn is opened, or its last one continued.
    Opened,
    /// The conversation is what it is.
    Closed,
}

/// Token ids of every row.
pub fn read(path: &Path, tokenizer: &Tokenizer, turn: Turn) -> Result<Vec<Vec<u32>>, Failure> {
    let rows: Vec<Row> = jsonl::read(path)?;
    let tokens = |row: Row| match (row.text, row.ids, row.messages) {
        (Some(text), ..) => tokenizer.encode(&text),
        (_, Some(ids), _) => Ok(ids),
        (.., messages) => {
            let messages = messages.unwrap_or_default();
            match turn {
                Turn::Opened => tokenizer.encode_chat(&messages, row.thinking),
                Turn::Closed => tokenizer.encode(&tokenizer.template().render(&messages, false, row.thinking)?),
            }
        }
    };
    let named = |(i, row)| tokens(row).map_err(|e| Failure::data(format!("{}: row {}: {e}", path.display(), i + 1)));
    rows.into_iter().enumerate().map(named).collect()
}

/// Writes one object a line, to a file or to standard output.
pub fn write(out: Option<&Path>, lines: &[Json]) -> Result<(), Failure> {
    if let Some(path) = out {
        return Ok(jsonl::write(path, lines)?);
    }
    let mut stdout = std::io::stdout().lock();
    for line in lines {
        // A reader that closes the pipe early has seen enough.
        if writeln!(stdout, "{line}").is_err() {
            break;
        }
    }
    Ok(())
}
