//! Reads rows: the rendered prompt, and the values that it was rendered from if the row has them.

use std::path::Path;

use chat::records::{Checked, RowDefect};
use chat::{Interaction, Message, Role, jsonl};
use corpus::{RowLocation, raw, source};
use hub::HubSettings;
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::error::{RecoverError, cut};
use super::shape::TURN;

/// A rendered prompt.
#[derive(Clone, Debug)]
pub struct PromptSample {
    /// The file and the row, for messages.
    pub(crate) place: String,
    file: String,
    number: u64,
    /// The texts of the system turn, if there is one, and of the user's turn, joined by [`TURN`].
    pub(crate) text: String,
    pub(crate) values: Option<Values>,
}

/// The values of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Values {
    Summarize { past: Option<String>, interactions: Vec<Interaction> },
    Judge { query: Option<String>, preference: String, item_a: String, item_b: String },
}

/// The values of a row whose prompt alone does not tell them.
#[derive(Clone, Debug, Deserialize)]
struct ExampleValues {
    /// The number of the row, from 1, as messages state it.
    row: u64,
    /// The name of the file, if there are several.
    #[serde(default)]
    file: Option<String>,
    /// The past summary; `null` for none.
    past: Option<String>,
    interactions: Vec<Interaction>,
}

impl Checked for ExampleValues {
    fn defect(&self) -> Option<RowDefect> {
        (self.interactions.len() < 2).then(|| RowDefect {
            field: "interactions",
            message: format!("has {}; expected at least 2: choose a row with more", self.interactions.len()),
        })
    }
}

/// Reads the prompts of a file, a folder or a dataset of the hub, in JSON lines, JSON arrays or Parquet.
///
/// A row has `prompt` or `messages`. The values are known if it also has `extra_info` with the history of an RL row;
/// `history` or `interactions`, and `past` if there is one; or `preference`, `item_a`, `item_b` and perhaps `query`.
///
/// # Errors
/// Returns an error if `given` is not available or has no rows, and for the first row that has no such prompt.
pub fn read(given: &Path) -> Result<Vec<PromptSample>, RecoverError> {
    let mut samples = Vec::new();
    for path in source::files(given, &HubSettings::from_environment())? {
        for row in raw::open(&path)? {
            let row = row?;
            let number = match row.place {
                RowLocation::Line(number) | RowLocation::Row(number) => number,
            };
            let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let place = format!("{}, {}", path.display(), row.place);
            let found = prompts(&row.json).map_err(|message| RecoverError::Row { place: place.clone(), message })?;
            samples.extend(found.into_iter().map(|(text, values)| PromptSample {
                place: place.clone(),
                file: file.clone(),
                number,
                text,
                values,
            }));
        }
    }
    if samples.is_empty() {
        let message = "has no rows; expected at least one".into();
        return Err(RecoverError::Row { place: given.display().to_string(), message });
    }
    Ok(samples)
}

/// Reads the values of some rows from a file of JSON lines `{row, past, interactions}`, with `file` if there are
/// several files.
///
/// # Errors
/// Returns an error if the file cannot be read, or for an example that names no row.
pub fn read_examples(path: &Path, samples: &mut [PromptSample]) -> Result<(), RecoverError> {
    for example in jsonl::read::<ExampleValues>(path)? {
        let is_it = |sample: &&mut PromptSample| {
            sample.number == example.row && example.file.as_ref().is_none_or(|file| *file == sample.file)
        };
        let Some(sample) = samples.iter_mut().find(is_it) else {
            let message = format!("no row {} in the rows; expected a number as in \"line 1\"", example.row);
            return Err(RecoverError::Row { place: path.display().to_string(), message });
        };
        sample.values = Some(Values::Summarize { past: example.past, interactions: example.interactions });
    }
    Ok(())
}

/// Returns the prompts of a row with their values.
fn prompts(json: &str) -> Result<Vec<(String, Option<Values>)>, String> {
    let value: Json = serde_json::from_str(json).map_err(|e| e.to_string())?;
    let Json::Object(mut fields) = value else { return Err("is no object".into()) };
    fields.retain(|_, value| !value.is_null());
    let field = ["prompt", "messages"].into_iter().find(|name| fields.contains_key(*name));
    let Some(field) = field else { return Err("has no `prompt`; expected `prompt` or `messages`".into()) };
    let conversations = conversations(field, &fields[field])?;
    if conversations.is_empty() {
        return Err(format!("field `{field}` has no user turn; expected one"));
    }
    let source = match fields.get("extra_info") {
        Some(Json::Object(info)) if info.contains_key("history") => info,
        _ => &fields,
    };
    conversations
        .into_iter()
        .map(|turns| {
            let text = join(field, &turns)?;
            let values = values(source, &text)?;
            Ok((text, values))
        })
        .collect()
}

/// Joins the turns of a prompt.
fn join(field: &str, turns: &[Message]) -> Result<String, String> {
    let roles: Vec<Role> = turns.iter().map(|turn| turn.role).collect();
    if !matches!(roles[..], [Role::User] | [Role::System, Role::User]) {
        return Err(format!(
            "field `{field}` has the turns {roles:?}; expected a system turn, if any, and one user turn"
        ));
    }
    if turns.iter().any(|turn| turn.content.contains(TURN)) {
        return Err(format!("field `{field}` has the character U+FFFF; remove the row"));
    }
    let texts: Vec<&str> = turns.iter().map(|turn| turn.content.as_str()).collect();
    Ok(texts.join(&TURN.to_string()))
}

/// Returns the prompts of a field: one conversation, or several prompts as texts, user turns or conversations.
fn conversations(field: &str, value: &Json) -> Result<Vec<Vec<Message>>, String> {
    let expected = "expected a text, messages with role and content, or a list of prompts";
    match value {
        Json::String(text) => Ok(vec![vec![Message::user(text)]]),
        Json::Array(parts) if parts.iter().all(Json::is_object) => {
            let messages: Result<Vec<Message>, _> = parts.iter().map(Message::deserialize).collect();
            Ok(split(messages.map_err(|e| format!("field `{field}`: {e}; {expected}"))?))
        }
        Json::Array(parts) => {
            let each = parts.iter().map(|part| conversations(field, part));
            Ok(each.collect::<Result<Vec<_>, _>>()?.concat())
        }
        _ => Err(format!("field `{field}`: {expected}")),
    }
}

/// Splits turns into prompts of one user turn each, with the system turn before it. The model's turns, and what follows
/// them, are no prompt.
fn split(turns: Vec<Message>) -> Vec<Vec<Message>> {
    let mut system: Option<Message> = None;
    let mut prompts = Vec::new();
    for turn in turns {
        match turn.role {
            Role::System => system = Some(turn),
            Role::User => prompts.push(system.iter().cloned().chain([turn]).collect()),
            Role::Assistant => break,
        }
    }
    prompts
}

fn values(fields: &Map<String, Json>, text: &str) -> Result<Option<Values>, String> {
    let string = |name: &str| match fields.get(name) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("field `{name}` is no string")),
    };
    if let (Some(preference), Some(item_a), Some(item_b)) =
        (string("preference")?, string("item_a")?, string("item_b")?)
    {
        return Ok(Some(Values::Judge { query: string("query")?, preference, item_a, item_b }));
    }
    let Some(name) = ["history", "interactions"].into_iter().find(|name| fields.contains_key(*name)) else {
        return Ok(None);
    };
    let wrong =
        |e: serde_json::Error| format!("field `{name}`: {e}; expected interactions {{query, chosen, rejected}}");
    let history: Vec<Interaction> = match &fields[name] {
        Json::String(json) => serde_json::from_str(json).map_err(wrong)?,
        other => Vec::deserialize(other).map_err(wrong)?,
    };
    let mid = fields.get("mid_position").and_then(Json::as_u64).and_then(|mid| usize::try_from(mid).ok());
    let interactions = window(&history, mid, text).ok_or_else(|| {
        let chosen = history.first().map(|item| cut(&item.chosen)).unwrap_or_default();
        format!(
            "no part of `{name}` is in the prompt, from {chosen:?} on; expected the chosen items as they were rendered"
        )
    })?;
    Ok(Some(Values::Summarize { past: string("past")?, interactions: interactions.to_vec() }))
}

/// Returns the part of a history that a prompt holds. An RL row has prompts of the history before the first target,
/// from there to the last one, and of all before the last one.
fn window<'h>(history: &'h [Interaction], mid: Option<usize>, text: &str) -> Option<&'h [Interaction]> {
    let last = history.len().checked_sub(1)?;
    let mut parts = vec![history];
    if let Some(mid) = mid.filter(|mid| *mid <= last) {
        parts.extend([&history[..last], &history[mid..last], &history[..mid]]);
    }
    // The longest part that the prompt holds is the part it was rendered from.
    parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
    parts.into_iter().find(|part| !part.is_empty() && holds(text, part))
}

/// Returns whether a text holds the chosen items in order.
fn holds(text: &str, part: &[Interaction]) -> bool {
    let mut rest = text;
    part.iter().all(|item| match rest.find(&item.chosen) {
        Some(at) => {
            rest = &rest[at + item.chosen.len()..];
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(values: &Option<Values>) -> Vec<&str> {
        match values {
            Some(Values::Summarize { interactions, .. }) => interactions.iter().map(|i| i.chosen.as_str()).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn an_sft_row_has_no_values() {
        let json = r#"{"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
            "completion": [{"role": "assistant", "content": "c"}]}"#;
        assert_eq!(prompts(json).unwrap(), [("s\u{FFFF}u".to_string(), None)]);
    }

    #[test]
    fn each_prompt_of_an_rl_row_has_its_part_of_the_history() {
        let history = r#"[{"chosen": "a1", "rejected": "x"}, {"chosen": "b2", "rejected": "x"},
            {"chosen": "c3", "rejected": "x"}, {"chosen": "d4", "rejected": "x"}]"#;
        let info = format!(r#""extra_info": {{"userid": 7, "mid_position": 2, "history": {history}}}"#);
        let texts = ["read a1 b2", "read c3", "read a1 b2 c3"];
        let turns = texts.map(|text| format!(r#"{{"role": "user", "content": "{text}"}}"#));
        let nested = turns.clone().map(|turn| format!("[{turn}]"));
        let plain = texts.map(|text| format!("\"{text}\""));
        for list in [turns, nested, plain] {
            let found = prompts(&format!("{{\"prompt\": [{}], {info}}}", list.join(","))).unwrap();
            assert_eq!(found.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>(), texts);
            assert_eq!(items(&found[0].1), ["a1", "b2"]);
            assert_eq!(items(&found[1].1), ["c3"]);
            assert_eq!(items(&found[2].1), ["a1", "b2", "c3"]);
        }
        let error = prompts(&format!("{{\"prompt\": \"read nothing\", {info}}}")).unwrap_err();
        assert!(error.contains("no part of `history`"), "{error}");
    }

    #[test]
    fn messages_beside_their_values() {
        let judge = r#"{"messages": [{"role": "user", "content": "q p a b"}, {"role": "assistant", "content": "A"}],
            "query": null, "preference": "p", "item_a": "a", "item_b": "b"}"#;
        let found = prompts(judge).unwrap();
        assert_eq!(found[0].0, "q p a b");
        assert!(matches!(&found[0].1, Some(Values::Judge { query: None, preference, .. }) if preference == "p"));
        let own =
            r#"{"messages": "a past, a c", "past": "a past", "interactions": [{"chosen": "c", "rejected": null}]}"#;
        let values = prompts(own).unwrap().remove(0).1;
        assert!(matches!(&values, Some(Values::Summarize { past: Some(past), .. }) if past == "a past"));
    }

    #[test]
    fn other_rows_are_refused() {
        for (json, words) in [
            ("3", "no object"),
            ("{}", "no `prompt`"),
            (r#"{"prompt": 3}"#, "field `prompt`"),
            (r#"{"prompt": [{"role": "robot", "content": "x"}]}"#, "robot"),
            (r#"{"prompt": "x", "history": [{"chosen": 3}]}"#, "field `history`"),
        ] {
            let error = prompts(json).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
