//! Rows of any file of a pipeline, recognized by their fields.

use std::path::{Path, PathBuf};

use chat::history_list::HistoryList;
use chat::records::SignalRecord;
use chat::{Interaction, Message, fields};
use corpus::{CorpusError, RawRow};
use serde::{Deserialize, Serialize};

use crate::teach::record::TaughtStage;

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    /// A history of interactions or messages.
    History,
    /// A history whose choices have signals.
    ScoredHistory,
    /// A row for reinforcement learning.
    Rl,
    /// A row for supervised fine-tuning.
    Sft,
    /// What the teacher made of a user.
    TaughtUser,
}

impl RowKind {
    /// Returns the plural, for headings.
    pub fn plural(self) -> &'static str {
        match self {
            Self::History => "histories",
            Self::ScoredHistory => "scored histories",
            Self::Rl => "RL rows",
            Self::Sft => "SFT rows",
            Self::TaughtUser => "taught users",
        }
    }
}

/// The fields of all kinds of rows. A field that a row does not have is empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AnyRow {
    #[serde(alias = "userid", alias = "user_id", deserialize_with = "fields::user_id")]
    pub uid: String,
    #[serde(alias = "history", deserialize_with = "fields::null_is_default")]
    interactions: HistoryList,
    #[serde(deserialize_with = "fields::null_is_default")]
    messages: Vec<Message>,
    pub signals: Option<Vec<Option<SignalRecord>>>,
    #[serde(deserialize_with = "fields::null_is_default")]
    pub target_signals: Vec<Option<SignalRecord>>,
    #[serde(alias = "target", deserialize_with = "fields::none_or_more")]
    pub targets: Vec<Interaction>,
    #[serde(deserialize_with = "fields::null_is_default")]
    pub transfer: Vec<Interaction>,
    #[serde(deserialize_with = "fields::null_is_default")]
    pub stage_targets: Vec<Interaction>,
    pub mid_position: Option<usize>,
    pub mid_record: Option<SignalRecord>,
    pub last_record: Option<SignalRecord>,
    pub prompt: Option<Vec<Message>>,
    pub completion: Option<Vec<Message>>,
    pub stages: Option<Vec<TaughtStage>>,
}

impl AnyRow {
    /// Returns what the row is; `None` if it is none of a pipeline.
    pub fn kind(&self) -> Option<RowKind> {
        if self.prompt.is_some() && self.completion.is_some() {
            return Some(RowKind::Sft);
        }
        if self.uid.is_empty() {
            return None;
        }
        let history = !(self.interactions().is_empty() && self.messages().is_empty());
        match self {
            _ if self.stages.is_some() => Some(RowKind::TaughtUser),
            _ if self.mid_position.is_some() => Some(RowKind::Rl),
            _ if self.signals.is_some() || !self.target_signals.is_empty() => Some(RowKind::ScoredHistory),
            _ => history.then_some(RowKind::History),
        }
    }

    /// Returns the interactions of the history.
    pub fn interactions(&self) -> &[Interaction] {
        &self.interactions.interactions
    }

    /// Returns the messages of the history, which are in a field of their own or, as published, in `history`.
    pub fn messages(&self) -> &[Message] {
        if self.messages.is_empty() { &self.interactions.messages } else { &self.messages }
    }

    /// Returns the choices that judge summaries, beside the history.
    pub fn later_choices(&self) -> impl Iterator<Item = &Interaction> {
        self.targets.iter().chain(&self.stage_targets)
    }
}

/// A file that cannot be read, or a row that is none of a pipeline's.
#[derive(Debug, thiserror::Error)]
pub enum AnyRowError {
    /// A file that cannot be read.
    #[error(transparent)]
    File(#[from] CorpusError),
    /// A row of another shape.
    #[error("{}, {place}: {message}", path.display())]
    Row {
        /// The path of the file.
        path: PathBuf,
        /// The location of the row.
        place: corpus::RowLocation,
        /// What is wrong, what was expected, and the fix.
        message: String,
    },
}

/// Returns the kind of the first row of a file; `None` if it has no rows.
///
/// # Errors
/// Returns [`AnyRowError`] if the file cannot be read, or the row is none of a pipeline's.
pub fn kind_of(path: &Path) -> Result<Option<RowKind>, AnyRowError> {
    let Some(row) = corpus::raw::open(path)?.next() else { return Ok(None) };
    parse(path, &row?).map(|(_, kind)| Some(kind))
}

/// The expected rows, for error messages.
const FORMS: &str = "expected a history, a scored history, an SFT row, an RL row or a taught user, as the steps of xplore synth \
                     write them";

/// Calls `take` with each row of a file of JSON lines, a JSON array or a Parquet table, until it returns an error.
pub(crate) fn for_each<E: From<AnyRowError>>(
    path: &Path,
    mut take: impl FnMut(AnyRow, RowKind) -> Result<(), E>,
) -> Result<(), E> {
    for row in corpus::raw::open(path).map_err(AnyRowError::from)? {
        let (row, kind) = parse(path, &row.map_err(AnyRowError::from)?)?;
        take(row, kind)?;
    }
    Ok(())
}

fn parse(path: &Path, row: &RawRow) -> Result<(AnyRow, RowKind), AnyRowError> {
    let bad = |message| AnyRowError::Row { path: path.into(), place: row.place, message };
    let parsed: AnyRow = serde_json::from_str(&row.json).map_err(|e| bad(format!("{e}; fix or remove this row")))?;
    let kind = parsed.kind().ok_or_else(|| bad(format!("the row is not known; {FORMS}")))?;
    Ok((parsed, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(json: &str) -> Option<RowKind> {
        serde_json::from_str::<AnyRow>(json).unwrap().kind()
    }

    #[test]
    fn rows_are_told_by_their_fields() {
        let choices = r#"[{"chosen":"a","rejected":"b"}]"#;
        assert_eq!(kind(&format!(r#"{{"uid":7,"interactions":{choices}}}"#)), Some(RowKind::History));
        assert_eq!(
            kind(&format!(r#"{{"userid":"u","history":{choices},"target":{{"chosen":"c"}}}}"#)),
            Some(RowKind::History)
        );
        for field in ["messages", "history"] {
            let row = format!(r#"{{"uid":"u","{field}":[{{"role":"user","content":"q"}}]}}"#);
            assert_eq!(kind(&row), Some(RowKind::History));
            assert_eq!(serde_json::from_str::<AnyRow>(&row).unwrap().messages().len(), 1);
        }
        let scored = format!(r#"{{"uid":"u","interactions":{choices},"signals":[null]}}"#);
        assert_eq!(kind(&scored), Some(RowKind::ScoredHistory));
        assert_eq!(kind(&format!(r#"{{"uid":"u","history":{choices},"mid_position":1}}"#)), Some(RowKind::Rl));
        assert_eq!(kind(r#"{"prompt":[],"completion":[]}"#), Some(RowKind::Sft));
        assert_eq!(kind(r#"{"uid":"u","stages":[],"rows":0}"#), Some(RowKind::TaughtUser));
        assert_eq!((kind(r#"{"uid":"u"}"#), kind("{}")), (None, None));
    }

    #[test]
    fn other_rows_are_named_with_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        for (line, words) in [("{\"a\":1}", "line 2: the row is not known; expected a history"), ("[", "line 2: EOF")] {
            std::fs::write(&path, format!("{{\"prompt\":[],\"completion\":[]}}\n{line}\n")).unwrap();
            let mut rows = 0;
            let counted = for_each(&path, |_, _| {
                rows += 1;
                Ok::<_, AnyRowError>(())
            });
            let error = counted.unwrap_err().to_string();
            assert!(rows == 1 && error.contains(words), "{error}");
        }
    }
}
