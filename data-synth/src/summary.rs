//! Summaries of users in the built-in world: which values a user likes and avoids, as text and parsed from text.

use crate::lexicon::{Value, words};

/// The wordings of a summary: the cues for liked and avoided values.
const WORDINGS: [(&str, &str); 3] = [("They like", "They avoid"), ("Prefers", "Dislikes"), ("Wants", "Rejects")];

/// The text of an empty summary.
pub const NOTHING_KNOWN: &str = "No clear preference.";

/// The number of wordings of [`NamedPreferences::text`].
pub const WORDING_COUNT: usize = WORDINGS.len();

/// Liked and avoided values. Each list is in canonical order unless parsed from a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedPreferences {
    /// The values that favor an item.
    pub likes: Vec<Value>,
    /// The values that count against an item.
    pub avoids: Vec<Value>,
}

impl NamedPreferences {
    /// Creates a summary with the given signed entries, in canonical order; entries with sign 0 are skipped.
    pub fn of_signs(entries: impl IntoIterator<Item = (Value, i32)>) -> Self {
        let mut summary = Self::default();
        for (value, sign) in entries {
            match sign.signum() {
                1 => summary.likes.push(value),
                -1 => summary.avoids.push(value),
                _ => {}
            }
        }
        summary.likes.sort();
        summary.avoids.sort();
        summary
    }

    /// Returns the entries with their signs, likes first.
    pub fn entries(&self) -> impl Iterator<Item = (Value, i32)> {
        let likes = self.likes.iter().map(|&v| (v, 1));
        likes.chain(self.avoids.iter().map(|&v| (v, -1)))
    }

    /// Returns the sign of a value: 1 if liked, -1 if avoided, 0 if not named.
    pub fn sign(&self, value: Value) -> i32 {
        i32::from(self.likes.contains(&value)) - i32::from(self.avoids.contains(&value))
    }

    /// Returns whether no value is named.
    pub fn is_empty(&self) -> bool {
        self.likes.is_empty() && self.avoids.is_empty()
    }

    /// Returns the text in wording number `wording` (modulo [`WORDING_COUNT`]).
    pub fn text(&self, wording: usize) -> String {
        let (likes, avoids) = WORDINGS[wording % WORDING_COUNT];
        let clause = |cue: &str, values: &[Value]| {
            let names: Vec<_> = values.iter().map(|v| v.canonical()).collect();
            (!values.is_empty()).then(|| format!("{cue} {}.", names.join(", ")))
        };
        let clauses: Vec<_> =
            [clause(likes, &self.likes), clause(avoids, &self.avoids)].into_iter().flatten().collect();
        if clauses.is_empty() { NOTHING_KNOWN.into() } else { clauses.join(" ") }
    }

    /// Parses any text with cues such as "likes" and "avoids". Values before the first cue are ignored; a repeated
    /// value keeps its first sign.
    pub fn read(text: &str) -> Self {
        let mut summary = Self::default();
        let mut sign = 0;
        for word in words(text) {
            match word.as_str() {
                "like" | "likes" | "prefers" | "wants" => sign = 1,
                "avoid" | "avoids" | "dislikes" | "rejects" => sign = -1,
                _ => {
                    if let Some(value) = Value::of_word(&word).filter(|&v| summary.sign(v) == 0) {
                        match sign {
                            1 => summary.likes.push(value),
                            -1 => summary.avoids.push(value),
                            _ => {}
                        }
                    }
                }
            }
        }
        summary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(word: &str) -> Value {
        Value::of_word(word).unwrap()
    }

    #[test]
    fn every_wording_reads_back() {
        let summary = NamedPreferences::of_signs(
            [("blunt", -1), ("warm", 1), ("science", 2), ("long", 0)].map(|(w, s)| (value(w), s)),
        );
        assert_eq!(summary.text(0), "They like science, warm. They avoid blunt.");
        for wording in 0..WORDING_COUNT {
            assert_eq!(NamedPreferences::read(&summary.text(wording)), summary);
        }
    }

    #[test]
    fn nothing_known_reads_as_empty() {
        assert_eq!(NamedPreferences::default().text(1), NOTHING_KNOWN);
        for text in [NOTHING_KNOWN, chat::prompts::NO_PAST, "", "science, warm"] {
            assert!(NamedPreferences::read(text).is_empty(), "{text}");
        }
    }
}
