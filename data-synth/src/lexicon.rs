//! The lexicon of the built-in world: six dimensions of taste, thirty values, and the words for each value in each
//! domain.
//!
//! A value has one canonical word, used in summaries and reasoning, and further surface words that items use: one for every
//! domain and one for a single domain. No surface word belongs to two values, so a text can be parsed exactly.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// The domain of a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Domain {
    /// News items.
    News,
    /// Products.
    Product,
    /// Replies of an assistant.
    Reply,
}

impl Domain {
    /// All domains.
    pub const ALL: [Self; 3] = [Self::News, Self::Product, Self::Reply];

    /// Returns the name used in [`chat::Interaction::domain`].
    pub fn name(self) -> &'static str {
        match self {
            Self::News => "news",
            Self::Product => "product",
            Self::Reply => "reply",
        }
    }

    /// Returns the dimensions that items of this domain can show. They overlap between domains, so that taste learned
    /// in one domain carries information about another.
    pub fn dimensions(self) -> &'static [Dimension] {
        use Dimension::{Depth, Format, Length, Price, Tone, Topic};
        match self {
            Self::News => &[Topic, Tone, Length, Depth],
            Self::Product => &[Topic, Tone, Depth, Format, Price],
            Self::Reply => &[Tone, Length, Depth, Format],
        }
    }
}

/// An aspect of an item that users may care about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dimension {
    /// The subject.
    Topic,
    /// The tone.
    Tone,
    /// The length.
    Length,
    /// The prior knowledge that the item presupposes.
    Depth,
    /// The layout.
    Format,
    /// The price.
    Price,
}

impl Dimension {
    /// All dimensions, in canonical order.
    pub const ALL: [Self; 6] = [Self::Topic, Self::Tone, Self::Length, Self::Depth, Self::Format, Self::Price];

    /// Returns the values of this dimension, in canonical order.
    pub fn values(self) -> impl Iterator<Item = Value> {
        Value::all().filter(move |v| v.dimension() == self)
    }
}

struct Entry {
    dimension: Dimension,
    canonical: &'static str,
    general: &'static str,
    local: (Domain, &'static str),
}

const fn entry(
    dimension: Dimension,
    canonical: &'static str,
    general: &'static str,
    domain: Domain,
    local: &'static str,
) -> Entry {
    Entry { dimension, canonical, general, local: (domain, local) }
}

use Dimension::{Depth, Format, Length, Price, Tone, Topic};
use Domain::{News, Product, Reply};

/// The lexicon in canonical order: by dimension, then as listed.
static ENTRIES: [Entry; VALUES] = [
    entry(Topic, "politics", "elections", News, "parliament"),
    entry(Topic, "science", "physics", Product, "chemistry"),
    entry(Topic, "sports", "football", Product, "tennis"),
    entry(Topic, "cooking", "recipes", Product, "baking"),
    entry(Topic, "music", "concerts", Product, "guitar"),
    entry(Topic, "travel", "tourism", Product, "hiking"),
    entry(Topic, "finance", "investing", News, "markets"),
    entry(Topic, "gaming", "esports", Product, "consoles"),
    entry(Topic, "health", "fitness", News, "medicine"),
    entry(Topic, "history", "antiquity", News, "archives"),
    entry(Topic, "film", "movies", News, "cinema"),
    entry(Topic, "space", "astronomy", Product, "rockets"),
    entry(Tone, "serious", "solemn", Reply, "formal"),
    entry(Tone, "funny", "witty", Product, "playful"),
    entry(Tone, "warm", "friendly", Reply, "kind"),
    entry(Tone, "dry", "sober", News, "neutral"),
    entry(Tone, "blunt", "frank", Reply, "direct"),
    entry(Length, "short", "brief", Reply, "concise"),
    entry(Length, "medium", "moderate", News, "midsize"),
    entry(Length, "long", "lengthy", Reply, "extended"),
    entry(Depth, "basic", "simple", Product, "beginner"),
    entry(Depth, "detailed", "thorough", News, "nuanced"),
    entry(Depth, "expert", "advanced", Reply, "technical"),
    entry(Format, "list", "checklist", Reply, "bullets"),
    entry(Format, "story", "narrative", Product, "tale"),
    entry(Format, "data", "charts", Reply, "figures"),
    entry(Format, "dialog", "interview", Reply, "questions"),
    entry(Price, "cheap", "budget", Product, "bargain"),
    entry(Price, "fair", "standard", Product, "midrange"),
    entry(Price, "luxury", "premium", Product, "deluxe"),
];

/// The number of values.
pub const VALUES: usize = 30;

/// One value of one dimension. The ordering is the canonical order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(usize);

impl Value {
    /// Returns all values, in canonical order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..VALUES).map(Self)
    }

    /// Returns the index of the value in the canonical order, below [`VALUES`].
    pub fn index(self) -> usize {
        self.0
    }

    /// Returns the dimension of the value.
    pub fn dimension(self) -> Dimension {
        ENTRIES[self.0].dimension
    }

    /// Returns the word that summaries and reasoning use.
    pub fn canonical(self) -> &'static str {
        ENTRIES[self.0].canonical
    }

    /// Returns the words that items of `domain` use.
    pub fn surface(self, domain: Domain) -> impl Iterator<Item = &'static str> {
        let entry = &ENTRIES[self.0];
        let local = (entry.local.0 == domain).then_some(entry.local.1);
        [entry.canonical, entry.general].into_iter().chain(local)
    }

    /// Returns the value that a single lower-case word stands for, if any.
    pub fn of_word(word: &str) -> Option<Self> {
        static WORDS: LazyLock<HashMap<&'static str, Value>> = LazyLock::new(|| {
            Value::all()
                .flat_map(|v| {
                    let e = &ENTRIES[v.0];
                    [e.canonical, e.general, e.local.1].map(|word| (word, v))
                })
                .collect()
        });
        WORDS.get(word).copied()
    }
}

/// Returns the lower-case words of a text, without punctuation.
pub(crate) fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase)
}

/// Returns the values that a text mentions, in order of first mention.
pub fn mentions(text: &str) -> Vec<Value> {
    let mut found = Vec::new();
    for value in words(text).filter_map(|w| Value::of_word(&w)) {
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_belongs_to_two_values() {
        for value in Value::all() {
            for domain in Domain::ALL {
                for word in value.surface(domain) {
                    assert_eq!(Value::of_word(word), Some(value), "{word}");
                }
            }
        }
    }

    #[test]
    fn values_are_listed_dimension_by_dimension() {
        let counts: Vec<usize> = Dimension::ALL.iter().map(|d| d.values().count()).collect();
        assert_eq!(counts, [12, 5, 3, 3, 4, 3]);
        assert!(Value::all().zip(Value::all().skip(1)).all(|(a, b)| a.dimension() <= b.dimension()));
    }

    #[test]
    fn every_domain_pair_shares_dimensions() {
        for a in Domain::ALL {
            for b in Domain::ALL {
                let shared = a.dimensions().iter().filter(|d| b.dimensions().contains(d)).count();
                assert!(shared >= 3, "{a:?} {b:?} share {shared}");
            }
        }
    }

    #[test]
    fn texts_are_read_whatever_their_case_and_punctuation() {
        let names: Vec<_> = mentions("A Witty, BRIEF note - witty, again.").iter().map(|v| v.canonical()).collect();
        assert_eq!(names, ["funny", "short"]);
    }
}
