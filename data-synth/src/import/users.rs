//! From the choices of a user to a history.

use std::collections::HashSet;

use chat::{Draw, History, Interaction};
use configs::synth::{Duplicates, ImportOrder, NegativePolicy};
use indexmap::IndexSet;

use crate::import::Options;
use crate::import::histories::{EQUAL, Prepared, REPEATED, UNWRITTEN, finish};
use crate::import::items::{ItemId, ItemTable, Label, Labels};
use crate::import::negatives::Negatives;

/// The kind of task of choices from logs.
const TASK: &str = "recommendation";

/// The time of a choice without one, which is before all others.
pub(super) const NO_TIME: i64 = i64::MIN;

/// The rejected item of an [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Rejected {
    /// It is drawn when all choices are known.
    Draw,
    /// The source says that there is none.
    Absent,
    /// An item.
    Item(ItemId),
    /// The event is not a choice of the history, but its item counts as seen.
    OnlySeen,
}

/// A choice of a user, in 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// [`NO_TIME`] if the source has none.
    pub(super) time: i64,
    pub(super) chosen: ItemId,
    pub(super) rejected: Rejected,
    /// Index in the table of queries.
    pub(super) query: Option<std::num::NonZeroU32>,
    pub(super) domain: Label,
    /// The task, of a pair; choices from logs are recommendations.
    pub(super) task: Label,
}

/// What the events of all users refer to.
pub(super) struct Tables<'a> {
    pub(super) options: &'a Options,
    pub(super) items: &'a ItemTable,
    pub(super) queries: &'a IndexSet<Box<str>>,
    pub(super) tasks: &'a Labels,
    /// Whether the source has pairs.
    pub(super) pairs: bool,
    /// `None` if no rejected item is to be drawn.
    pub(super) negatives: Option<Negatives<'a>>,
}

impl Tables<'_> {
    /// Orders the events of a user, drops repetitions, draws rejected items, and separates transfer targets.
    pub(super) fn prepare(&self, uid: &str, events: &[Event]) -> Prepared {
        let mut dropped = Vec::new();
        let mut choices: Vec<Event> = events.iter().filter(|e| e.rejected != Rejected::OnlySeen).copied().collect();
        let mut count = choices.len();
        let mut left = |reason, choices: &[Event]| {
            dropped.push((reason, (count - choices.len()) as u64));
            count = choices.len();
        };
        let written = |item| !self.items.text(item).is_empty();
        choices.retain(|event| written(event.chosen) && event.rejected.item().is_none_or(written));
        left(UNWRITTEN, &choices);
        choices.retain(|event| event.rejected != Rejected::Item(event.chosen));
        left(EQUAL, &choices);
        if self.options.order == ImportOrder::Time {
            choices.sort_by_key(|event| event.time);
        }
        self.drop_repeated(&mut choices);
        left(REPEATED, &choices);
        let mut interactions = Vec::new();
        if choices.len() >= self.options.min_history {
            interactions = self.interactions(uid, &choices, events);
            dropped.push(("choices without an item left to reject", (choices.len() - interactions.len()) as u64));
        }
        finish(History { uid: uid.into(), interactions, ..History::default() }, self.options, dropped)
    }

    fn drop_repeated(&self, choices: &mut Vec<Event>) {
        let mut seen = HashSet::new();
        match self.options.duplicates {
            Duplicates::Keep => {}
            Duplicates::Interactions => choices.retain(|event| {
                let rejected = self.pairs.then_some(event.rejected);
                seen.insert((event.chosen, event.query, rejected))
            }),
            Duplicates::Items => choices.retain(|event| seen.insert((event.chosen, None, None))),
        }
    }

    /// Returns the choices as interactions, without those for which no item is left to reject.
    fn interactions(&self, uid: &str, choices: &[Event], events: &[Event]) -> Vec<Interaction> {
        // By their texts, because several items may have the same.
        let seen = if self.negatives.is_some() { events } else { &[] };
        let chosen: HashSet<&str> = seen.iter().map(|event| self.items.text(event.chosen)).collect();
        let mut rejected: HashSet<ItemId> = choices.iter().filter_map(|event| event.rejected.item()).collect();
        let draw = Draw::new(self.options.seed).text("negative").text(uid);
        let mut interactions = Vec::with_capacity(choices.len());
        for (index, event) in choices.iter().enumerate() {
            let item = match (event.rejected, &self.negatives) {
                (Rejected::Item(item), _) => Some(item),
                (Rejected::Draw, Some(negatives)) => {
                    let taken = |item| {
                        chosen.contains(self.items.text(item))
                            || (!self.options.replacement && rejected.contains(&item))
                    };
                    let Some(item) = negatives.draw(event.chosen, draw.with(index as u64), &taken) else { continue };
                    rejected.insert(item);
                    Some(item)
                }
                _ => None,
            };
            interactions.push(self.interaction(event, item));
        }
        interactions
    }

    fn interaction(&self, event: &Event, rejected: Option<ItemId>) -> Interaction {
        let query = event.query.and_then(|number| self.queries.get_index(number.get() as usize - 1));
        let task = if self.pairs { self.tasks.name(event.task) } else { Some(TASK) };
        Interaction {
            query: query.map(|query| query.to_string()),
            chosen: self.items.text(event.chosen).to_owned(),
            rejected: rejected.map(|item| self.items.text(item).to_owned()),
            domain: self.items.domains.name(event.domain).map(Into::into),
            task: task.map(Into::into),
        }
    }
}

impl Rejected {
    fn item(self) -> Option<ItemId> {
        if let Self::Item(item) = self { Some(item) } else { None }
    }
}

/// Draws one of the items that were shown beside the chosen one and have another text. `earlier` has the user's events before.
pub(super) fn of_session(
    options: &Options,
    items: &ItemTable,
    uid: &str,
    chosen: ItemId,
    unclicked: &[ItemId],
    earlier: &[Event],
) -> Rejected {
    if options.negatives != NegativePolicy::InSession || unclicked.is_empty() {
        return Rejected::Draw;
    }
    let used: HashSet<ItemId> = if options.replacement {
        HashSet::new()
    } else {
        earlier.iter().filter_map(|event| event.rejected.item()).collect()
    };
    let text = items.text(chosen);
    let other = |shown: &str| !shown.is_empty() && shown != text;
    let allowed = unclicked.iter().copied().filter(|&item| !used.contains(&item) && other(items.text(item)));
    let allowed: Vec<ItemId> = allowed.collect();
    let draw = Draw::new(options.seed).text("session").text(uid).with(earlier.len() as u64);
    allowed.get(draw.below(allowed.len())).map_or(Rejected::Draw, |&item| Rejected::Item(item))
}

#[cfg(test)]
mod tests {
    use configs::synth::ImportConfig;

    use super::*;
    use crate::import::format;

    #[test]
    fn an_event_is_small() {
        assert_eq!(size_of::<Event>(), 32);
    }

    fn options(config: ImportConfig) -> Options {
        Options::new(&config, format("mind").unwrap(), 4)
    }

    /// Returns items with these texts, whose ids are their places.
    fn items(texts: &[&str]) -> ItemTable {
        let mut items = ItemTable::new(false);
        for (place, text) in texts.iter().enumerate() {
            items.insert(&place.to_string(), text, None);
        }
        items
    }

    #[test]
    fn unclicked_items_are_drawn_uniformly() {
        let (options, items) = (options(ImportConfig::default()), items(&["a", "b", "c", "d", "e", "c", ""]));
        // Item 2 is the chosen one, item 5 has its text, and item 6 has none.
        let unclicked = [0, 1, 2, 3, 4, 5, 6].map(ItemId);
        let mut counts = [0.0; 7];
        for user in 0..8000 {
            let drawn = of_session(&options, &items, &format!("u{user}"), ItemId(2), &unclicked, &[]);
            counts[drawn.item().unwrap().index()] += 1.0;
        }
        let chi: f64 = [0, 1, 3, 4].iter().map(|&i: &usize| (counts[i] - 2000.0_f64).powi(2) / 2000.0).sum();
        // Chi-square with 3 degrees of freedom exceeds 30.7 once in a million.
        assert!([2, 5, 6].iter().all(|&i: &usize| counts[i] == 0.0) && chi < 30.7, "{counts:?}");
        let twin = of_session(&options, &items, "u", ItemId(2), &[ItemId(5)], &[]);
        assert_eq!(twin, Rejected::Draw, "only the twin was shown");
    }

    #[test]
    fn without_replacement_an_item_of_a_session_is_rejected_once() {
        let of = |replacement, negatives| {
            let options = options(ImportConfig { replacement, negatives, ..ImportConfig::default() });
            let earlier = Event {
                time: NO_TIME,
                chosen: ItemId(0),
                rejected: Rejected::Item(ItemId(1)),
                query: None,
                domain: 0,
                task: 0,
            };
            of_session(&options, &items(&["a", "b", "c"]), "u", ItemId(2), &[ItemId(1)], &[earlier])
        };
        assert_eq!(of(None, None), Rejected::Item(ItemId(1)));
        assert_eq!(of(Some(false), None), Rejected::Draw);
        assert_eq!(of(None, Some(NegativePolicy::GlobalUnseen)), Rejected::Draw);
    }
}
