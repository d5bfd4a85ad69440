//! What `xplore generate` and `xplore score` read: one prompt a line, and where their answers go.

use std::io::Write;
use std::path::Path;

use chat::records::{Checked, Defect};
use chat::tokenizer::{Tokenizer, TokenizerError};
use chat::{Message, jsonl};
use serde::Deserialize;
use serde_json::Value as Json;

use crate::failure::Failure;
use crate::wiring;

/// A line: exactly one of `text`, `ids` and `messages`, and what belongs to them.
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
    /// For `score`: possible next tokens, each written as text.
    candidates: Option<Vec<String>>,
}

impl Checked for Row {
    fn defect(&self) -> Option<Defect> {
        let given = [self.text.is_some(), self.ids.is_some(), self.messages.is_some()];
        let defect = |field, message: &str| Some(Defect { field, message: message.into() });
        if given.iter().filter(|g| **g).count() != 1 {
            return defect("text", "or `ids` or `messages`: give exactly one of the three");
        }
        match &self.candidates {
            Some(none) if none.is_empty() => {
                defect("candidates", "is empty; name the possible next tokens, or leave it out")
            }
            _ => None,
        }
    }
}

/// Why a row has no tokens.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// The tokenizer or the chat template refuses it.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A candidate is not one token.
    #[error("candidate `{text}` is {count} tokens; a candidate must be one, since one probability is asked for")]
    Candidate {
        /// The candidate.
        text: String,
        /// Its tokens.
        count: usize,
    },
}

impl Row {
    /// Token ids of what the model is to continue: the assistant is to speak, its turn is opened, or its last one
    /// continued.
    pub fn prompt(self, tokenizer: &Tokenizer) -> Result<Vec<u32>, RowError> {
        Ok(match self.messages {
            Some(messages) => tokenizer.encode_chat(&messages, self.thinking)?,
            None => self.plain(tokenizer)?,
        })
    }

    /// Token ids of the row as it is.
    pub fn conversation(self, tokenizer: &Tokenizer) -> Result<Vec<u32>, RowError> {
        Ok(match &self.messages {
            Some(messages) => {
                let text = tokenizer.template().render(messages, false, self.thinking);
                tokenizer.encode(&text.map_err(TokenizerError::from)?)?
            }
            None => self.plain(tokenizer)?,
        })
    }

    fn plain(self, tokenizer: &Tokenizer) -> Result<Vec<u32>, TokenizerError> {
        match (self.ids, self.text) {
            (Some(ids), _) => Ok(ids),
            (None, text) => tokenizer.encode(&text.unwrap_or_default()),
        }
    }

    /// Token ids of the candidates, one each; `None` if the row names none.
    pub fn candidates(&self, tokenizer: &Tokenizer) -> Result<Option<Vec<u32>>, RowError> {
        let one = |text: &String| match tokenizer.encode(text)?[..] {
            [id] => Ok(id),
            ref ids => Err(RowError::Candidate { text: text.clone(), count: ids.len() }),
        };
        self.candidates.as_ref().map(|texts| texts.iter().map(one).collect()).transpose()
    }
}

/// What `f` makes of every row.
pub fn read<T>(path: &Path, f: impl Fn(Row) -> Result<T, RowError>) -> Result<Vec<T>, Failure> {
    let rows: Vec<Row> = wiring::rows(path)?;
    let named = |(i, row)| f(row).map_err(|e| Failure::data(format!("{}: row {}: {e}", path.display(), i + 1)));
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
