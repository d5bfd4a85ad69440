//! Rows for reinforcement learning: users with their histories.

use std::path::Path;

use chat::RlRow;
use chat::records::Checked;
use hub::HubSettings;
use serde::Deserialize;

use crate::CorpusError;
use crate::raw;
use crate::raw_row::RawRow;
use crate::source::files;

/// A row in the format that AlignXplore+ passes to verl: the fields that we use are in `extra_info`.
#[derive(Deserialize)]
struct Published {
    extra_info: ExtraInfo,
}

#[derive(Deserialize)]
struct ExtraInfo {
    #[serde(alias = "uid")]
    userid: String,
    mid_position: usize,
    history: Vec<chat::Interaction>,
}

/// Loads all rows of `given`: a file, a folder or a dataset of the hub, in JSON lines, JSON arrays or Parquet. Rows
/// have the format `{uid, history, mid_position, …}` or the one published for verl.
///
/// # Errors
/// Returns an error if `given` is not available, has no rows, or a row has neither format or cannot be used.
pub fn users(given: &Path, settings: &HubSettings) -> Result<Vec<RlRow>, CorpusError> {
    let mut rows = Vec::new();
    for path in files(given, settings)? {
        for row in raw::open(&path)? {
            let row = row?;
            rows.push(parse(&row).map_err(|message| CorpusError::Row {
                path: path.clone(),
                place: row.place,
                message,
            })?);
        }
    }
    if rows.is_empty() { Err(CorpusError::Empty { name: given.display().to_string(), read: 0 }) } else { Ok(rows) }
}

fn parse(row: &RawRow) -> Result<RlRow, String> {
    let parsed = match serde_json::from_str::<Published>(&row.json) {
        Ok(Published { extra_info: ExtraInfo { userid, mid_position, history } }) => RlRow {
            uid: userid,
            distance_to_end: history.len().saturating_sub(mid_position).saturating_sub(1),
            history,
            mid_position,
            mid_record: Default::default(),
            last_record: Default::default(),
            signal_gap: 0.0,
            targets: Vec::new(),
        },
        Err(_) => {
            serde_json::from_str(&row.json).map_err(|e| format!("{e}; expected {{uid, history, mid_position}}"))?
        }
    };
    match parsed.defect() {
        None => Ok(parsed),
        Some(defect) => Err(format!("`{}` {}", defect.field, defect.message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Vec<RlRow>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let settings = HubSettings { offline: true, ..HubSettings::from_environment() };
        users(&path, &settings).map_err(|e| e.to_string())
    }

    const CHOICES: &str = r#"[{"query": null, "chosen": "a", "rejected": "b"}, {"query": null, "chosen": "c", "rejected": "d"},
        {"query": "q", "chosen": "e", "rejected": "f"}]"#;

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
    fn a_row_that_is_neither_is_refused_with_its_place() {
        let good = format!(r#"{{"uid": "7", "history": {}, "mid_position": 1}}"#, CHOICES.replace('\n', " "));
        let refusal =
            read("a.jsonl", &format!("{good}\n{}", good.replace("\"mid_position\": 1", "\"mid_position\": 2")));
        let refusal = refusal.unwrap_err();
        assert!(refusal.contains("line 2") && refusal.contains("`mid_position` is 2; expected 1 to 1"), "{refusal}");
        let refusal = read("a.jsonl", r#"{"uid": "7"}"#).unwrap_err();
        assert!(refusal.contains("line 1") && refusal.contains("history"), "{refusal}");
        assert!(read("a.jsonl", "").unwrap_err().contains("no rows"));
    }
}
