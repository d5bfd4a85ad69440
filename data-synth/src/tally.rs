//! Evidence counts: what each choice says for and against every value, and the net of all choices.
//!
//! The format of the reasoning is one that a very small model learns fast: first everything that counts for values,
//! item by item, then everything that counts against them; then the net in canonical order, with the sign last (`=`
//! where both are equal):
//!
//! `for past science one warm short against past luxury two science long net science = warm + short + long - luxury -`
//!
//! Items have the numbers that prompts of the set `compact` show, by which the model keeps its position: odd ones were
//! chosen, even ones rejected. One of two words before a mention shows whether it counts for or against, and each net
//! sign is one lookup of the preceding word among the mentions. With the sign first, the model would need value and
//! sign at once; it then learns the values but guesses the signs.

use crate::lexicon::{VALUES, Value, mentions};
use crate::summary::NamedPreferences;

/// The evidence of one choice, each list in canonical order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The values that only the chosen item shows.
    pub plus: Vec<Value>,
    /// The values that only the rejected item shows.
    pub minus: Vec<Value>,
}

impl Evidence {
    /// Extracts the evidence from the texts of two items.
    pub fn of_items(chosen: &str, rejected: &str) -> Self {
        let (chosen, rejected) = (mentions(chosen), mentions(rejected));
        let only =
            |from: &[Value], other: &[Value]| sorted(from.iter().copied().filter(|v| !other.contains(v)).collect());
        Self { plus: only(&chosen, &rejected), minus: only(&rejected, &chosen) }
    }

    fn of_summary(summary: &NamedPreferences) -> Self {
        Self { plus: sorted(summary.likes.clone()), minus: sorted(summary.avoids.clone()) }
    }

    fn mentions(&self, value: Value) -> bool {
        self.plus.contains(&value) || self.minus.contains(&value)
    }
}

fn sorted(mut values: Vec<Value>) -> Vec<Value> {
    values.sort();
    values
}

fn sign(n: i32) -> &'static str {
    match n.signum() {
        1 => "+",
        -1 => "-",
        _ => "=",
    }
}

/// The numbers of items in the compact prompts; later items have digits.
const NUMBERS: [&str; 20] = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];

fn number(index: usize) -> String {
    NUMBERS.get(index).map_or_else(|| (index + 1).to_string(), |&n| n.to_owned())
}

/// The past summary and the evidence of every choice since.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The past summary.
    pub past: NamedPreferences,
    /// The evidence of each choice, oldest first.
    pub choices: Vec<Evidence>,
}

impl Tally {
    /// Returns the text of the reasoning.
    pub fn text(&self) -> String {
        let past = Evidence::of_summary(&self.past);
        let mut words = Vec::new();
        for (side, name) in ["for", "against"].into_iter().enumerate() {
            words.push(name.to_owned());
            let items = self.choices.iter().enumerate().map(|(i, choice)| (number(2 * i + side), choice));
            for (item, evidence) in std::iter::once(("past".to_owned(), &past)).chain(items) {
                words.push(item);
                let values = if side == 0 { &evidence.plus } else { &evidence.minus };
                words.extend(values.iter().map(|v| v.canonical().to_owned()));
            }
        }
        words.push("net".into());
        let net = self.net();
        let seen = |v: &Value| std::iter::once(&past).chain(&self.choices).any(|e| e.mentions(*v));
        words.extend(Value::all().filter(seen).map(|v| format!("{} {}", v.canonical(), sign(net[v.index()]))));
        words.join(" ")
    }

    /// Returns evidence for minus evidence against, by [`Value::index`]; an entry of the past summary counts as one
    /// choice.
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

    /// Returns every value that the evidence supports, with the sign of its net count, where the count is at least
    /// `least`.
    pub fn supported(&self, least: i32) -> NamedPreferences {
        let net = self.net();
        NamedPreferences::of_signs(Value::all().map(|v| (v, net[v.index()])).filter(|(_, n)| n.abs() >= least.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn numbers_are_those_of_the_compact_prompts() {
        let rejected = Some("a piece".into());
        let choice = chat::Interaction { chosen: "a note".into(), rejected, ..chat::Interaction::default() };
        let prompt = testing::compact().summarize(None, &vec![choice; 12]).unwrap().remove(0).content;
        for (index, line) in prompt.lines().skip(1).enumerate() {
            assert!(line.starts_with(&format!("{} {} ", number(index), ["+", "-"][index % 2])), "{line}");
        }
        assert_eq!(prompt.lines().count(), 25);
    }

    #[test]
    fn choices_are_counted_and_written_down() {
        let tally = Tally {
            past: NamedPreferences::read("They like science. They avoid luxury."),
            choices: vec![
                Evidence::of_items("a warm brief physics note", "the lengthy blunt note on data"),
                Evidence::of_items("a friendly piece", "a witty piece about physics"),
            ],
        };
        assert_eq!(
            tally.text(),
            "for past science one science warm short three warm \
             against past luxury two blunt long data four science funny \
             net science + funny - warm + blunt - short + long - data - luxury -"
        );
        let all = "They like science, warm, short. They avoid funny, blunt, long, data, luxury.";
        assert_eq!(tally.supported(1).text(0), all);
        assert_eq!(tally.supported(2).text(0), "They like warm.");
    }

    #[test]
    fn evidence_that_cancels_out_is_named_and_not_followed() {
        let choices =
            vec![Evidence::of_items("a witty note", "a dry note"), Evidence::of_items("a note", "a witty note")];
        let tally = Tally { past: NamedPreferences::default(), choices };
        assert_eq!(tally.text(), "for past one funny three against past two dry four funny net funny = dry -");
    }

    #[test]
    fn what_both_items_show_is_no_evidence() {
        let evidence = Evidence::of_items("a witty note", "a playful long note");
        assert_eq!((evidence.plus.len(), evidence.minus.len()), (0, 1));
    }
}
