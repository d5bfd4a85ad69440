//! Input and output of commands on JSON lines: the rows, and the destination of the results. [`InputRow`] is a row of `xplore
//! generate` and `xplore score`, with one prompt.

use std::io::Write;
use std::path::{Path, PathBuf};

use chat::records::{Checked, RowDefect};
use chat::tokenizer::{Tokenizer, TokenizerError};
use chat::{Message, jsonl};
use serde::{Deserialize, Serialize};

use xplore::Error;
use xplore::parts;

/// The files of a command that applies a rule to rows.
#[derive(clap::Args)]
pub struct RowFiles {
    /// File of JSON lines; standard input if absent.
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// File to write one JSON line per row to; standard output if absent.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

impl RowFiles {
    /// Checks that no file is given to a command that reads no rows without `flag`.
    pub fn only_with(&self, flag: &str) -> Result<(), Error> {
        match (&self.input, &self.out) {
            (None, None) => Ok(()),
            _ => Err(Error::usage(format!("--input and --out are only for {flag}; add it, or remove them"))),
        }
    }
}

/// A line of the input: exactly one of `text`, `ids` and `messages`, and options that belong to them.
#[derive(Debug, Default, Deserialize)]
pub struct InputRow {
    /// Text, tokenized without a chat template.
    text: Option<String>,
    /// Token IDs.
    ids: Option<Vec<u32>>,
    /// Conversation, rendered with the model's chat template.
    messages: Option<Vec<Message>>,
    /// Value of `enable_thinking` for the chat template.
    thinking: Option<bool>,
    /// For `score`: candidates for the next token, written as text.
    candidates: Option<Vec<String>>,
}

impl Checked for InputRow {
    fn defect(&self) -> Option<RowDefect> {
        let given = [self.text.is_some(), self.ids.is_some(), self.messages.is_some()];
        let defect = |field, message: &str| Some(RowDefect { field, message: message.into() });
        if given.iter().filter(|g| **g).count() != 1 {
            return defect("text", "or `ids` or `messages`: give exactly one of the three");
        }
        match &self.candidates {
            Some(none) if none.is_empty() => {
                defect("candidates", "is empty; list the candidates for the next token, or omit the field")
            }
            _ => None,
        }
    }
}

/// Error for a row that cannot be tokenized.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// The tokenizer or the chat template returned an error.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A candidate does not consist of exactly one token.
    #[error("candidate `{text}` has {count} tokens; expected exactly 1; use a candidate of a single token")]
    Candidate {
        /// Text of the candidate.
        text: String,
        /// Number of its tokens.
        count: usize,
    },
}

impl InputRow {
    /// Returns the token IDs of the prompt that the model continues. For a conversation, the assistant's turn is opened, or its
    /// last turn is continued.
    pub fn prompt(self, tokenizer: &Tokenizer) -> Result<Vec<u32>, RowError> {
        Ok(match self.messages {
            Some(messages) => tokenizer.encode_chat(&messages, self.thinking)?,
            None => self.plain(tokenizer)?,
        })
    }

    /// Returns the token IDs of the row without a generation prompt.
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

    /// Returns the token IDs of the candidates, one per candidate, or `None` if the row has no candidates.
    pub fn candidates(&self, tokenizer: &Tokenizer) -> Result<Option<Vec<u32>>, RowError> {
        let one = |text: &String| match tokenizer.encode(text)?[..] {
            [id] => Ok(id),
            ref ids => Err(RowError::Candidate { text: text.clone(), count: ids.len() }),
        };
        self.candidates.as_ref().map(|texts| texts.iter().map(one).collect()).transpose()
    }
}

/// Reads the rows of a file and applies `f` to each row.
pub fn read<T>(path: &Path, f: impl Fn(InputRow) -> Result<T, RowError>) -> Result<Vec<T>, Error> {
    let rows: Vec<InputRow> = parts::rows(path)?;
    let named = |(i, row)| f(row).map_err(|e| Error::data(format!("{}: row {}: {e}", path.display(), i + 1)));
    rows.into_iter().enumerate().map(named).collect()
}

/// Writes one JSON object per line to a file or to standard output.
pub fn write<T: Serialize>(out: Option<&Path>, lines: &[T]) -> Result<(), Error> {
    if let Some(path) = out {
        return Ok(jsonl::write(path, lines)?);
    }
    let mut stdout = std::io::stdout().lock();
    for line in lines {
        let line = serde_json::to_string(line).expect("numbers and strings, with strings as keys, always serialize");
        // A closed pipe is not an error: the reader has seen enough.
        if writeln!(stdout, "{line}").is_err() {
            break;
        }
    }
    Ok(())
}
