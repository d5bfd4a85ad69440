//! Reward term `copying`.

use std::collections::HashSet;
use std::num::NonZeroUsize;

use chat::HistoryItems;
use serde::Deserialize;

use crate::batch::{RewardBatch, RewardResponse};
use crate::error::RewardError;
use crate::terms::RewardTerm;
use crate::words::words;

/// The fraction of the summary's word n-grams that occur verbatim in the items or messages read (chosen and rejected items), with n of 4 by default. A
/// summary that lists what the user read, in place of what they prefer, has a high score: give the term a negative weight.
///
/// Range: 0 to 1. A malformed response, an empty summary, and one of fewer than n words get 0. Source: extractive coverage of
/// summaries (Grusky et al., arXiv 1804.11283), with n-grams in place of fragments.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Copying {
    n: NonZeroUsize,
}

/// n of the default n-grams.
pub const DEFAULT_N: NonZeroUsize = NonZeroUsize::new(4).expect("4 is not 0");

impl Default for Copying {
    fn default() -> Self {
        Self { n: DEFAULT_N }
    }
}

impl RewardTerm for Copying {
    fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError> {
        let mut scores = Vec::with_capacity(batch.responses.len());
        for group in batch.responses.chunk_by(|a, b| a.group == b.group) {
            // The responses of a group have read the same items.
            let read = ngrams_of_items(group[0].items(), self.n);
            let score = |r: &RewardResponse<'_>| r.summary().map_or(0.0, |summary| fraction_of(summary, &read, self.n));
            scores.extend(group.iter().map(score));
        }
        Ok(scores)
    }

    fn penalizes(&self) -> bool {
        true
    }
}

/// Returns the fraction of the word n-grams of `summary` that occur in the texts of `items`, from 0 to 1.
pub fn overlap(summary: &str, items: HistoryItems<'_>, n: NonZeroUsize) -> f64 {
    fraction_of(summary, &ngrams_of_items(items, n), n)
}

fn fraction_of(summary: &str, read: &HashSet<Vec<String>>, n: NonZeroUsize) -> f64 {
    let words = words(summary);
    let grams = words.windows(n.get());
    let count = grams.len();
    if count == 0 {
        return 0.0;
    }
    grams.filter(|gram| read.contains(*gram)).count() as f64 / count as f64
}

/// Returns the word n-grams of the texts of items; none spans two texts.
fn ngrams_of_items(items: HistoryItems<'_>, n: NonZeroUsize) -> HashSet<Vec<String>> {
    let mut grams = HashSet::new();
    for text in items.texts() {
        grams.extend(words(text).windows(n.get()).map(<[String]>::to_vec));
    }
    grams
}
