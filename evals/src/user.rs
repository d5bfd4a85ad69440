//! The users of an evaluation.

use chat::records::{Checked, RowDefect};
use chat::{Interaction, fields};
use serde::{Deserialize, Serialize};

use crate::TargetKind;

/// A user with held-out choices. Files hold one JSON object per line, with these fields or as published: `userid`, `history`, and one
/// `target`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvalUser {
    /// The id of the user, unique in a file.
    #[serde(alias = "userid", deserialize_with = "fields::user_id")]
    pub uid: String,
    /// The interactions that summaries are written from, oldest first; all of one domain.
    pub history: Vec<Interaction>,
    /// The held-out choices in the same domain.
    #[serde(alias = "target", deserialize_with = "fields::one_or_more")]
    pub targets: Vec<Interaction>,
    /// The held-out choices in other domains, for measuring transfer; may be absent.
    #[serde(default)]
    pub transfer: Vec<Interaction>,
    /// The user's true preferences in words (the oracle's summary), if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truth: Option<String>,
}

impl EvalUser {
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
        if self.history.is_empty() {
            return defect("history", "is empty; expected at least one interaction".into());
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
            (good.replace(r#"[{"chosen":"x"}]"#, "[]"), "field `history` is empty"),
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
    fn users_of_a_published_benchmark_have_one_target() {
        let target = r#"{"query":"q","chosen":"x","rejected":"y"}"#;
        let parse = |row: &str| serde_json::from_str::<EvalUser>(row);
        let published = parse(&format!(r#"{{"userid":7,"history":[{{"chosen":"a"}}],"target":{target}}}"#)).unwrap();
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
