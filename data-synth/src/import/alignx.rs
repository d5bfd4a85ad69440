//! AlignX: posts, each with the pairs of answers that the same person chose between before.

use chat::{History, Interaction};
use serde_json::{Map, Value as Json};

use super::rows::{self, READY, REPLY, RESPONSE_SELECTION, Row, UNUSED_BY_PAIRS};
use super::{Collector, Format, FormatDefaults, ImportError, Source, folder};

/// The field of the earlier pairs.
const PAIRS: &str = "Pair-wise Comparative Feedback";

/// The format `alignx`. The published training set holds rows with at least eight pairs, which the post follows.
pub(super) const FORMAT: Format = Format {
    name: "alignx",
    about: "AlignX: a JSON list (or JSON lines, Parquet) of posts with pair-wise comparative feedback",
    defaults: FormatDefaults { min_history: 9, ..READY },
    unused: UNUSED_BY_PAIRS,
    read,
};

fn read(source: &Source<'_>, collector: &mut Collector<'_>) -> Result<(), ImportError> {
    let mut number = 0;
    let files = folder::files(source.paths, "the JSON or Parquet files of AlignX", rows::holds_objects)?;
    source.plan(&files, collector)?;
    for path in files {
        rows::for_each(&path, None, collector, |collector, row| {
            let uid = format!("alignx_{number}");
            number += 1;
            row.user(user(row, uid)?, collector)
        })?;
    }
    Ok(())
}

/// Returns the pairs of a row, oldest first, and its post as the last choice.
pub(super) fn user(row: &Row<'_>, uid: String) -> Result<History, ImportError> {
    let fields = row.object()?;
    let mut interactions = Vec::new();
    for (index, earlier) in pairs(row, fields)?.iter().enumerate() {
        let at = format!("{PAIRS}[{index}]");
        let earlier = earlier.as_object().ok_or_else(|| row.bad(&at, "is not an object {prompt, chosen, rejected}"))?;
        interactions.push(pair(row, earlier, &at)?);
    }
    interactions.push(pair(row, fields, "")?);
    Ok(History { uid, interactions, ..History::default() })
}

fn pairs<'a>(row: &Row<'_>, fields: &'a Map<String, Json>) -> Result<&'a [Json], ImportError> {
    match fields.get(PAIRS) {
        None | Some(Json::Null) => Ok(&[]),
        Some(Json::Array(pairs)) => Ok(pairs),
        Some(_) => Err(row.bad(PAIRS, "is not a list of {prompt, chosen, rejected}")),
    }
}

fn pair(row: &Row<'_>, fields: &Map<String, Json>, at: &str) -> Result<Interaction, ImportError> {
    Ok(Interaction {
        query: row.text_in(fields, "prompt", at)?.map(Into::into),
        chosen: row.required_in(fields, "chosen", at)?.into(),
        rejected: Some(row.required_in(fields, "rejected", at)?.into()),
        domain: Some(REPLY.into()),
        task: Some(RESPONSE_SELECTION.into()),
    })
}

#[cfg(test)]
mod tests {
    use configs::synth::ImportConfig;

    use super::*;
    use crate::import::testing::{Imported, import_files, texts};

    fn config(min_history: Option<usize>) -> ImportConfig {
        ImportConfig { format: "alignx".into(), min_history, test_share: 0.0, ..ImportConfig::default() }
    }

    fn imported(text: &str, config: &ImportConfig) -> Result<Imported, String> {
        import_files(&[("alignx.json", text.as_bytes())], config, 1)
    }

    /// A post with this number of earlier pairs.
    fn post(pairs: usize) -> String {
        let pairs: Vec<String> = (0..pairs)
            .map(|i| {
                format!(
                    r#"{{"prompt": "q{i}", "chosen": "c{i}", "rejected": "r{i}", "Preference Direction": [0.5, 1]}}"#
                )
            })
            .collect();
        format!(r#"{{"prompt": "post", "chosen": "yes", "rejected": "no", "{PAIRS}": [{}]}}"#, pairs.join(", "))
    }

    const LIST: &str = r#"[
        {"prompt": "A [post], with {signs} and \"quotes\"", "chosen": "kept", "rejected": "left",
         "Preference Direction": [1, 0, 0.5], "Demographic Information": "", "User-Generated Content": [{"prompt": "p", "comment": "c"}],
         "Pair-wise Comparative Feedback": [
            {"prompt": null, "chosen": "first", "rejected": "other", "Preference Direction": [1]},
            {"prompt": "why?", "chosen": "second", "rejected": "third"}]},
        {"prompt": "alone", "chosen": "a", "rejected": "b", "Pair-wise Comparative Feedback": null},
        {"prompt": "alone", "chosen": "a", "rejected": "b"}
    ]"#;

    #[test]
    fn pairs_come_before_the_post() {
        let text = format!("\u{feff}{}", LIST.replace('\n', "\r\n"));
        let Imported { train, card, .. } = imported(&text, &config(Some(2))).unwrap();
        let choice = |query: Option<&str>, chosen: &str, rejected: &str| Interaction {
            query: query.map(Into::into),
            chosen: chosen.into(),
            rejected: Some(rejected.into()),
            domain: Some("reply".into()),
            task: Some("response selection".into()),
        };
        let interactions = vec![
            choice(None, "first", "other"),
            choice(Some("why?"), "second", "third"),
            choice(Some("A [post], with {signs} and \"quotes\""), "kept", "left"),
        ];
        assert_eq!(train, [History { uid: "alignx_0".into(), interactions, ..History::default() }]);
        assert_eq!(card.dropped["users with a history below import.min_history"], 2);
    }

    #[test]
    fn users_have_at_least_eight_pairs_as_published() {
        let text = [post(7), post(8), post(8)].join(",\n");
        let train = imported(&format!("[{text}]"), &config(None)).unwrap().train;
        let found: Vec<(&str, usize)> = train.iter().map(|user| (user.uid.as_str(), user.interactions.len())).collect();
        assert_eq!(found, [("alignx_1", 9), ("alignx_2", 9)], "equal rows are different users");
    }

    #[test]
    fn a_malformed_row_is_named_or_counted() {
        let text = format!("[{},{},{}]", post(1), post(2).replace("\"chosen\": \"c1\", ", ""), post(3));
        let field = "field `Pair-wise Comparative Feedback[1].chosen`";
        let error = imported(&text, &config(Some(2))).err().unwrap();
        assert!(error.contains(&format!("alignx.json:2: {field} is missing or empty")), "{error}");
        assert!(error.contains("(row 2 of the array)"), "{error}");
        let skip = ImportConfig { skip_bad: true, ..config(Some(2)) };
        let Imported { train, card, .. } = imported(&text, &skip).unwrap();
        assert_eq!(train.iter().map(|user| user.uid.as_str()).collect::<Vec<_>>(), ["alignx_0", "alignx_2"]);
        assert_eq!(card.bad_rows[&format!("alignx.json: {field}")], 1);
        assert_eq!(texts(&train[0].interactions), ["c0", "yes"]);
    }

    #[test]
    fn a_list_that_is_cut_off_is_named_or_read_up_to_there() {
        let text = format!("[{},{}", post(1), &post(2)[..60]);
        let error = imported(&text, &config(Some(2))).err().unwrap();
        assert!(error.contains("alignx.json:2: the file ends inside the array"), "{error}");
        let skip = ImportConfig { skip_bad: true, ..config(Some(2)) };
        let Imported { train, card, .. } = imported(&text, &skip).unwrap();
        assert_eq!((train.len(), card.bad_rows["alignx.json: row"]), (1, 1));
    }

    #[test]
    fn lines_are_read_too() {
        let text = format!("{}\r\n\r\n{}\n{{\"prompt\": 1", post(1), post(2));
        let error = import_files(&[("train.jsonl", text.as_bytes())], &config(Some(2)), 1).err().unwrap();
        assert!(error.contains("train.jsonl:4: is not JSON") && error.contains("cut off"), "{error}");
        let error = import_files(&[("train.csv", "a,b\n".as_bytes())], &config(Some(2)), 1).err().unwrap();
        assert!(error.contains("expected the JSON or Parquet files of AlignX"), "{error}");
    }
}
