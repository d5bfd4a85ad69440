//! Counting evidence: what each choice says for and against every value, and what follows from all of them.
//!
//! The reasoning is written the way a very small model learns fast: what the past summary says, then one numbered segment
//! a choice, values in the order of the items' text with the sign of their evidence before them; then what follows from
//! all of them, in canonical order, the sign last (`=` where for and against are equal); then the values that are for and
//! against, from which a summary is a copy:
//!
//! `past + science one + warm - luxury - science net science = warm + luxury - for warm against luxury`
//!
//! The numbers, which prompts of the set `compact` show too, are what lets it find its place. Each net sign is one look-up
//! of the word before it; with the sign first, the model would have to know value and sign at once, and learns the values
//! but guesses the signs.

use crate::lexicon::{VALUES, Value, mentions};
use crate::summary::Summary;

/// What one choice says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Values that only the chosen item shows.
    pub plus: Vec<Value>,
    /// Values that only the rejected item shows.
    pub minus: Vec<Value>,
}

impl Evidence {
    /// Reads the two items' texts.
    pub fn of_items(chosen: &str, rejected: &str) -> Self {
        let (chosen, rejected) = (mentions(chosen), mentions(rejected));
        let only = |from: &[Value], other: &[Value]| from.iter().copied().filter(|v| !other.contains(v)).collect();
        Self { plus: only(&chosen, &rejected), minus: only(&rejected, &chosen) }
    }

    fn of_summary(summary: &Summary) -> Self {
        Self { plus: summary.likes.clone(), minus: summary.avoids.clone() }
    }

    fn signs(&self) -> impl Iterator<Item = (Value, i32)> {
        self.plus.iter().map(|&v| (v, 1)).chain(self.minus.iter().map(|&v| (v, -1)))
    }
}

fn sign(n: i32) -> &'static str {
    match n.signum() {
        1 => "+",
        -1 => "-",
        _ => "=",
    }
}

/// `name sign value sign value …`.
fn evidence(name: &str, evidence: &Evidence) -> String {
    evidence.signs().fold(name.to_owned(), |text, (value, n)| format!("{text} {} {}", sign(n), value.canonical()))
}

/// How the compact prompts number choices; later ones have digits.
const NUMBERS: [&str; 12] =
    ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];

fn number(index: usize) -> String {
    NUMBERS.get(index).map_or_else(|| (index + 1).to_string(), |&n| n.to_owned())
}

/// The past summary and the evidence of every choice since.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// What was known before.
    pub past: Summary,
    /// One entry a choice, oldest first.
    pub choices: Vec<Evidence>,
}

impl Tally {
    /// The reasoning text.
    pub fn text(&self) -> String {
        let past = Evidence::of_summary(&self.past);
        let mut segments = vec![evidence("past", &past)];
        segments.extend(self.choices.iter().enumerate().map(|(i, choice)| evidence(&number(i), choice)));
        let (net, supported) = (self.net(), self.supported(1));
        let seen = |v: &Value| std::iter::once(&past).chain(&self.choices).any(|e| e.signs().any(|(s, _)| s == *v));
        let follows = Value::all().filter(seen).map(|v| format!(" {} {}", v.canonical(), sign(net[v.index()])));
        segments.push(format!("net{}", follows.collect::<String>()));
        for (name, values) in [("for", &supported.likes), ("against", &supported.avoids)] {
            segments.push(values.iter().fold(name.to_owned(), |text, v| format!("{text} {}", v.canonical())));
        }
        segments.join(" ")
    }

    /// Count of evidence for minus against, by [`Value::index`]; an entry of the past summary counts as one choice.
    pub fn net(&self) -> [i32; VALUES] {
        let mut net = [0; VALUES];
        for (value, sign) in self.past.entries() {
            net[value.index()] += sign;
        }
        for choice in &self.choices {
            choice.plus.iter().for_each(|v| net[v.index()] += 1);
            choice.minus.iter().for_each(|v| net[v.index()] -= 1);
        }
        net
    }

    /// Everything the evidence supports: each value by the sign of its net count, where the count reaches `least`.
    pub fn supported(&self, least: i32) -> Summary {
        let net = self.net();
        Summary::of_signs(Value::all().map(|v| (v, net[v.index()])).filter(|(_, n)| n.abs() >= least.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn numbers_are_those_of_the_compact_prompts() {
        let choice = chat::Interaction { chosen: "a note".into(), ..chat::Interaction::default() };
        let prompt = testing::compact().summarize(None, &vec![choice; 14]).unwrap().remove(0).content;
        for (index, line) in prompt.lines().skip(1).enumerate() {
            assert!(line.starts_with(&format!("{} + ", number(index))), "{line}");
        }
        assert_eq!(prompt.lines().count(), 15);
    }

    #[test]
    fn choices_are_counted_and_written_down() {
        let tally = Tally {
            past: Summary::read("They like science. They avoid luxury."),
            choices: vec![
                Evidence::of_items("a warm brief physics note", "the lengthy blunt note on data"),
                Evidence::of_items("a friendly piece", "a witty piece about physics"),
            ],
        };
        assert_eq!(
            tally.text(),
            "past + science - luxury one + warm + short + science - long - blunt - data two + warm - funny - science \
             net science + funny - warm + blunt - short + long - data - luxury - \
             for science warm short against funny blunt long data luxury"
        );
        let all = "They like science, warm, short. They avoid funny, blunt, long, data, luxury.";
        assert_eq!(tally.supported(1).text(0), all);
        assert_eq!(tally.supported(2).text(0), "They like warm.");
    }

    #[test]
    fn evidence_that_cancels_out_is_named_and_not_followed() {
        let choices =
            vec![Evidence::of_items("a witty note", "a dry note"), Evidence::of_items("a note", "a witty note")];
        let tally = Tally { past: Summary::default(), choices };
        assert_eq!(tally.text(), "past one + funny - dry two - funny net funny = dry - for against dry");
    }

    #[test]
    fn what_both_items_show_is_no_evidence() {
        let evidence = Evidence::of_items("a witty note", "a playful long note");
        assert_eq!((evidence.plus.len(), evidence.minus.len()), (0, 1));
    }
}
