//! The rules of training and evaluation, applied to JSON lines without a model, so that anyone can compare them with the released
//! code on inputs of their own. Every function here calls the ones that training and evaluation call.
//!
//! - [`render`]: rows to the exact messages of a prompt set.
//! - [`gate`]: responses to the result of the format gate.
//! - [`judge`]: a judge's answers to selection and confidence.
//! - [`batches`]: the responses of a step to rank, mini-batch, micro-batch and weight.
//! - [`plan`]: users to what each round of an evaluation reads.
//!
//! docs/protocols.md documents the commands, and the fields of their input and output.

pub mod batches;
pub mod gate;
pub mod judge;
pub mod plan;
pub mod render;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use chat::jsonl::{self, JsonlError};
use chat::prompts::PromptError;
use chat::records::{Checked, RowDefect};
use evals::EvalError;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// The name of standard input in errors.
const STANDARD_INPUT: &str = "standard input";

/// The rows of a file or of standard input, with their lines.
#[derive(Clone, Debug)]
pub struct Rows<T> {
    name: PathBuf,
    rows: Vec<(usize, T)>,
}

impl<T: DeserializeOwned + Checked> Rows<T> {
    /// Reads a file of JSON lines, local or on the hub, or standard input if `input` is `None`.
    ///
    /// # Errors
    /// Returns an error if the input cannot be read or has no rows, and for the first invalid row, with line and field.
    pub fn read(input: Option<&Path>) -> Result<Self, Error> {
        let Some(given) = input else {
            let name = PathBuf::from(STANDARD_INPUT);
            let rows = jsonl::read_numbered(std::io::stdin().lock(), &name)?;
            return Ok(Self { name, rows });
        };
        let name = hub::data(given, &hub::HubSettings::from_environment())?;
        let file = File::open(&name).map_err(|source| JsonlError::Io { action: "read", path: name.clone(), source })?;
        let rows = jsonl::read_numbered(BufReader::new(file), &name)?;
        Ok(Self { name, rows })
    }
}

impl<T> Rows<T> {
    /// Applies a rule to each row, in order.
    ///
    /// # Errors
    /// Returns the first refusal as an error, with the line if the row is invalid.
    fn map<U>(&self, rule: impl Fn(&T) -> Result<U, Refusal>) -> Result<Vec<U>, Error> {
        let located = |(line, row): &(usize, T)| rule(row).map_err(|refusal| self.located(*line, refusal));
        self.rows.iter().map(located).collect()
    }

    fn located(&self, line: usize, refusal: Refusal) -> Error {
        match refusal {
            Refusal::Row(RowDefect { field, message }) => {
                let message = format!("field `{field}` {message}");
                JsonlError::Line { path: self.name.clone(), line, message }.into()
            }
            Refusal::Rule(error) => error,
        }
    }
}

/// Why a rule cannot be applied to a row.
enum Refusal {
    /// The row is invalid.
    Row(RowDefect),
    /// The rule itself failed.
    Rule(Error),
}

impl Refusal {
    fn row(field: &'static str, message: impl Into<String>) -> Self {
        Self::Row(RowDefect { field, message: message.into() })
    }
}

impl From<PromptError> for Refusal {
    fn from(error: PromptError) -> Self {
        Self::Rule(error.into())
    }
}

impl From<EvalError> for Refusal {
    fn from(error: EvalError) -> Self {
        match error {
            EvalError::User { field, message, .. } => Self::row(field, message),
            EvalError::Prompt(error) => error.into(),
            other => Self::Rule(other.into()),
        }
    }
}
