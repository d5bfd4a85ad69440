//! How similar the texts of two items are, by BM25.

use std::collections::HashMap;

use bm25::{Embedder, EmbedderBuilder, Tokenizer};

use crate::import::items::{ItemId, ItemTable};

/// The maximum number of words of an item that are compared.
const MAX_WORDS: usize = 64;

/// Splits a text into its first words in lower case.
#[derive(Debug)]
struct Words;

impl Tokenizer for Words {
    fn tokenize(&self, text: &str) -> Vec<String> {
        let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        words.take(MAX_WORDS).map(str::to_lowercase).collect()
    }
}

/// A word and its weight: in an item its frequency, adjusted to the length of the text; in a query how rare it is.
type Weight = (u32, f32);

/// The words of the texts of all items. The embedder's crate has a scorer too, which looks up how rare a word is for each candidate.
pub(super) struct Similarity {
    embedder: Embedder<u32, Words>,
    /// The words of each item, sorted, each once.
    items: Vec<Box<[Weight]>>,
    /// The number of items that have a word.
    counts: HashMap<u32, u32>,
}

impl Similarity {
    pub(super) fn new(table: &ItemTable) -> Self {
        let texts: Vec<&str> = (0..table.len() as u32).map(|id| table.text(ItemId(id))).collect();
        let embedder = EmbedderBuilder::<u32, Words>::with_tokenizer_and_fit_to_corpus(Words, &texts).build();
        let items: Vec<Box<[Weight]>> = texts.iter().map(|text| words(&embedder, text).into_boxed_slice()).collect();
        let mut counts: HashMap<u32, u32> = HashMap::new();
        for (word, _) in items.iter().flat_map(|words| words.iter()) {
            *counts.entry(*word).or_default() += 1;
        }
        Self { embedder, items, counts }
    }

    /// Returns the words of a text with their weights, to compare items with. A word that occurs twice weighs twice.
    pub(super) fn query(&self, text: &str) -> Vec<Weight> {
        let mut query: Vec<Weight> = Vec::new();
        let mut words: Vec<u32> = self.embedder.embed(text).indices().copied().collect();
        words.sort_unstable();
        for word in words {
            let weight = self.rarity(word);
            match query.last_mut() {
                Some(last) if last.0 == word => last.1 += weight,
                _ => query.push((word, weight)),
            }
        }
        query
    }

    /// Returns the inverse document frequency of a word.
    fn rarity(&self, word: u32) -> f32 {
        let count = self.counts.get(&word).copied().unwrap_or(0) as f32;
        (1.0 + (self.items.len() as f32 - count + 0.5) / (count + 0.5)).ln()
    }

    /// Returns the BM25 score of an item for a query.
    pub(super) fn score(&self, item: ItemId, query: &[Weight]) -> f32 {
        let mut words = self.items.get(item.index()).map_or(&[][..], |words| &**words).iter().peekable();
        let mut score = 0.0;
        for (word, weight) in query {
            while words.next_if(|(other, _)| other < word).is_some() {}
            if let Some((_, frequency)) = words.next_if(|(other, _)| other == word) {
                score += weight * frequency;
            }
        }
        score
    }
}

/// Returns the words of a text with their weights, sorted, each once.
fn words(embedder: &Embedder<u32, Words>, text: &str) -> Vec<Weight> {
    let mut words: Vec<Weight> = embedder.embed(text).iter().map(|word| (word.index, word.value)).collect();
    words.sort_unstable_by_key(|(word, _)| *word);
    words.dedup_by_key(|(word, _)| *word);
    words
}

#[cfg(test)]
mod tests {
    use bm25::Scorer;

    use super::*;

    #[test]
    fn the_scores_are_those_of_the_library() {
        let texts = [
            "The glacier expedition, an expedition to the ice",
            "The tax return",
            "To a lake of ice: the second expedition",
            "",
            "Glacier",
        ];
        let mut items = ItemTable::new(false);
        for (place, text) in texts.iter().enumerate() {
            items.insert(&place.to_string(), text, None);
        }
        let similarity = Similarity::new(&items);
        let mut scorer: Scorer<u32, u32> = Scorer::new();
        for (place, text) in (0..).zip(texts) {
            scorer.upsert(&place, similarity.embedder.embed(text));
        }
        for asked in texts.into_iter().chain(["An unknown word, the ice, the ice"]) {
            let query = similarity.query(asked);
            for place in 0..texts.len() as u32 {
                let expected = scorer.score(&place, &similarity.embedder.embed(asked)).unwrap();
                let found = similarity.score(ItemId(place), &query);
                // Sums of up to nine terms below 4 in another order.
                assert!((found - expected).abs() < 1e-5, "{asked} {place}: {found} {expected}");
            }
        }
        assert!(similarity.score(ItemId(2), &similarity.query(texts[0])) > 0.0);
    }
}
