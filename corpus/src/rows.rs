//! The four row formats, recognized by their fields. Other fields are ignored, and so are null fields, which stand for
//! empty table cells.

use chat::{Message, Role};
use serde_json::{Map, Value as Json};

/// The expected formats, for error messages.
const FORMS: &str = "expected `prompt` and `completion`, `messages`, `text` and `indices`, or `text`";

/// The value of a field: text or turns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Plain text, without a chat template.
    Text(String),
    /// The turns of a conversation.
    Turns(Vec<Message>),
}

/// A row of training data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// A conversation and its completion.
    Turns {
        /// The turns of the prompt.
        prompt: Vec<Message>,
        /// The turns of the completion, which are trained.
        completion: Vec<Message>,
    },
    /// A text and its completion.
    Continued {
        /// The text of the prompt.
        prompt: String,
        /// The text of the completion, which is trained.
        completion: String,
    },
    /// A whole conversation.
    Conversation {
        /// The turns of the conversation.
        messages: Vec<Message>,
    },
    /// A whole text.
    Text {
        /// The text.
        text: String,
    },
    /// A text with explicit indices of its trained tokens.
    Marked {
        /// The text.
        text: String,
        /// The indices of the trained tokens, starting at 0. Each names a token that is predicted from the tokens
        /// before it.
        indices: Vec<usize>,
    },
}

impl Row {
    /// Parses the JSON of a row.
    ///
    /// # Errors
    /// Returns a message with the field, what is wrong with it, and what was expected.
    pub fn parse(json: &str) -> Result<Self, String> {
        let value: Json = serde_json::from_str(json).map_err(|e| in_words(&e))?;
        let Json::Object(mut fields) = value else { return Err(format!("is {}; expected an object", kind(&value))) };
        fields.retain(|_, value| !value.is_null());
        if fields.contains_key("prompt") && fields.contains_key("completion") {
            return continued(&fields["prompt"], &fields["completion"]);
        }
        if let Some(name) = ["messages", "conversations"].into_iter().find(|&name| fields.contains_key(name)) {
            return match said(name, &fields[name])? {
                Said::Turns(messages) if !messages.is_empty() => Ok(Self::Conversation { messages }),
                Said::Turns(_) => Err(format!("field `{name}` is empty; expected at least one message")),
                Said::Text(_) => Err(format!("field `{name}` is a string; expected a list of messages")),
            };
        }
        text(fields)
    }
}

fn text(mut fields: Map<String, Json>) -> Result<Row, String> {
    let text = match fields.remove("text") {
        Some(Json::String(text)) => text,
        Some(other) => return Err(format!("field `text` is {}; expected a string", kind(&other))),
        None => {
            let names: Vec<String> = fields.keys().map(|name| format!("`{name}`")).collect();
            let found = if names.is_empty() { "no fields".into() } else { names.join(", ") };
            return Err(format!("has {found}; {FORMS}"));
        }
    };
    match fields.remove("indices") {
        None => Ok(Row::Text { text }),
        Some(list) => {
            let indices = serde_json::from_value(list)
                .map_err(|e| format!("field `indices`: {e}; expected a list of token indices"))?;
            Ok(Row::Marked { text, indices })
        }
    }
}

fn continued(prompt: &Json, completion: &Json) -> Result<Row, String> {
    match (said("prompt", prompt)?, said("completion", completion)?) {
        (Said::Turns(prompt), _) if prompt.is_empty() => {
            Err("field `prompt` is empty; expected at least one message".into())
        }
        (Said::Turns(prompt), Said::Turns(completion)) => {
            if completion.iter().all(|m| m.content.trim().is_empty()) {
                return Err("field `completion` has no text; expected an assistant message to train on".into());
            }
            Ok(Row::Turns { prompt, completion })
        }
        (Said::Text(prompt), Said::Text(completion)) => Ok(Row::Continued { prompt, completion }),
        _ => Err("`prompt` and `completion` differ in type (string, list of messages); expected the same type".into()),
    }
}

/// Parses a field that holds a text or a list of messages.
fn said(field: &str, value: &Json) -> Result<Said, String> {
    match value {
        Json::String(text) => Ok(Said::Text(text.clone())),
        Json::Array(items) => {
            let turns = items.iter().enumerate().map(|(i, item)| message(&format!("{field}[{i}]"), item));
            Ok(Said::Turns(turns.collect::<Result<_, _>>()?))
        }
        other => Err(format!("field `{field}` is {}; expected a string or a list of messages", kind(other))),
    }
}

/// Parses a turn. ShareGPT's names of the two fields and of the roles are accepted as well.
fn message(field: &str, value: &Json) -> Result<Message, String> {
    let get = |names: [&str; 2], expected: &str| {
        let found = names.iter().find_map(|name| Some((name, value.get(name)?)));
        match found {
            Some((_, Json::String(text))) => Ok(text.as_str()),
            Some((name, other)) => Err(format!("field `{field}.{name}` is {}; expected {expected}", kind(other))),
            None => Err(format!("field `{field}` has no `{}`; expected {expected}", names[0])),
        }
    };
    let role = match get(["role", "from"], "system, user or assistant")? {
        "system" => Role::System,
        "user" | "human" => Role::User,
        "assistant" | "gpt" => Role::Assistant,
        other => return Err(format!("field `{field}.role` is \"{other}\"; expected system, user or assistant")),
    };
    Ok(Message { role, content: get(["content", "value"], "a string")?.to_owned() })
}

fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}

/// Returns serde_json's message with its position reduced to the column; the line number counts within the row.
pub(crate) fn in_words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let cause = text.rsplit_once(" at line ").map_or(text.as_str(), |(cause, _)| cause);
    format!("not JSON: {cause} (column {})", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat() -> Vec<Message> {
        vec![Message::user("a"), Message::assistant("b")]
    }

    #[test]
    fn the_forms_are_told_by_their_fields() {
        let turns = r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "tool_calls": null}]"#;
        let sharegpt = r#"[{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]"#;
        let conversation = Row::Conversation { messages: chat() };
        assert_eq!(Row::parse(&format!(r#"{{"messages": {turns}, "id": 3}}"#)).unwrap(), conversation);
        assert_eq!(Row::parse(&format!(r#"{{"conversations": {sharegpt}}}"#)).unwrap(), conversation);
        let with_prompt = format!(r#"{{"prompt": "a", "completion": null, "messages": {turns}, "text": null}}"#);
        assert_eq!(Row::parse(&with_prompt).unwrap(), conversation, "null is no field");
        let both = format!(r#"{{"prompt": {turns}, "completion": {turns}, "text": "left aside"}}"#);
        assert_eq!(Row::parse(&both).unwrap(), Row::Turns { prompt: chat(), completion: chat() });
        let plain = Row::Continued { prompt: "a".into(), completion: "b".into() };
        assert_eq!(Row::parse(r#"{"prompt": "a", "completion": "b"}"#).unwrap(), plain);
        assert_eq!(Row::parse(r#"{"text": "a", "indices": null}"#).unwrap(), Row::Text { text: "a".into() });
        let marked = Row::Marked { text: "a".into(), indices: vec![1, 2] };
        assert_eq!(Row::parse(r#"{"text": "a", "indices": [1, 2]}"#).unwrap(), marked);
    }

    #[test]
    fn other_rows_are_refused_with_what_was_expected() {
        for (json, words) in [
            ("{", "not JSON: EOF while parsing an object (column 1)"),
            ("[1]", "is a list; expected an object"),
            ("{}", "has no fields; expected `prompt` and `completion`"),
            (r#"{"question": "a", "answer": "b"}"#, "has `question`, `answer`; expected"),
            (r#"{"prompt": "a"}"#, "has `prompt`; expected"),
            (r#"{"text": 3}"#, "field `text` is a number"),
            (r#"{"text": "a", "indices": [-1]}"#, "field `indices`"),
            (r#"{"messages": "a"}"#, "field `messages` is a string"),
            (r#"{"messages": []}"#, "field `messages` is empty"),
            (r#"{"messages": [{"role": "tool", "content": "a"}]}"#, "field `messages[0].role` is \"tool\""),
            (r#"{"messages": [{"role": "user"}]}"#, "field `messages[0]` has no `content`"),
            (r#"{"messages": [{"role": "user", "content": null}]}"#, "field `messages[0].content` is null"),
            (r#"{"prompt": [], "completion": []}"#, "field `prompt` is empty"),
            (r#"{"prompt": "a", "completion": []}"#, "differ in type"),
            (r#"{"prompt": [{"role": "user", "content": "a"}], "completion": []}"#, "field `completion` has no text"),
        ] {
            let error = Row::parse(json).unwrap_err();
            assert!(error.contains(words), "{json}: {error}");
        }
    }
}
