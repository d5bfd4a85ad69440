//! The field of a row that holds a history: a list of interactions or, in the published benchmarks, of messages.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Interaction, Message};

/// The items of a list, by kind. At most one of the two lists has items.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<ListItem>")]
pub struct HistoryList {
    /// The interactions.
    pub interactions: Vec<Interaction>,
    /// The messages.
    pub messages: Vec<Message>,
}

impl HistoryList {
    /// Returns interactions and messages of a row in which `messages` may be a field of its own.
    ///
    /// # Errors
    /// If the list and the field both hold messages.
    pub fn with_messages(self, messages: Vec<Message>) -> Result<(Vec<Interaction>, Vec<Message>), String> {
        match (self.messages.is_empty(), messages.is_empty()) {
            (true, _) => Ok((self.interactions, messages)),
            (false, true) => Ok((self.interactions, self.messages)),
            (false, false) => {
                Err("messages are in the history and in the field `messages`; remove one of the two lists".into())
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(try_from = "ItemFields")]
enum ListItem {
    Interaction(Interaction),
    Message(Message),
}

/// The fields of both kinds. An interaction may have further fields, also some that are named like those of a message.
#[derive(Deserialize)]
struct ItemFields {
    role: Option<Value>,
    content: Option<Value>,
    query: Option<String>,
    chosen: Option<String>,
    rejected: Option<String>,
    domain: Option<String>,
    task: Option<String>,
}

impl TryFrom<ItemFields> for ListItem {
    type Error = String;

    fn try_from(item: ItemFields) -> Result<Self, String> {
        let ItemFields { role, content, query, chosen, rejected, domain, task } = item;
        if let Some(chosen) = chosen {
            return Ok(Self::Interaction(Interaction { query, chosen, rejected, domain, task }));
        }
        match (role, content) {
            (Some(role), Some(content)) => {
                Ok(Self::Message(Message { role: parsed("role", role)?, content: parsed("content", content)? }))
            }
            (Some(_), None) => Err("missing field `content`".into()),
            (None, Some(_)) => Err("missing field `role`".into()),
            (None, None) => Err("missing field `chosen`, or it is null".into()),
        }
    }
}

fn parsed<T: DeserializeOwned>(field: &str, value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|e| format!("field `{field}`: {e}"))
}

impl TryFrom<Vec<ListItem>> for HistoryList {
    type Error = &'static str;

    fn try_from(items: Vec<ListItem>) -> Result<Self, Self::Error> {
        let mut list = Self::default();
        for item in items {
            match item {
                ListItem::Interaction(interaction) => list.interactions.push(interaction),
                ListItem::Message(message) => list.messages.push(message),
            }
        }
        match list.interactions.is_empty() || list.messages.is_empty() {
            true => Ok(list),
            false => Err(
                "has interactions (`chosen`) and messages (`role`, `content`); a history consists of one of the two",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> Result<HistoryList, String> {
        serde_json::from_str(list).map_err(|e| e.to_string())
    }

    #[test]
    fn items_are_told_apart_by_their_fields() {
        let list = parse(r#"[{"query":null,"chosen":"a","rejected":"b","domain":"news"}]"#).unwrap();
        let interaction = Interaction {
            chosen: "a".into(),
            rejected: Some("b".into()),
            domain: Some("news".into()),
            ..Interaction::default()
        };
        assert_eq!(list, HistoryList { interactions: vec![interaction], messages: Vec::new() });
        let list = parse(r#"[{"role":"user","content":"q"},{"role":"assistant","content":""}]"#).unwrap();
        assert_eq!(list.messages, [Message::user("q"), Message::assistant("")]);
        // What a message would have is no part of an interaction.
        let list = parse(r#"[{"chosen":"a","role":"buyer","content":{"id":1}}]"#).unwrap();
        assert_eq!(list.interactions, [Interaction { chosen: "a".into(), ..Interaction::default() }]);
        for (item, words) in [
            (r#"{"query":"q"}"#, "missing field `chosen`"),
            (r#"{"chosen":null}"#, "missing field `chosen`, or it is null"),
            (r#"{"role":"user"}"#, "missing field `content`"),
            (r#"{"content":"q"}"#, "missing field `role`"),
            (r#"{"role":"tool","content":"q"}"#, "field `role`: unknown variant `tool`"),
            (r#"{"role":"user","content":1}"#, "field `content`: invalid type: integer `1`, expected a string"),
            (r#"{"chosen":"a"},{"role":"user","content":"q"}"#, "a history consists of one of the two"),
            (r#"{"chosen":1}"#, "invalid type: integer `1`, expected a string"),
        ] {
            let error = parse(&format!("[{item}]")).unwrap_err();
            assert!(error.contains(words), "{item}: {error}");
        }
    }

    #[test]
    fn messages_are_in_one_place() {
        let list = parse(r#"[{"role":"user","content":"q"}]"#).unwrap();
        assert_eq!(list.clone().with_messages(Vec::new()), Ok((Vec::new(), vec![Message::user("q")])));
        assert!(list.clone().with_messages(list.messages.clone()).unwrap_err().contains("remove one of the two"));
        let none = HistoryList::default();
        assert_eq!(none.with_messages(list.messages.clone()), Ok((Vec::new(), list.messages)));
    }
}
