//! Which choices are predicted, and how a history is split.

use std::fmt;

use chat::HistoryItems;
use chat::records::RowDefect;
use serde::{Deserialize, Serialize};

use crate::Setting;

/// Which choices are predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    /// Choices in the domain of the history.
    InDomain,
    /// Choices in other domains.
    Transfer,
}

impl TargetKind {
    /// Both kinds.
    pub const ALL: [TargetKind; 2] = [TargetKind::InDomain, TargetKind::Transfer];
}

impl fmt::Display for TargetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TargetKind::InDomain => "in-domain",
            TargetKind::Transfer => "transfer",
        })
    }
}

/// How a history of n interactions, or n messages, is split. Both ways are published (AlignXplore+).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistorySplit {
    /// `full` reads everything; `streaming` reads the first ⌊n/2⌋, then the rest. Published for all but recommendation
    /// sets.
    #[default]
    Halves,
    /// `full` reads the first 2⌊n/3⌋; `streaming` reads the first ⌊n/3⌋, then the next ⌊n/3⌋. The rest is not read.
    /// Published for recommendation sets.
    Thirds,
}

impl HistorySplit {
    /// Returns the items that the setting `full` reads.
    pub fn full(self, history: HistoryItems<'_>) -> HistoryItems<'_> {
        match self {
            HistorySplit::Halves => history,
            HistorySplit::Thirds => history.slice(0, 2 * (history.len() / 3)),
        }
    }

    /// Returns the items that the two stages of the setting `streaming` read.
    pub fn stages(self, history: HistoryItems<'_>) -> [HistoryItems<'_>; 2] {
        let middle = match self {
            HistorySplit::Halves => history.len() / 2,
            HistorySplit::Thirds => history.len() / 3,
        };
        let full = self.full(history);
        [full.slice(0, middle), full.slice(middle, full.len())]
    }

    /// Returns the items that each round of a setting reads. `direct` reads the whole history, whatever the split.
    pub fn rounds(self, setting: Setting, history: HistoryItems<'_>) -> Vec<HistoryItems<'_>> {
        match setting {
            Setting::Direct => vec![history],
            Setting::Full => vec![self.full(history)],
            Setting::Streaming => self.stages(history).to_vec(),
        }
    }

    /// Returns the minimum length of a history that leaves every stage something to read.
    pub fn least(self) -> usize {
        match self {
            HistorySplit::Halves => 2,
            HistorySplit::Thirds => 3,
        }
    }

    /// Returns the defect of a history that leaves a stage nothing to read.
    pub fn defect(self, history: HistoryItems<'_>) -> Option<RowDefect> {
        let (n, least) = (history.len(), self.least());
        let message = format!("has {n} {}; the split {self:?} needs at least {least}", history.noun());
        let field = match history {
            HistoryItems::Interactions(_) => "history",
            HistoryItems::Messages(_) => "messages",
        };
        (n < least).then_some(RowDefect { field, message })
    }
}

#[cfg(test)]
mod tests {
    use chat::{Interaction, Message};

    use super::*;

    #[test]
    fn histories_divide_as_published() {
        let history: Vec<_> = (0..8).map(|i| Interaction { chosen: i.to_string(), ..Interaction::default() }).collect();
        divide_as_published(HistoryItems::from(&history));
        let messages: Vec<_> = (0..8).map(|i| Message::user(i.to_string())).collect();
        divide_as_published(HistoryItems::from(&messages));
        let defect = HistorySplit::Thirds.defect(HistoryItems::from(&messages[..2])).unwrap();
        assert_eq!(
            (defect.field, defect.message.as_str()),
            ("messages", "has 2 messages; the split Thirds needs at least 3")
        );
    }

    fn divide_as_published(history: HistoryItems<'_>) {
        let texts =
            |parts: &[HistoryItems<'_>]| parts.iter().flat_map(|part| part.texts()).collect::<Vec<_>>().concat();
        let lengths = |split: HistorySplit, n: usize| {
            let history = history.slice(0, n);
            let stages = split.stages(history);
            assert_eq!(texts(&stages), texts(&[split.full(history)]), "the stages together are what full reads");
            (stages[0].len(), stages[1].len())
        };
        assert_eq!(lengths(HistorySplit::Halves, 8), (4, 4));
        assert_eq!(lengths(HistorySplit::Halves, 7), (3, 4));
        assert_eq!(lengths(HistorySplit::Thirds, 8), (2, 2));
        for split in [HistorySplit::Halves, HistorySplit::Thirds] {
            assert_eq!(lengths(split, split.least()), (1, 1));
            assert_eq!(lengths(split, split.least() - 1).0, 0);
        }
    }
}
