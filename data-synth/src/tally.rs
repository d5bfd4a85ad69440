//! Counting evidence: what each choice says for and against every value, and what follows from all of them.
//!
//! The reasoning is written the way a very small model learns fast: the past summary's entries, then one numbered segment
//! a choice, values in the order of the items' text, then what follows from all of them in canonical order, e.g.
//! `past + science - luxury one + warm short - blunt data net + science warm short - blunt data luxury`. The numbers, which
//! prompts of the set `compact` show too, are what lets it find its place: without them it needs many times the training.

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

    /// `prefix + plus - minus`, a sign without values left out.
    fn text(&self, prefix: &str) -> String {
        let mut words = vec![prefix];
        for (sign, values) in [("+", &self.plus), ("-", &self.minus)] {
            if !values.is_empty() {
                words.push(sign);
                words.extend(values.iter().map(|v| v.canonical()));
            }
        }
        words.join(" ")
    }
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
        let mut segments = vec![Evidence::of_summary(&self.past).text("past")];
        segments.extend(self.choices.iter().enumerate().map(|(i, e)| e.text(&number(i))));
        segments.push(Evidence::of_summary(&self.supported(1)).text("net"));
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
            "past + science - luxury one + warm short science - long blunt data two + warm - funny science \
             net + science warm short - funny blunt long data luxury"
        );
        let all = "They like science, warm, short. They avoid funny, blunt, long, data, luxury.";
        assert_eq!(tally.supported(1).text(0), all);
        assert_eq!(tally.supported(2).text(0), "They like warm.");
    }

    #[test]
    fn what_both_items_show_is_no_evidence() {
        let evidence = Evidence::of_items("a witty note", "a playful long note");
        assert_eq!((evidence.plus.len(), evidence.minus.len()), (0, 1));
    }
}
