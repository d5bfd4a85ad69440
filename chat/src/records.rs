//! The rows of the pipeline, in the file formats of AlignXplore+ where it defines one.

use serde::{Deserialize, Serialize};

use crate::history_items::{HistoryItems, kind_defect};
use crate::history_list::HistoryList;
use crate::{Message, fields};

/// One choice of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Interaction {
    /// The query; some sources have none.
    #[serde(default)]
    pub query: Option<String>,
    /// The item that the user chose.
    pub chosen: String,
    /// The item that the user rejected; positive-only sources have none.
    #[serde(default)]
    pub rejected: Option<String>,
    /// Domain of the interaction (news, products, …), if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Kind of task (recommendation, response selection, …), if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
}

/// The history of a user, oldest first: interactions, or messages of conversations. One of the two lists is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "HistoryFields")]
pub struct History {
    /// Id of the user.
    pub uid: String,
    /// The user's interactions, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interactions: Vec<Interaction>,
    /// The messages of the user's conversations, oldest first, in place of interactions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    /// Held-out choices that follow the history and that no prompt contains. Messages have no choices to predict, so theirs are here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Interaction>,
    /// Choices of the same user in other domains, which no prompt contains. They measure whether a summary transfers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub transfer: Vec<Interaction>,
}

/// The fields of a history in a file. A history of messages has them in `messages` or, as published, in `history`.
#[derive(Deserialize)]
struct HistoryFields {
    #[serde(alias = "userid", deserialize_with = "fields::user_id")]
    uid: String,
    #[serde(alias = "history", default, deserialize_with = "fields::null_is_default")]
    interactions: HistoryList,
    #[serde(default, deserialize_with = "fields::null_is_default")]
    messages: Vec<Message>,
    #[serde(alias = "target", default, deserialize_with = "fields::none_or_more")]
    targets: Vec<Interaction>,
    #[serde(default, deserialize_with = "fields::null_is_default")]
    transfer: Vec<Interaction>,
}

impl TryFrom<HistoryFields> for History {
    type Error = String;

    fn try_from(row: HistoryFields) -> Result<Self, String> {
        let HistoryFields { uid, interactions, messages, targets, transfer } = row;
        let (interactions, messages) = interactions.with_messages(messages)?;
        Ok(Self { uid, interactions, messages, targets, transfer })
    }
}

impl History {
    /// Returns what the history consists of.
    pub fn items(&self) -> HistoryItems<'_> {
        HistoryItems::of(&self.interactions, &self.messages)
    }

    /// Returns the choices that may be predicted: the interactions, or the targets of a history of messages.
    pub fn choices(&self) -> &[Interaction] {
        if self.messages.is_empty() { &self.interactions } else { &self.targets }
    }
}

/// A row of the SFT set; only `completion` contributes to the loss.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SftRow {
    /// The conversation before the model's turn.
    pub prompt: Vec<Message>,
    /// The model's turn (one assistant message).
    pub completion: Vec<Message>,
}

/// How predictable a target is, as recorded by the pruning stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SignalRecord {
    /// Log-probability of the user's choice under the informed scorer (≤ 0).
    #[serde(default, deserialize_with = "fields::null_is_default")]
    pub logprob1: f64,
    /// Log-probability of the user's choice under the uninformed scorer (≤ 0).
    #[serde(default, deserialize_with = "fields::null_is_default")]
    pub logprob2: f64,
    /// The value of knowing the user: `logprob1 - logprob2`.
    #[serde(default, deserialize_with = "fields::null_is_default")]
    pub signal: f64,
}

/// A row of the RL set. `history[mid_position]` is the target of the first stage, and the last interaction is that of the second.
///
/// A row of `messages` has no `history`: the first stage reads `mid_position` messages, and the targets are `stage_targets`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RlRow {
    /// Id of the user.
    #[serde(deserialize_with = "fields::user_id")]
    pub uid: String,
    /// Interactions up to *and including* the last target, oldest first.
    #[serde(default, deserialize_with = "fields::null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Interaction>,
    /// The messages of the user's conversations, oldest first, in place of `history`.
    #[serde(default, deserialize_with = "fields::null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    /// The choices that judge the stages of a row of `messages`, in the order of the stages. The last one serves further stages.
    #[serde(default, deserialize_with = "fields::null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub stage_targets: Vec<Interaction>,
    /// Index of the first stage's target in `history`; in a row of messages, the number of messages that the first stage reads.
    #[serde(default, deserialize_with = "fields::null_is_default")]
    pub mid_position: usize,
    /// Signal of the first target.
    #[serde(default, deserialize_with = "fields::null_is_default")]
    pub mid_record: SignalRecord,
    /// Signal of the last target.
    #[serde(default, deserialize_with = "fields::null_is_default")]
    pub last_record: SignalRecord,
    /// `last_record.signal - mid_record.signal`.
    #[serde(default, deserialize_with = "fields::null_is_default")]
    pub signal_gap: f64,
    /// `history.len() - 1 - mid_position`.
    #[serde(default, deserialize_with = "fields::null_is_default")]
    pub distance_to_end: usize,
    /// Further choices of the user, which no stage reads. They can judge summaries in addition to the stages' own targets.
    #[serde(default, deserialize_with = "fields::null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Interaction>,
    /// Choices of the same user in other domains, which no stage reads. Reward terms can judge by them whether a summary transfers.
    #[serde(default, deserialize_with = "fields::null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub transfer: Vec<Interaction>,
    /// Reference summaries, such as those of a teacher, in the order of the stages. A single one serves every stage.
    #[serde(default, deserialize_with = "fields::null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
}

impl RlRow {
    /// Returns the target of `stage`, counted from 0, in a row of messages; `None` if the row has no `stage_targets`.
    pub fn stage_target(&self, stage: usize) -> Option<&Interaction> {
        self.stage_targets.get(stage).or(self.stage_targets.last())
    }

    /// Returns the reference summary of `stage`, counted from 0; `None` if the row has none for it.
    pub fn reference_of(&self, stage: usize) -> Option<&str> {
        match &self.references[..] {
            [every] => Some(every),
            by_stage => by_stage.get(stage).map(String::as_str),
        }
    }
}

/// A defect that makes a row unusable, found before training starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowDefect {
    /// The invalid field.
    pub field: &'static str,
    /// What is wrong, and what was expected.
    pub message: String,
}

/// A row that can be validated beyond its types.
pub trait Checked {
    /// Returns the first defect, if any.
    fn defect(&self) -> Option<RowDefect>;
}

impl Checked for History {
    fn defect(&self) -> Option<RowDefect> {
        kind_defect("interactions", &self.interactions, &self.messages)
    }
}

impl Checked for SftRow {
    fn defect(&self) -> Option<RowDefect> {
        if self.prompt.is_empty() {
            return Some(RowDefect { field: "prompt", message: "is empty; expected at least one message".into() });
        }
        let trained = self.completion.iter().any(|m| !m.content.trim().is_empty());
        (!trained).then(|| RowDefect {
            field: "completion",
            message: "has no text; expected an assistant message to train on".into(),
        })
    }
}

impl Checked for RlRow {
    fn defect(&self) -> Option<RowDefect> {
        if !self.messages.is_empty() {
            return self.defect_of_messages();
        }
        let defect = |field, message: String| Some(RowDefect { field, message });
        let n = self.history.len();
        if n == 0 {
            let message = "is missing or empty; expected at least 3 interactions (read, first target, last target), or \
                           `messages` with `stage_targets`";
            return defect("history", message.into());
        }
        if n < 3 {
            let message = format!("has {n} interactions; expected at least 3 (read, first target, last target)");
            return defect("history", message);
        }
        if !self.stage_targets.is_empty() {
            let message = "belongs to a row of `messages`; the targets of interactions are in `history`: remove it";
            return defect("stage_targets", message.into());
        }
        self.defect_of_mid_position(n - 2, format!("a history of {n}"))
    }
}

impl RlRow {
    fn defect_of_messages(&self) -> Option<RowDefect> {
        if let Some(both) = kind_defect("history", &self.history, &self.messages) {
            return Some(both);
        }
        if self.stage_targets.is_empty() {
            let message =
                "is missing or empty; expected at least one choice, by which a summary of `messages` is judged";
            return Some(RowDefect { field: "stage_targets", message: message.into() });
        }
        if let Some(i) = self.stage_targets.iter().position(|target| target.rejected.is_none()) {
            let message = format!("has no `rejected` item in entry {}; a judge compares two items", i + 1);
            return Some(RowDefect { field: "stage_targets", message });
        }
        let n = self.messages.len();
        self.defect_of_mid_position(n, format!("{n} messages"))
    }

    fn defect_of_mid_position(&self, most: usize, of: String) -> Option<RowDefect> {
        let given = match self.mid_position {
            0 => "0 or missing".to_owned(),
            given => given.to_string(),
        };
        (self.mid_position == 0 || self.mid_position > most)
            .then(|| RowDefect { field: "mid_position", message: format!("is {given}; expected 1 to {most} for {of}") })
    }
}

/// A question to a judge: would the user described by `preference` choose `chosen` over `rejected`?
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Question {
    /// The query, if the source has one.
    pub query: Option<String>,
    /// The summary (or its replacement: nothing, or a raw history).
    pub preference: String,
    /// The item that the user chose.
    pub chosen: String,
    /// The item that the user rejected.
    pub rejected: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<T: serde::de::DeserializeOwned>(row: &str) -> Result<T, String> {
        serde_json::from_str(row).map_err(|e| e.to_string())
    }

    const MESSAGES: &str = r#""messages":[{"role":"user","content":"q"},{"role":"assistant","content":"r"}]"#;

    #[test]
    fn a_history_is_of_interactions_or_of_messages() {
        let interactions = r#"{"uid":"a","interactions":[{"query":null,"chosen":"x","rejected":null}]}"#;
        let history: History = parse(interactions).unwrap();
        assert_eq!((history.items().noun(), history.defect()), ("interactions", None));
        assert_eq!(history.choices()[0].chosen, "x");
        // A history of interactions is written as before.
        assert_eq!(serde_json::to_string(&history).unwrap(), interactions);
        let text = format!(r#"{{"uid":"a",{MESSAGES},"targets":[{{"query":"q","chosen":"x","rejected":"y"}}]}}"#);
        let history: History = parse(&text).unwrap();
        assert_eq!((history.items().len(), history.choices().len(), history.defect()), (2, 1, None));
        assert_eq!(history.items().messages()[1], Message::assistant("r"));
        assert_eq!(serde_json::to_string(&history).unwrap(), text);
        // Published benchmarks have one target.
        let target = r#"{"query":"q","chosen":"x","rejected":"y"}"#;
        assert_eq!(parse::<History>(&format!(r#"{{"userid":"a",{MESSAGES},"target":{target}}}"#)).unwrap(), history);
        assert!(parse::<History>(&format!(r#"{{"uid":"a",{MESSAGES},"targets":null}}"#)).unwrap().targets.is_empty());
        // Those of conversations have the messages in `history`.
        let published = MESSAGES.replace("messages", "history");
        assert_eq!(parse::<History>(&format!(r#"{{"userid":"a",{published},"target":{target}}}"#)).unwrap(), history);
        let mixed = r#"{"uid":"a","history":[{"chosen":"x"},{"role":"user","content":"q"}]}"#;
        let mixed = parse::<History>(mixed).unwrap_err();
        assert!(mixed.contains("has interactions (`chosen`) and messages (`role`, `content`)"), "{mixed}");
        let twice = parse::<History>(&format!(r#"{{"userid":"a",{published},{MESSAGES}}}"#)).unwrap_err();
        assert!(twice.contains("remove one of the two lists"), "{twice}");
        for (row, field) in [
            (r#"{"uid":"a"}"#.to_owned(), "interactions"),
            (r#"{"uid":"a","interactions":null,"messages":[]}"#.to_owned(), "interactions"),
            (format!(r#"{{"uid":"a","history":[{{"chosen":"x"}}],{MESSAGES}}}"#), "messages"),
        ] {
            assert_eq!(parse::<History>(&row).unwrap().defect().unwrap().field, field, "{row}");
        }
        let role = parse::<History>(r#"{"uid":"a","messages":[{"role":"tool","content":"x"}]}"#).unwrap_err();
        assert!(role.contains("unknown variant `tool`, expected one of `system`, `user`, `assistant`"), "{role}");
    }

    #[test]
    fn rl_rows_of_messages_have_their_own_targets() {
        let row = |fields: &str| format!(r#"{{"uid":"a",{MESSAGES},{fields}}}"#);
        let targets = r#""stage_targets":[{"chosen":"x","rejected":"y"},{"chosen":"z","rejected":"y"}]"#;
        let parsed: RlRow = parse(&row(&format!(r#"{targets},"mid_position":1"#))).unwrap();
        assert_eq!(parsed.defect(), None);
        let chosen = |stage: usize| parsed.stage_target(stage).map(|target| target.chosen.as_str());
        // The last target serves further stages.
        assert_eq!([chosen(0), chosen(1), chosen(2)], [Some("x"), Some("z"), Some("z")]);
        assert_eq!(parse::<RlRow>(&serde_json::to_string(&parsed).unwrap()).unwrap(), parsed);
        for (fields, field, words) in [
            (r#""mid_position":1"#.to_owned(), "stage_targets", "at least one choice"),
            (
                targets.replace(r#""z","rejected":"y""#, r#""z""#) + r#","mid_position":1"#,
                "stage_targets",
                "has no `rejected` item in entry 2",
            ),
            (targets.to_owned(), "mid_position", "is 0 or missing; expected 1 to 2 for 2 messages"),
            (format!(r#"{targets},"mid_position":3"#), "mid_position", "is 3; expected 1 to 2 for 2 messages"),
            (format!(r#"{targets},"mid_position":1,"history":[{{"chosen":"x"}}]"#), "messages", "beside `history`"),
        ] {
            let defect = parse::<RlRow>(&row(&fields)).unwrap().defect().unwrap();
            assert!(defect.field == field && defect.message.contains(words), "{fields}: {defect:?}");
        }
    }

    #[test]
    fn rl_rows_of_interactions_have_none() {
        let choices = r#"[{"chosen":"a"},{"chosen":"b"},{"chosen":"c"}]"#;
        let row = |fields: &str| parse::<RlRow>(&format!(r#"{{"uid":"a",{fields}}}"#)).unwrap().defect();
        assert_eq!(row(&format!(r#""history":{choices},"mid_position":1"#)), None);
        for (fields, field, words) in [
            (r#""mid_position":1"#.to_owned(), "history", "is missing or empty"),
            (r#""history":[{"chosen":"a"}],"mid_position":1"#.to_owned(), "history", "has 1 interactions"),
            (format!(r#""history":{choices}"#), "mid_position", "is 0 or missing; expected 1 to 1 for a history of 3"),
            (
                format!(r#""history":{choices},"mid_position":1,"stage_targets":[{{"chosen":"x"}}]"#),
                "stage_targets",
                "belongs to a row of `messages`",
            ),
        ] {
            let defect = row(&fields).unwrap();
            assert!(defect.field == field && defect.message.contains(words), "{fields}: {defect:?}");
        }
    }
}
