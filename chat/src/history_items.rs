//! A view of what a history consists of.

use crate::records::RowDefect;
use crate::{Interaction, Message};

/// What a history, or a part of it, consists of, oldest first: choices of the user, or messages of the user's conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryItems<'a> {
    /// Choices.
    Interactions(&'a [Interaction]),
    /// Messages.
    Messages(&'a [Message]),
}

impl<'a> HistoryItems<'a> {
    /// Returns the view of a row's two lists, one of which is empty.
    pub fn of(interactions: &'a [Interaction], messages: &'a [Message]) -> Self {
        if messages.is_empty() { Self::Interactions(interactions) } else { Self::Messages(messages) }
    }

    /// Returns the number of items.
    pub fn len(self) -> usize {
        match self {
            Self::Interactions(items) => items.len(),
            Self::Messages(items) => items.len(),
        }
    }

    /// Returns whether there are no items.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Returns the items from `start` to before `end`; indices past the last item are the end.
    #[must_use]
    pub fn slice(self, start: usize, end: usize) -> Self {
        let end = end.min(self.len());
        let start = start.min(end);
        match self {
            Self::Interactions(items) => Self::Interactions(&items[start..end]),
            Self::Messages(items) => Self::Messages(&items[start..end]),
        }
    }

    /// Returns the latest `count` items; all of them if there are fewer.
    #[must_use]
    pub fn latest(self, count: usize) -> Self {
        self.slice(self.len().saturating_sub(count), self.len())
    }

    /// Returns the choices; none if the items are messages.
    pub fn interactions(self) -> &'a [Interaction] {
        match self {
            Self::Interactions(items) => items,
            Self::Messages(_) => &[],
        }
    }

    /// Returns the messages; none if the items are choices.
    pub fn messages(self) -> &'a [Message] {
        match self {
            Self::Interactions(_) => &[],
            Self::Messages(items) => items,
        }
    }

    /// Returns the texts that a reader of the items sees: the chosen and rejected items, or the contents of the messages.
    pub fn texts(self) -> impl Iterator<Item = &'a str> {
        let items = self.interactions().iter().flat_map(|i| [Some(&i.chosen), i.rejected.as_ref()]).flatten();
        items.chain(self.messages().iter().map(|message| &message.content)).map(String::as_str)
    }

    /// Returns the name of the items in messages to the user.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Interactions(_) => "interactions",
            Self::Messages(_) => "messages",
        }
    }
}

impl<'a> From<&'a [Interaction]> for HistoryItems<'a> {
    fn from(items: &'a [Interaction]) -> Self {
        Self::Interactions(items)
    }
}

impl<'a> From<&'a Vec<Interaction>> for HistoryItems<'a> {
    fn from(items: &'a Vec<Interaction>) -> Self {
        Self::Interactions(items)
    }
}

impl<'a, const N: usize> From<&'a [Interaction; N]> for HistoryItems<'a> {
    fn from(items: &'a [Interaction; N]) -> Self {
        Self::Interactions(items)
    }
}

impl<'a> From<&'a [Message]> for HistoryItems<'a> {
    fn from(items: &'a [Message]) -> Self {
        Self::Messages(items)
    }
}

impl<'a> From<&'a Vec<Message>> for HistoryItems<'a> {
    fn from(items: &'a Vec<Message>) -> Self {
        Self::Messages(items)
    }
}

/// Returns the first history of each kind.
pub(crate) fn first_of_each_kind<'a>(
    histories: impl IntoIterator<Item = HistoryItems<'a>>,
) -> impl Iterator<Item = HistoryItems<'a>> {
    let mut seen = [false; 2];
    histories.into_iter().filter(move |items| {
        let seen = &mut seen[usize::from(matches!(items, HistoryItems::Messages(_)))];
        !std::mem::replace(seen, true)
    })
}

/// Returns the defect of a row whose history is neither a list of interactions nor one of messages, or is both. `field` is the name
/// of the interactions in the row.
pub fn kind_defect(field: &'static str, interactions: &[Interaction], messages: &[Message]) -> Option<RowDefect> {
    let none = || RowDefect {
        field,
        message: "is missing or empty; expected at least one interaction, or at least one message in `messages`".into(),
    };
    both_kinds_defect(field, interactions, messages)
        .or_else(|| (interactions.is_empty() && messages.is_empty()).then(none))
}

/// Returns the defect of a row whose history is both a list of interactions and one of messages. `field` is the name of the
/// interactions in the row.
pub fn both_kinds_defect(field: &'static str, interactions: &[Interaction], messages: &[Message]) -> Option<RowDefect> {
    (!interactions.is_empty() && !messages.is_empty()).then(|| RowDefect {
        field: "messages",
        message: format!("is given beside `{field}`; a history consists of one of the two: remove the other"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interaction(chosen: &str, rejected: Option<&str>) -> Interaction {
        Interaction { chosen: chosen.into(), rejected: rejected.map(str::to_owned), ..Interaction::default() }
    }

    #[test]
    fn both_kinds_are_cut_alike() {
        let interactions: Vec<_> = (0..5).map(|i| interaction(&i.to_string(), None)).collect();
        let messages: Vec<_> = (0..5).map(|i| Message::user(i.to_string())).collect();
        for items in [HistoryItems::from(&interactions), HistoryItems::from(&messages)] {
            let texts = |part: HistoryItems<'_>| part.texts().collect::<Vec<_>>().concat();
            assert_eq!((items.len(), items.is_empty()), (5, false));
            assert_eq!(texts(items.slice(1, 3)), "12");
            assert_eq!(texts(items.slice(3, 9)), "34");
            assert_eq!((texts(items.latest(2)), texts(items.latest(9))), ("34".into(), "01234".into()));
            assert!(items.slice(9, 9).is_empty() && items.slice(3, 1).is_empty());
            assert_eq!(items.slice(1, 3).noun(), items.noun());
        }
        assert_eq!(HistoryItems::of(&interactions, &[]).noun(), "interactions");
        assert_eq!(HistoryItems::of(&[], &messages).messages(), messages);
        assert!(HistoryItems::of(&[], &messages).interactions().is_empty());
    }

    #[test]
    fn the_texts_are_what_a_prompt_shows_of_the_items() {
        let interactions = [interaction("a", Some("b")), interaction("c", None)];
        assert_eq!(HistoryItems::from(&interactions).texts().collect::<Vec<_>>(), ["a", "b", "c"]);
        let messages = vec![Message::user("q"), Message::assistant("r")];
        assert_eq!(HistoryItems::from(&messages).texts().collect::<Vec<_>>(), ["q", "r"]);
    }

    #[test]
    fn a_history_is_of_one_kind() {
        let (interactions, messages) = ([interaction("a", None)], [Message::user("q")]);
        assert_eq!(kind_defect("history", &interactions, &[]), None);
        assert_eq!(kind_defect("history", &[], &messages), None);
        let none = kind_defect("history", &[], &[]).unwrap();
        assert_eq!(none.field, "history");
        let words = "is missing or empty; expected at least one interaction, or at least one message in `messages`";
        assert_eq!(none.message, words);
        assert_eq!(both_kinds_defect("history", &[], &[]), None);
        let both = kind_defect("history", &interactions, &messages).unwrap();
        assert_eq!(both.field, "messages");
        assert!(both.message.contains("beside `history`"), "{both:?}");
    }

    #[test]
    fn the_first_history_of_each_kind_is_found() {
        let interactions = [interaction("a", None), interaction("b", None)];
        let messages = [Message::user("q"), Message::user("r")];
        let of = |items: &[HistoryItems<'_>]| -> Vec<String> {
            first_of_each_kind(items.iter().copied()).map(|items| items.texts().collect()).collect()
        };
        let [a, b] = [&interactions[..1], &interactions[1..]].map(HistoryItems::from);
        let [q, r] = [&messages[..1], &messages[1..]].map(HistoryItems::from);
        assert_eq!(of(&[a, b, q, r]), ["a", "q"]);
        assert_eq!((of(&[r, q]), of(&[])), (vec!["r".to_owned()], Vec::new()));
    }
}
