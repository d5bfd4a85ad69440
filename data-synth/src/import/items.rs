//! The items of an import: each text is held once, and choices refer to it by number.

use std::borrow::Cow;

use indexmap::IndexSet;

use crate::import::html;

/// The number of an item in an [`ItemTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ItemId(pub u32);

impl ItemId {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A label that few items or choices differ in, such as a domain.
pub(super) type Label = u16;

/// The label of what has none.
pub(super) const NO_LABEL: Label = Label::MAX;

/// Numbers different labels.
#[derive(Clone, Debug, Default)]
pub(super) struct Labels {
    names: IndexSet<Box<str>>,
    full: bool,
}

impl Labels {
    /// Returns the number of a label. There are 65,535; a further one is [`NO_LABEL`] and makes the table [`Self::is_full`].
    pub(super) fn intern(&mut self, name: &str) -> Label {
        if let Some(known) = self.names.get_index_of(name) {
            return known as Label;
        }
        if self.names.len() == usize::from(NO_LABEL) {
            self.full = true;
            return NO_LABEL;
        }
        self.names.insert_full(name.into()).0 as Label
    }

    pub(super) fn name(&self, label: Label) -> Option<&str> {
        self.names.get_index(usize::from(label)).map(|name| &**name)
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// Returns whether there were more labels than the table holds.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }
}

/// An item beside its id.
#[derive(Clone, Debug)]
struct Item {
    /// `None` if the id is the text.
    text: Option<Box<str>>,
    domain: Label,
    choices: u32,
}

/// The items of an import, by their ids in the source.
#[derive(Clone, Debug, Default)]
pub struct ItemTable {
    ids: IndexSet<Box<str>>,
    items: Vec<Item>,
    pub(super) domains: Labels,
    strip_html: bool,
}

impl ItemTable {
    /// Returns an empty table. With `strip_html`, HTML in texts is replaced by what it shows.
    pub(super) fn new(strip_html: bool) -> Self {
        Self { strip_html, ..Self::default() }
    }

    /// Adds an item. If the id is known, the text and the domain replace those of the item.
    pub fn insert(&mut self, id: &str, text: &str, domain: Option<&str>) -> ItemId {
        let domain = domain.map_or(NO_LABEL, |name| self.domains.intern(name));
        let text: Option<Box<str>> = Some(self.shown(text).into());
        match self.get(id) {
            Some(known) => {
                let item = &mut self.items[known.index()];
                (item.text, item.domain) = (text, domain);
                known
            }
            None => self.add(id, Item { text, domain, choices: 0 }),
        }
    }

    /// Adds an item whose id is its text.
    pub fn insert_text(&mut self, text: &str) -> ItemId {
        let text = self.shown(text);
        self.get(&text).unwrap_or_else(|| self.add(&text, Item { text: None, domain: NO_LABEL, choices: 0 }))
    }

    fn add(&mut self, id: &str, item: Item) -> ItemId {
        let (index, _) = self.ids.insert_full(id.into());
        self.items.push(item);
        // The choices of a file with more than 2³² items would not fit either.
        ItemId(u32::try_from(index).unwrap_or(u32::MAX))
    }

    fn shown<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.strip_html { html::strip(text) } else { Cow::Borrowed(text) }
    }

    /// Returns the item with this id.
    pub fn get(&self, id: &str) -> Option<ItemId> {
        self.ids.get_index_of(id).map(|index| ItemId(index as u32))
    }

    /// Returns the text of an item; empty for an item of another table.
    pub fn text(&self, item: ItemId) -> &str {
        let text = self.items.get(item.index()).and_then(|item| item.text.as_deref());
        text.unwrap_or_else(|| self.id(item))
    }

    /// Returns the id of an item in the source; empty for an item of another table.
    pub(super) fn id(&self, item: ItemId) -> &str {
        self.ids.get_index(item.index()).map(|id| &**id).unwrap_or_default()
    }

    /// Returns the domain of an item.
    pub fn domain(&self, item: ItemId) -> Option<&str> {
        self.domains.name(self.label(item))
    }

    /// Returns the number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Returns whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn label(&self, item: ItemId) -> Label {
        self.items.get(item.index()).map_or(NO_LABEL, |item| item.domain)
    }

    /// Returns how often an item was chosen.
    pub(super) fn choices(&self, item: ItemId) -> u32 {
        self.items.get(item.index()).map_or(0, |item| item.choices)
    }

    pub(super) fn count_choice(&mut self, item: ItemId) {
        if let Some(item) = self.items.get_mut(item.index()) {
            item.choices = item.choices.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_text_replaces_an_earlier_one() {
        let mut items = ItemTable::new(false);
        let (a, b) = (items.insert("a", "old", Some("books")), items.insert("b", "other", None));
        assert_eq!(items.insert("a", "new", Some("films")), a);
        assert_eq!(
            (items.text(a), items.domain(a), items.text(b), items.domain(b)),
            ("new", Some("films"), "other", None)
        );
        assert_eq!((items.len(), items.get("b"), items.get("c")), (2, Some(b), None));
    }

    #[test]
    fn texts_of_pairs_are_their_own_ids() {
        let mut items = ItemTable::new(true);
        let a = items.insert_text("<b>Rock</b> &amp; roll");
        assert_eq!(items.text(a), "Rock & roll");
        assert_eq!((items.insert_text("Rock & roll"), items.len()), (a, 1));
        assert_eq!(items.text(ItemId(7)), "");
    }

    #[test]
    fn labels_beyond_the_table_are_told() {
        let mut labels = Labels::default();
        for i in 0..usize::from(NO_LABEL) {
            assert_eq!(usize::from(labels.intern(&i.to_string())), i);
        }
        assert_eq!((labels.intern("7"), labels.is_full(), labels.name(8)), (7, false, Some("8")));
        assert_eq!((labels.intern("new"), labels.is_full(), labels.name(NO_LABEL)), (NO_LABEL, true, None));
    }
}
