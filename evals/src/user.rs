//! The users of an evaluation.

use chat::history_items::kind_defect;
use chat::history_list::HistoryList;
use chat::records::{Checked, RowDefect};
use chat::{HistoryItems, Interaction, Message, fields};
use serde::{Deserialize, Serialize};

use crate::TargetKind;

/// A user with held-out choices. Files hold one JSON object per line, with these fields or as published: `userid`, `history`, and one
/// `target`. The history is a list of interactions or, in the field `messages`, of messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "UserFields")]
pub struct EvalUser {
    /// The id of the user, unique in a file.
    pub uid: String,
    /// The interactions that summaries are written from, oldest first; all of one domain.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Interaction>,
    /// The messages of the user's conversations that summaries are written from, oldest first, in place of `history`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    /// The held-out choices in the same domain.
    pub targets: Vec<Interaction>,
    /// The held-out choices in other domains, for measuring transfer; may be absent.
    pub transfer: Vec<Interaction>,
    /// The user's true preferences in words (the oracle's summary), if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truth: Option<String>,
}

/// The fields of a user in a file. A user with messages has them in `messages` or, as published, in `history`.
#[derive(Deserialize)]
struct UserFields {
    #[serde(alias = "userid", deserialize_with = "fields::user_id")]
    uid: String,
    #[serde(alias = "interactions", default, deserialize_with = "fields::null_is_default")]
    history: HistoryList,
    #[serde(default, deserialize_with = "fields::null_is_default")]
    messages: Vec<Message>,
    #[serde(alias = "target", deserialize_with = "fields::one_or_more")]
    targets: Vec<Interaction>,
    #[serde(default, deserialize_with = "fields::null_is_default")]
    transfer: Vec<Interaction>,
    #[serde(default)]
    truth: Option<String>,
}

impl TryFrom<UserFields> for EvalUser {
    type Error = String;

    fn try_from(row: UserFields) -> Result<Self, String> {
        let UserFields { uid, history, messages, targets, transfer, truth } = row;
        let (history, messages) = history.with_messages(messages)?;
        Ok(Self { uid, history, messages, targets, transfer, truth })
    }
}

impl EvalUser {
    /// Returns what summaries are written from.
    pub fn items(&self) -> HistoryItems<'_> {
        HistoryItems::of(&self.history, &self.messages)
    }

    /// Returns the held-out choices of a kind.
    pub fn targets_of(&self, kind: TargetKind) -> &[Interaction] {
        match kind {
            TargetKind::InDomain => &self.targets,
            TargetKind::Transfer => &self.transfer,
        }
    }
}

impl Checked for EvalUser {
    fn defect(&self) -> Option<RowDefect> {
        let defect = |field, message: String| Some(RowDefect { field, message });
        if self.uid.is_empty() {
            return defect("uid", "is empty; expected a name unique to the user".into());
        }
        if let Some(defect) = kind_defect("history", &self.history, &self.messages) {
            return Some(defect);
        }
        if self.targets.is_empty() {
            return defect("targets", "is empty; expected at least one held-out choice".into());
        }
        for (field, targets) in [("targets", &self.targets), ("transfer", &self.transfer)] {
            if let Some(i) = targets.iter().position(|t| t.rejected.is_none()) {
                return defect(field, format!("has no `rejected` item in entry {}; a judge compares two items", i + 1));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn users_are_read_from_json_lines_and_bad_ones_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.jsonl");
        let good = r#"{"uid":"a","history":[{"chosen":"x"}],"targets":[{"chosen":"x","rejected":"y"}]}"#;
        let read = |second: &str| {
            fs::write(&path, format!("{good}\n{second}\n")).unwrap();
            chat::jsonl::read::<EvalUser>(&path)
        };
        let users = read("").unwrap();
        assert_eq!((users[0].transfer.len(), users[0].truth.clone()), (0, None));
        for (bad, message) in [
            (good.replace(r#","rejected":"y""#, ""), "field `targets` has no `rejected` item in entry 1"),
            (good.replace(r#"[{"chosen":"x"}]"#, "[]"), "field `history` is missing or empty"),
            (good.replace(r#""a""#, r#""""#), "field `uid` is empty"),
            (good.replace("targets", "goals"), "missing field `targets`"),
            (
                good.replace("[{\"chosen\":\"x\",", "[{\"chosen\":7,"),
                "field `targets[0].chosen`: invalid type: integer `7`",
            ),
        ] {
            let error = read(&bad).unwrap_err().to_string();
            assert!(error.contains("users.jsonl:2: ") && error.contains(message), "{error}");
        }
    }

    #[test]
    fn the_history_of_a_user_may_be_messages() {
        let parse = |row: &str| serde_json::from_str::<EvalUser>(row).unwrap();
        let messages = r#""messages":[{"role":"user","content":"q"},{"role":"assistant","content":"r"}]"#;
        let targets = r#""targets":[{"chosen":"x","rejected":"y"}]"#;
        let user = parse(&format!(r#"{{"uid":"a",{messages},{targets}}}"#));
        assert_eq!((user.defect(), user.items().noun(), user.items().len()), (None, "messages", 2));
        assert_eq!(parse(&serde_json::to_string(&user).unwrap()), user);
        let both = parse(&format!(r#"{{"uid":"a","history":[{{"chosen":"x"}}],{messages},{targets}}}"#));
        assert_eq!(both.defect().unwrap().field, "messages");
        assert_eq!(parse(&format!(r#"{{"uid":"a",{targets}}}"#)).defect().unwrap().field, "history");
        // Published benchmarks have messages in `history`, and one target.
        let published = format!(
            r#"{{"userid":"a",{},"target":{{"chosen":"x","rejected":"y"}}}}"#,
            messages.replace("messages", "history")
        );
        assert_eq!(parse(&published), user);
        // The rows of histories name their interactions so.
        let history = parse(&format!(r#"{{"uid":"a","interactions":[{{"chosen":"x"}}],{targets}}}"#));
        assert_eq!((history.defect(), history.items().noun()), (None, "interactions"));
    }

    #[test]
    fn users_of_a_published_benchmark_have_one_target() {
        let target = r#"{"query":"q","chosen":"x","rejected":"y"}"#;
        let parse = |row: &str| serde_json::from_str::<EvalUser>(row);
        let published = format!(r#"{{"userid":7,"history":[{{"chosen":"a"}}],"target":{target},"transfer":null}}"#);
        let published = parse(&published).unwrap();
        let own = parse(&format!(r#"{{"uid":"7","history":[{{"chosen":"a"}}],"targets":[{target}]}}"#)).unwrap();
        assert_eq!(published, own);
        assert_eq!(serde_json::to_value(&own).unwrap()["targets"][0]["rejected"], "y");
        for targets in ["7", "null", "\"x\""] {
            let row = format!(r#"{{"uid":"7","history":[{{"chosen":"a"}}],"target":{targets}}}"#);
            let refused = parse(&row).unwrap_err().to_string();
            assert!(refused.contains("expected an object or a list of objects"), "{refused}");
        }
        let twice = format!(r#"{{"uid":"7","history":[],"targets":[],"target":{target}}}"#);
        assert!(parse(&twice).unwrap_err().to_string().contains("duplicate field `targets`"));
    }
}
