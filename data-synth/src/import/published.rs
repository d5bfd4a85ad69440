//! The published files of AlignXplore+ (benchmarks and RL rows), and histories in this framework's own format.

use std::path::Path;

use chat::{History, Interaction, Message};
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::rows::{self, READY, Row, UNUSED_BY_PAIRS, scalar};
use super::{Collector, Format, ImportError, Source, folder};

/// The format `published`.
pub(super) const FORMAT: Format = Format {
    name: "published",
    about: "rows {userid, history, target} of the published benchmarks, RL rows {uid, history, mid_position}, or histories",
    defaults: READY,
    unused: UNUSED_BY_PAIRS,
    read,
};

fn read(source: &Source<'_>, collector: &mut Collector<'_>) -> Result<(), ImportError> {
    let mut number: u64 = 0;
    let files = folder::files(source.paths, "JSON, JSON lines or Parquet files of rows", rows::holds_objects)?;
    source.plan(&files, collector)?;
    for path in files {
        rows::for_each(&path, None, collector, |collector, row| {
            let fields = row.object()?;
            if fields.contains_key("completion") {
                return Err(sft_row(&path));
            }
            // Counted before the row is read, so that a malformed one does not change the ids of others.
            number += 1;
            row.user(history(row, fields, number - 1)?, collector)
        })?;
    }
    Ok(())
}

/// Returns the error of a file of SFT rows. It does not depend on `skip_bad`, because all rows of the file have it.
fn sft_row(path: &Path) -> ImportError {
    let expected = "rows with histories, not SFT rows, which need no import: name the file as data.train of xplore sft, or as \
                    --input of xplore synth export";
    ImportError::Missing { path: path.into(), expected: expected.into() }
}

fn history(row: &Row<'_>, fields: &Map<String, Json>, number: u64) -> Result<History, ImportError> {
    // The rows that the release passes to verl hold the history beside the prompts made from it.
    let nested = fields.get("extra_info").and_then(Json::as_object).filter(|info| info.contains_key("history"));
    let fields = nested.unwrap_or(fields);
    let uid = ["uid", "userid", "qa_index"].iter().find_map(|name| fields.get(*name).and_then(scalar));
    let mut history = History { uid: uid.map_or_else(|| number.to_string(), Into::into), ..History::default() };
    for name in ["interactions", "history", "messages"] {
        if let Some(items) = list(row, fields, name)? {
            match items.first() {
                Some(first) if first.get("role").is_some() => {
                    history.messages.extend(each::<Message>(row, items, name)?);
                }
                _ => history.interactions.extend(each::<Interaction>(row, items, name)?),
            }
        }
    }
    if history.interactions.is_empty() == history.messages.is_empty() {
        let found =
            if history.messages.is_empty() { "is missing or empty" } else { "has interactions beside messages" };
        return Err(row.bad(
            "history",
            format!("{found}; expected a list of {{query, chosen, rejected}} or of {{role, content}}"),
        ));
    }
    for name in ["targets", "stage_targets"] {
        history.targets.extend(each::<Interaction>(row, list(row, fields, name)?.unwrap_or_default(), name)?);
    }
    history.transfer = each(row, list(row, fields, "transfer")?.unwrap_or_default(), "transfer")?;
    if let Some(target) = fields.get("target").filter(|target| !target.is_null()) {
        let target = one::<Interaction>(row, target, "target")?;
        // A choice follows the choices before it. Messages hold no choices, so theirs stays beside them.
        if history.messages.is_empty() { history.interactions.push(target) } else { history.targets.push(target) }
    }
    Ok(history)
}

fn list<'a>(row: &Row<'_>, fields: &'a Map<String, Json>, name: &str) -> Result<Option<&'a [Json]>, ImportError> {
    match fields.get(name) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Array(items)) => Ok(Some(items)),
        Some(_) => Err(row.bad(name, "is not a list")),
    }
}

fn each<T: for<'de> Deserialize<'de>>(row: &Row<'_>, items: &[Json], name: &str) -> Result<Vec<T>, ImportError> {
    items.iter().enumerate().map(|(index, item)| one(row, item, &format!("{name}[{index}]"))).collect()
}

fn one<T: for<'de> Deserialize<'de>>(row: &Row<'_>, item: &Json, at: &str) -> Result<T, ImportError> {
    T::deserialize(item).map_err(|e| row.bad(at, format!("is malformed: {e}")))
}

#[cfg(test)]
mod tests {
    use configs::synth::ImportConfig;

    use super::*;
    use crate::import::testing::{Imported, import_files, texts};

    fn config() -> ImportConfig {
        ImportConfig { format: "published".into(), test_share: 0.0, ..ImportConfig::default() }
    }

    fn imported(text: &str) -> Result<Imported, String> {
        import_files(&[("rows.jsonl", text.as_bytes())], &config(), 1)
    }

    fn choice(chosen: &str) -> Interaction {
        Interaction { query: None, chosen: chosen.into(), rejected: Some("r".into()), ..Interaction::default() }
    }

    const CHOICES: &str = r#"[{"query": null, "chosen": "a", "rejected": "r"}, {"chosen": "b", "rejected": "r"}, {"chosen": "c", "rejected": "r"}]"#;

    #[test]
    fn the_target_of_a_benchmark_is_the_last_choice() {
        let row =
            |target: &str| format!(r#"{{"userid": 17, "history": {CHOICES}, "target": {target}, "profile": "p"}}"#);
        let other = row("null").replace("17", "18");
        let text = format!("\u{feff}{}\r\n{other}\r\n", row(r#"{"query": null, "chosen": "d", "rejected": "r"}"#));
        let train = imported(&text).unwrap().train;
        let interactions = ["a", "b", "c", "d"].map(choice).to_vec();
        assert_eq!(train[0], History { uid: "17".into(), interactions, ..History::default() });
        assert_eq!(texts(&train[1].interactions), ["a", "b", "c"]);
    }

    #[test]
    fn messages_keep_the_target_beside_them() {
        let text = r#"{"qa_index": 3, "history": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}], "target": {"query": "q", "chosen": "d", "rejected": "r"}, "golden": "g"}"#;
        let train = imported(text).unwrap().train;
        let target = Interaction { query: Some("q".into()), ..choice("d") };
        let messages = vec![Message::user("hi"), Message::assistant("ho")];
        assert_eq!(train, [History { uid: "3".into(), messages, targets: vec![target], ..History::default() }]);
    }

    #[test]
    fn rl_rows_of_both_forms_become_the_same_history() {
        let own = format!(r#"{{"uid": "u", "history": {CHOICES}, "mid_position": 1, "signal_gap": 0.0}}"#);
        let verl = format!(
            r#"{{"data_source": "upi", "prompt": ["x"], "extra_info": {{"userid": "v", "mid_position": 1, "history": {CHOICES}}}}}"#
        );
        let train = imported(&format!("{own}\n{verl}\n")).unwrap().train;
        assert_eq!(
            train[0],
            History { uid: "u".into(), interactions: ["a", "b", "c"].map(choice).to_vec(), ..History::default() }
        );
        assert_eq!(History { uid: "v".into(), ..train[0].clone() }, train[1]);
    }

    #[test]
    fn a_second_user_of_an_id_is_malformed() {
        let row = |uid: &str| format!(r#"{{{uid}"history": {CHOICES}}}"#);
        let text =
            [row(r#""userid": 0, "#), row(r#""userid": 5, "#), row(r#""userid": "0", "#), row(""), row("")].join("\n");
        let error = imported(&text).err().unwrap();
        assert!(error.contains("rows.jsonl:3: field `uid` is `0`, as in an earlier row; import files"), "{error}");
        let config = ImportConfig { skip_bad: true, ..config() };
        let Imported { train, card, .. } = import_files(&[("rows.jsonl", text.as_bytes())], &config, 1).unwrap();
        // Without an id, the number of the row, also behind a row that is skipped.
        assert_eq!(train.iter().map(|user| user.uid.as_str()).collect::<Vec<_>>(), ["0", "5", "3", "4"]);
        assert_eq!(card.bad_rows["rows.jsonl: field `uid`"], 1);
    }

    #[test]
    fn own_histories_pass_through_unchanged() {
        let interaction =
            Interaction { domain: Some("news".into()), task: Some("recommendation".into()), ..choice("a") };
        let history = History {
            uid: "u".into(),
            interactions: vec![interaction, choice("b")],
            targets: vec![choice("c")],
            transfer: vec![Interaction { rejected: None, ..choice("d") }],
            ..History::default()
        };
        let train = imported(&serde_json::to_string(&history).unwrap()).unwrap().train;
        assert_eq!(train, [history]);
    }

    #[test]
    fn other_rows_are_named() {
        let good = format!(r#"{{"uid": "u", "history": {CHOICES}}}"#);
        for (bad, words) in [
            (r#"{"uid": "u"}"#, "field `history` is missing or empty; expected a list of {query, chosen, rejected}"),
            (r#"{"uid": "u", "history": "a"}"#, "field `history` is not a list"),
            (
                r#"{"uid": "u", "history": [{"chosen": "a"}, {"rejected": "b"}]}"#,
                "field `history[1]` is malformed: missing field `chosen`",
            ),
            (r#"{"uid": "u", "history": [{"chosen": "a"}], "target": "b"}"#, "field `target` is malformed"),
            (r#"{"uid": "u", "history": [{"role": "user", "content": 1}]}"#, "field `history[0]` is malformed"),
            ("[1]", "is not an object; expected one JSON object for each row"),
            (r#"{"uid": "u", "hist"#, "is not JSON"),
        ] {
            let error = imported(&format!("{good}\n\n{bad}\n")).err().unwrap();
            assert!(error.contains("rows.jsonl:3: ") && error.contains(words), "{error}");
        }
        let error = imported(r#"{"prompt": [], "completion": []}"#).err().unwrap();
        assert!(error.contains("not SFT rows") && error.contains("data.train"), "{error}");
    }
}
