//! Rows for reinforcement learning: users with their histories.

use std::path::Path;

use chat::records::Checked;
use chat::{Interaction, RlRow, fields};
use configs::Unusable;
use hub::HubSettings;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use crate::CorpusError;
use crate::raw;
use crate::rows::in_words;
use crate::source::files;

/// The expected fields, for error messages.
const FORMS: &str = "expected {uid, history, mid_position} or {uid, messages, stage_targets, mid_position}";

/// The maximum number of skipped rows that are described.
const DESCRIBED: usize = 3;

/// The usable rows of a dataset, and the count of the others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Users {
    /// The usable rows, in the order of the files.
    pub rows: Vec<RlRow>,
    /// The number of rows that were skipped because they are unusable.
    pub skipped: usize,
    /// The location of the first skipped rows, and what is wrong with each.
    pub reasons: Vec<String>,
}

impl Users {
    /// Describes the skipped rows: their number and the first reasons. Returns `None` if no row was skipped.
    pub fn skipped_in_words(&self) -> Option<String> {
        let more = if self.skipped > self.reasons.len() { "; …" } else { "" };
        (self.skipped > 0).then(|| {
            let (skipped, all) = (self.skipped, self.skipped + self.rows.len());
            format!("{skipped} of {all} rows skipped as unusable (data.unusable): {}{more}", self.reasons.join("; "))
        })
    }

    fn skip(&mut self, reason: String) {
        self.skipped += 1;
        if self.reasons.len() < DESCRIBED {
            self.reasons.push(reason);
        }
    }
}

/// The fields of `extra_info` that we use in the format that AlignXplore+ passes to verl.
#[derive(Deserialize)]
struct ExtraInfo {
    #[serde(alias = "uid", deserialize_with = "fields::user_id")]
    userid: String,
    mid_position: usize,
    history: Vec<Interaction>,
    #[serde(default)]
    targets: Vec<Interaction>,
    #[serde(default)]
    transfer: Vec<Interaction>,
    #[serde(default)]
    references: Vec<String>,
}

/// What is wrong with a row.
enum UnusableRow {
    /// It is not JSON, so the file may be damaged.
    NotJson(String),
    /// It is JSON, but not of a user who can be trained on.
    Unusable(String),
}

/// Loads the rows of `given`: a file, a folder or a dataset of the hub, in JSON lines, JSON arrays or Parquet. Rows
/// have the format `{uid, history, mid_position, …}` or the one published for verl; users whose histories are messages
/// have `messages` and `stage_targets` in place of `history`. A field that is null counts as absent.
///
/// A row is unusable if it lacks a field, a field has another type, it has fewer than three interactions, or
/// `mid_position` is not between the first and the last interaction ([`RlRow`]'s `defect`). `unusable` selects whether such rows are errors.
///
/// # Errors
/// Returns an error if `given` is not available, has no usable row, a row is not JSON, or a row is unusable and
/// `unusable` is `error`.
pub fn users(given: &Path, unusable: Unusable, settings: &HubSettings) -> Result<Users, CorpusError> {
    let mut users = Users::default();
    for path in files(given, settings)? {
        for row in raw::open(&path)? {
            let row = row?;
            let (path, place) = (path.clone(), row.place);
            match (parse(&row.json), unusable) {
                (Ok(user), _) => users.rows.push(user),
                (Err(UnusableRow::NotJson(message)), _) => return Err(CorpusError::Row { path, place, message }),
                (Err(UnusableRow::Unusable(message)), Unusable::Error) => {
                    return Err(CorpusError::UnusableUser { path, place, message });
                }
                (Err(UnusableRow::Unusable(message)), Unusable::Skip) => {
                    users.skip(format!("{}, {place}: {message}", path.display()));
                }
            }
        }
    }
    if !users.rows.is_empty() {
        return Ok(users);
    }
    let name = given.display().to_string();
    Err(match users.reasons.into_iter().next() {
        Some(first) => CorpusError::NoUsableUser { name, read: users.skipped, first },
        None => CorpusError::Empty { name, read: 0 },
    })
}

fn parse(json: &str) -> Result<RlRow, UnusableRow> {
    let mut row: Json = serde_json::from_str(json).map_err(|e| UnusableRow::NotJson(in_words(&e)))?;
    if !row.is_object() {
        return Err(UnusableRow::Unusable(format!("is not an object; {FORMS}")));
    }
    let own = row.get("history").is_some_and(|history| !history.is_null());
    let parsed = match row.get_mut("extra_info").filter(|info| !own && info.is_object()) {
        Some(info) => of_published(info.take()),
        None => deserialize(row),
    };
    let parsed = parsed.map_err(UnusableRow::Unusable)?;
    match parsed.defect() {
        None => Ok(parsed),
        Some(defect) => Err(UnusableRow::Unusable(format!("field `{}` {}", defect.field, defect.message))),
    }
}

fn of_published(extra_info: Json) -> Result<RlRow, String> {
    let ExtraInfo { userid, mid_position, history, targets, transfer, references } = deserialize(extra_info)?;
    Ok(RlRow {
        uid: userid,
        distance_to_end: history.len().saturating_sub(mid_position).saturating_sub(1),
        history,
        mid_position,
        targets,
        transfer,
        references,
        ..RlRow::default()
    })
}

/// Deserializes an object without its null fields; a message names the field.
fn deserialize<T: DeserializeOwned>(mut row: Json) -> Result<T, String> {
    if let Json::Object(fields) = &mut row {
        fields.retain(|_, value| !value.is_null());
    }
    serde_path_to_error::deserialize(row).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { String::new() } else { format!("field `{path}`: ") };
        format!("{field}{}; {FORMS}", error.inner())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(name: &str, text: &str, unusable: Unusable) -> Result<Users, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let settings = HubSettings { offline: true, ..HubSettings::from_environment() };
        users(&path, unusable, &settings).map_err(|e| e.to_string())
    }

    fn read(name: &str, text: &str) -> Result<Vec<RlRow>, String> {
        load(name, text, Unusable::Error).map(|users| users.rows)
    }

    const CHOICES: &str = r#"[{"query": null, "chosen": "a", "rejected": "b"}, {"query": null, "chosen": "c", "rejected": "d"},
        {"query": "q", "chosen": "e", "rejected": "f"}]"#;

    fn row(fields: &str) -> String {
        format!(r#"{{"history": {}, {fields}}}"#, CHOICES.replace('\n', " "))
    }

    #[test]
    fn both_forms_say_the_same() {
        let choices = CHOICES.replace('\n', " ");
        let own = format!(r#"{{"uid": "7", "history": {choices}, "mid_position": 1}}"#);
        let published = format!(
            r#"[{{"data_source": "upi", "prompt": ["x"], "extra_info": {{"userid": "7", "mid_position": 1, "index": 0,
                "history": {choices}}}}}]"#
        );
        let (own, published) = (read("a.jsonl", &own).unwrap(), read("a.json", &published).unwrap());
        assert_eq!(own[0].history, published[0].history);
        assert_eq!((published[0].uid.as_str(), published[0].mid_position, published[0].distance_to_end), ("7", 1, 1));
    }

    #[test]
    fn both_forms_hold_choices_in_other_domains_and_reference_summaries() {
        let more = r#""mid_position": 1, "targets": [{"chosen": "t"}], "references": ["Likes a."],
            "transfer": [{"chosen": "x", "rejected": "y", "domain": "books", "task": "recommendation"}]"#;
        let more = more.replace('\n', " ");
        let own = row(&format!(r#""uid": "7", {more}"#));
        let published = format!(r#"{{"extra_info": {}}}"#, row(&format!(r#""userid": "7", {more}"#)));
        for text in [own, published] {
            let user = &read("a.jsonl", &text).unwrap()[0];
            assert_eq!((user.targets.len(), user.references.as_slice()), (1, &["Likes a.".to_owned()][..]));
            let [transfer] = &user.transfer[..] else { panic!("{:?}", user.transfer) };
            assert_eq!((transfer.domain.as_deref(), transfer.task.as_deref()), (Some("books"), Some("recommendation")));
        }
    }

    #[test]
    fn rows_may_hold_messages_with_targets_of_their_own() {
        let messages = r#""messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]"#;
        let row = |fields: &str| read("a.jsonl", &format!(r#"{{"uid": 7, "history": null, {messages}, {fields}}}"#));
        let targets = r#""stage_targets": [{"chosen": "a", "rejected": "b"}]"#;
        let user = &row(&format!(r#"{targets}, "mid_position": 1"#)).unwrap()[0];
        assert_eq!((user.messages.len(), user.stage_targets.len(), user.history.len()), (2, 1, 0));
        let refusal = row(targets).unwrap_err();
        assert!(refusal.contains("`mid_position` is 0 or missing; expected 1 to 2 for 2 messages"), "{refusal}");
        let refusal = row(r#""mid_position": 1"#).unwrap_err();
        assert!(refusal.contains("field `stage_targets` is missing or empty"), "{refusal}");
    }

    #[test]
    fn ids_may_be_numbers_and_records_null() {
        let records = r#""mid_record": null, "last_record": {"logprob1": null, "signal": 0.5}, "signal_gap": null"#;
        let own = row(&format!(
            r#""uid": 7, "mid_position": 1, "targets": null, "transfer": null, "extra_info": null, {records}"#
        ));
        let own = &read("a.jsonl", &own).unwrap()[0];
        assert_eq!((own.uid.as_str(), own.signal_gap, own.targets.len()), ("7", 0.0, 0));
        assert_eq!((own.mid_record.signal, own.last_record.logprob1, own.last_record.signal), (0.0, 0.0, 0.5));
        let info = row(r#""userid": 114821, "mid_position": 1"#);
        let published = format!(r#"{{"uid": null, "history": null, "extra_info": {info}}}"#);
        assert_eq!(read("a.jsonl", &published).unwrap()[0].uid, "114821");
    }

    #[test]
    fn a_row_that_is_neither_is_refused_with_its_place() {
        let good = format!(r#"{{"uid": "7", "history": {}, "mid_position": 1}}"#, CHOICES.replace('\n', " "));
        let refusal =
            read("a.jsonl", &format!("{good}\n{}", good.replace("\"mid_position\": 1", "\"mid_position\": 2")));
        let refusal = refusal.unwrap_err();
        assert!(refusal.contains("line 2") && refusal.contains("`mid_position` is 2; expected 1 to 1"), "{refusal}");
        assert!(refusal.contains("fix or remove this row, or skip such rows with data.unusable = \"skip\""));
        let refusal = read("a.jsonl", r#"{"uid": "7"}"#).unwrap_err();
        assert!(refusal.contains("line 1") && refusal.contains("history"), "{refusal}");
        assert!(read("a.jsonl", "").unwrap_err().contains("no rows"));
    }

    /// Rows of which no user can be trained on, each with what is said of it.
    fn unusable() -> Vec<(String, &'static str)> {
        let good = row(r#""uid": 7, "mid_position": 1"#);
        vec![
            (row(r#""mid_position": 1"#), "missing field `uid`"),
            (row(r#""uid": null, "mid_position": 1"#), "missing field `uid`"),
            (row(r#""uid": true, "mid_position": 1"#), "field `uid`: invalid type: boolean `true`, expected a user id"),
            (row(r#""uid": 7"#), "field `mid_position` is 0 or missing; expected 1 to 1"),
            (row(r#""uid": 7, "mid_position": 0"#), "field `mid_position` is 0 or missing; expected 1 to 1"),
            (row(r#""uid": 7, "mid_position": -1"#), "field `mid_position`: invalid value"),
            (r#"{"uid": 7, "history": null, "mid_position": 1}"#.into(), "field `history` is missing or empty"),
            (r#"{"uid": 7, "history": [], "mid_position": 1}"#.into(), "field `history` is missing or empty"),
            (good.replace("\"c\"", "null"), "field `history[1].chosen`: invalid type: null, expected a string"),
            (good.replace("\"chosen\": \"c\", ", ""), "field `history[1]`: missing field `chosen`"),
            (r#"{"extra_info": {"userid": 7, "mid_position": 1}}"#.into(), "missing field `history`"),
            ("[7]".into(), "is not an object; expected {uid, history, mid_position}"),
        ]
    }

    #[test]
    fn an_unusable_row_is_an_error_by_default() {
        for (row, words) in unusable() {
            let refusal = read("a.jsonl", &format!("\n{row}")).unwrap_err();
            assert!(refusal.contains("a.jsonl, line 2: ") && refusal.contains(words), "{row}: {refusal}");
        }
    }

    #[test]
    fn unusable_rows_are_skipped_and_counted_if_asked() {
        let good = row(r#""uid": 7, "mid_position": 1"#);
        let unusable = unusable();
        let bad: Vec<&str> = unusable.iter().map(|(row, _)| row.as_str()).collect();
        let users = load("a.jsonl", &format!("{good}\n{}\n{good}\n", bad.join("\n")), Unusable::Skip).unwrap();
        assert_eq!((users.rows.len(), users.skipped, users.reasons.len()), (2, bad.len(), 3));
        assert!(users.reasons[1].contains("a.jsonl, line 3: missing field `uid`"), "{:?}", users.reasons);
        let words = users.skipped_in_words().unwrap();
        assert!(words.starts_with("12 of 14 rows skipped as unusable (data.unusable): "), "{words}");
        assert!(words.contains("line 4: field `uid`") && words.ends_with("; …"), "{words}");

        let whole = load("a.jsonl", &good, Unusable::Skip).unwrap();
        assert_eq!((whole.skipped, whole.skipped_in_words()), (0, None));
        let refusal = load("a.jsonl", &bad.join("\n"), Unusable::Skip).unwrap_err();
        assert!(
            refusal.contains("none of its 12 rows") && refusal.contains("line 1: missing field `uid`"),
            "{refusal}"
        );
        let damaged = load("a.jsonl", &format!("{good}\n{{\"uid\": 7, "), Unusable::Skip).unwrap_err();
        assert!(damaged.contains("line 2: not JSON"), "{damaged}");
    }
}
