//! The data card: what an import read, kept and left out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use chat::History;
use serde::{Deserialize, Serialize};

use crate::histogram::quartile_rank;

/// What an import read, kept and left out, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DataCard {
    /// Name of the format.
    pub format: String,
    /// Seed of the random choices.
    pub seed: u64,
    /// The files that were read.
    pub inputs: Vec<InputFile>,
    /// The options, those that the configuration left open included.
    pub options: serde_json::Value,
    /// Number of users.
    pub users: Split,
    /// Number of interactions of the histories.
    pub interactions: Split,
    /// Number of items of the source; 0 for sources without items.
    pub items: u64,
    /// Number of messages of the histories.
    pub messages: u64,
    /// Number of choices that follow histories.
    pub targets: u64,
    /// Number of transfer targets.
    pub transfer_targets: u64,
    /// Lengths of histories and texts.
    pub lengths: Lengths,
    /// Number of interactions of each domain, transfer targets included.
    pub domains: BTreeMap<String, u64>,
    /// Number of interactions with a query.
    pub with_query: u64,
    /// Choices and users that were left out, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Malformed rows that were left out, by file and field.
    pub bad_rows: BTreeMap<String, u64>,
    /// The first malformed rows, with file, line and field.
    pub bad_row_examples: Vec<String>,
}

/// A file that an import read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    /// Path of the file.
    pub path: PathBuf,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// SHA-256 of the file, in hexadecimal digits.
    pub sha256: String,
}

/// A number in the training set and in the test set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// The number in the training set.
    pub train: u64,
    /// The number in the test set.
    pub test: u64,
}

/// Lengths of histories and texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lengths {
    /// Interactions, or messages, of a history.
    pub history: Quantiles,
    /// Characters of an item or of a message.
    pub text_chars: Quantiles,
}

/// The distribution of a length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// The minimum.
    pub min: u64,
    /// The 25th percentile.
    pub p25: u64,
    /// The median.
    pub median: u64,
    /// The 75th percentile.
    pub p75: u64,
    /// The maximum.
    pub max: u64,
    /// The mean.
    pub mean: f64,
}

impl Split {
    /// Returns the sum of both.
    pub fn all(self) -> u64 {
        self.train + self.test
    }

    fn add(&mut self, test: bool, count: usize) {
        *(if test { &mut self.test } else { &mut self.train }) += count as u64;
    }
}

/// How often each length occurs.
#[derive(Clone, Debug, Default)]
struct Counts {
    counts: BTreeMap<u64, u64>,
    count: u64,
    sum: u64,
}

impl Counts {
    fn add(&mut self, value: usize) {
        *self.counts.entry(value as u64).or_default() += 1;
        self.count += 1;
        self.sum += value as u64;
    }

    /// Returns quantiles by nearest rank: the smallest value with at least this share of the values at or below it.
    fn quantiles(&self) -> Quantiles {
        if self.count == 0 {
            return Quantiles::default();
        }
        let at = |quarter: usize| {
            let rank = quartile_rank(self.count as usize, quarter) as u64;
            let mut below = 0;
            let found = self.counts.iter().find(|&(_, count)| {
                below += count;
                below >= rank
            });
            found.map_or(0, |(&value, _)| value)
        };
        let mean = self.sum as f64 / self.count as f64;
        Quantiles { min: at(0), p25: at(1), median: at(2), p75: at(3), max: at(4), mean }
    }
}

/// Counts for the data card, as users are written.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    users: Split,
    interactions: Split,
    messages: u64,
    targets: u64,
    transfer_targets: u64,
    histories: Counts,
    texts: Counts,
    domains: BTreeMap<String, u64>,
    with_query: u64,
}

impl Tally {
    pub(super) fn add(&mut self, history: &History, test: bool) {
        self.users.add(test, 1);
        self.interactions.add(test, history.interactions.len());
        self.messages += history.messages.len() as u64;
        self.targets += history.targets.len() as u64;
        self.transfer_targets += history.transfer.len() as u64;
        self.histories.add(history.interactions.len().max(history.messages.len()));
        for message in &history.messages {
            self.texts.add(message.content.chars().count());
        }
        for interaction in history.interactions.iter().chain(&history.targets).chain(&history.transfer) {
            self.with_query += u64::from(interaction.query.is_some());
            for text in std::iter::once(&interaction.chosen).chain(&interaction.rejected) {
                self.texts.add(text.chars().count());
            }
            if let Some(domain) = &interaction.domain {
                match self.domains.get_mut(domain) {
                    Some(count) => *count += 1,
                    None => {
                        self.domains.insert(domain.clone(), 1);
                    }
                }
            }
        }
    }

    pub(super) fn users(&self) -> u64 {
        self.users.all()
    }

    /// Writes the counts into a card.
    pub(super) fn fill(self, card: &mut DataCard) {
        card.users = self.users;
        card.interactions = self.interactions;
        card.messages = self.messages;
        card.targets = self.targets;
        card.transfer_targets = self.transfer_targets;
        card.lengths = Lengths { history: self.histories.quantiles(), text_chars: self.texts.quantiles() };
        card.domains = self.domains;
        card.with_query = self.with_query;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occur() {
        let mut counts = Counts::default();
        assert_eq!(counts.quantiles(), Quantiles::default());
        for value in [9, 1, 5, 2, 40, 2, 3] {
            counts.add(value);
        }
        // Sorted: 1 2 2 3 5 9 40; ranks 2, 4 and 6.
        let expected = Quantiles { min: 1, p25: 2, median: 3, p75: 9, max: 40, mean: 62.0 / 7.0 };
        assert_eq!(counts.quantiles(), expected);
    }
}
