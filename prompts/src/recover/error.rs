//! Errors of recovering templates.

use std::path::PathBuf;

use chat::jsonl::JsonlError;
use chat::prompts::PromptError;
use corpus::CorpusError;

use super::shape::TURN;

/// An error of recovering templates.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The rows cannot be read.
    #[error(transparent)]
    Rows(#[from] CorpusError),
    /// The examples cannot be read.
    #[error(transparent)]
    Examples(#[from] JsonlError),
    /// A row or an example that cannot be used.
    #[error("{place}: {message}")]
    Row {
        /// The file and the row.
        place: String,
        /// What is wrong with the row, what was expected, and the fix.
        message: String,
    },
    /// The rows have several equally good readings.
    #[error("the rows leave open {question}, near {excerpt:?}; {fix}")]
    Ambiguous {
        /// What the rows leave open.
        question: String,
        /// The text that can be read in several ways.
        excerpt: String,
        /// What would settle it.
        fix: String,
    },
    /// A row that the recovered template does not rebuild.
    #[error(
        "{place}: the template that fits the rows before does not fit byte {position} of the {turn} turn: expected \
         {expected:?}, found {found:?}; pass only rows that one template rendered"
    )]
    Differs {
        /// The file and the row.
        place: String,
        /// `system` or `user`.
        turn: &'static str,
        /// Offset of the first difference, in bytes, from 0.
        position: usize,
        /// What the template has there.
        expected: String,
        /// What the row has there.
        found: String,
    },
    /// The templates cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The path of the file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The recovered template does not compile or render.
    #[error(transparent)]
    Prompt(#[from] PromptError),
}

/// The fix for whatever more knowledge settles.
pub(crate) const MORE: &str = "add rows that differ there, or give the values of one of the rows with --example";

impl RecoverError {
    /// Returns the error of a row, given as the text of a sample, that differs from what is expected at an offset.
    pub(crate) fn differs(place: &str, text: &str, offset: usize, expected: &str) -> Self {
        let mut offset = offset.min(text.len());
        while !text.is_char_boundary(offset) {
            offset -= 1;
        }
        let begin = text[..offset].rfind(TURN).map_or(0, |at| at + TURN.len_utf8());
        let end = |text: &str| cut(text.split(TURN).next().unwrap_or_default());
        Self::Differs {
            place: place.into(),
            turn: if begin == 0 && text.contains(TURN) { "system" } else { "user" },
            position: offset - begin,
            expected: end(expected),
            found: end(&text[offset..]),
        }
    }

    pub(crate) fn ambiguous(question: impl Into<String>, excerpt: &str) -> Self {
        Self::Ambiguous { question: question.into(), excerpt: cut(excerpt), fix: MORE.into() }
    }
}

/// Shortens a text for a message: at most 80 characters of its beginning.
pub(crate) fn cut(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}
