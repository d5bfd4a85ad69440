//! Finds the values of two consecutive interactions in a prompt, and with them the constant texts between them.

use super::gaps::value;
use super::shape::{Field, Glyph, Pattern, literal};

/// Longer texts between the values of an interaction are not constant texts of a template.
const LONGEST: usize = 4096;

/// The places of the values of two interactions, in one order, with the same texts between the values of each.
pub(crate) struct Spans<'s> {
    text: &'s str,
    values: Vec<&'s str>,
    /// The number of values of an interaction.
    fields: usize,
    /// The number of the first interaction.
    number: i64,
    tries: usize,
    gaps: Vec<&'s str>,
    found: Vec<(Vec<Pattern>, String)>,
}

impl<'s> Spans<'s> {
    pub(crate) fn new(text: &'s str, first: &'s [String], second: &'s [String], number: i64, tries: usize) -> Self {
        let values = first.iter().chain(second).map(String::as_str).collect();
        Self { text, values, fields: first.len(), number, tries, gaps: Vec::new(), found: Vec::new() }
    }

    /// Returns the texts between the values of an interaction, and the text between the interactions, for each of the
    /// places.
    pub(crate) fn find(mut self) -> Vec<(Vec<Pattern>, String)> {
        self.walk(0);
        self.found.dedup();
        self.found
    }

    /// Places the values from here on. The gaps hold the texts between those before, each with the text before the
    /// first value.
    fn walk(&mut self, at: usize) {
        let place = self.gaps.len();
        let Some(value) = self.values.get(place).copied() else {
            self.keep();
            return;
        };
        let text = self.text;
        for (offset, _) in text[at..].match_indices(value) {
            if self.tries == 0 || (place > 0 && offset > LONGEST) {
                return;
            }
            self.tries -= 1;
            let gap = &text[at..at + offset];
            if place > self.fields && self.pattern(place - self.fields, gap).is_none() {
                continue;
            }
            self.gaps.push(gap);
            self.walk(at + offset + value.len());
            self.gaps.pop();
        }
    }

    /// Returns the pattern of the text before the value `place` of the first interaction, which the second one has as
    /// `gap`.
    fn pattern(&self, place: usize, gap: &str) -> Option<Pattern> {
        unify(self.gaps[place], self.number, gap, self.number + 1)
    }

    fn keep(&mut self) {
        let patterns = (1..self.fields).map(|place| self.pattern(place, self.gaps[self.fields + place]));
        if let Some(patterns) = patterns.collect::<Option<Vec<Pattern>>>() {
            self.found.push((patterns, self.gaps[self.fields].to_string()));
        }
    }
}

/// Returns the pattern that is one text in interaction `a` and the other one in interaction `b`.
fn unify(text_a: &str, a: i64, text_b: &str, b: i64) -> Option<Pattern> {
    let (mut rest_a, mut rest_b) = (text_a, text_b);
    let mut pattern = Pattern::new();
    while !rest_a.is_empty() && !rest_b.is_empty() {
        let (run_a, run_b) = (run(rest_a), run(rest_b));
        if run_a == run_b {
            pattern.extend(literal(run_a));
        } else {
            let offset = value(run_a)? - a;
            if value(run_b)? - b != offset {
                return None;
            }
            pattern.push(Glyph::Number(offset));
        }
        (rest_a, rest_b) = (&rest_a[run_a.len()..], &rest_b[run_b.len()..]);
    }
    (rest_a.is_empty() && rest_b.is_empty()).then_some(pattern)
}

/// Returns the digits, or the text without digits, with which a text begins.
fn run(text: &str) -> &str {
    let digits = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(text.len());
    &text[..end]
}

/// Returns all orders of fields.
pub(crate) fn orders(fields: &[Field]) -> Vec<Vec<Field>> {
    let mut orders = vec![Vec::new()];
    for _ in fields {
        let longer = |order: &Vec<Field>| -> Vec<Vec<Field>> {
            let unused = fields.iter().filter(|field| !order.contains(field));
            unused.map(|field| order.iter().copied().chain([*field]).collect()).collect()
        };
        orders = orders.iter().flat_map(longer).collect();
    }
    orders
}

#[cfg(test)]
mod tests {
    use super::super::shape::fill;
    use super::*;

    #[test]
    fn texts_are_unified_up_to_the_number() {
        let unified = |a, b| unify(a, 3, b, 4).map(|pattern| fill(&pattern, 7));
        assert_eq!(unified("(3) of 9: ", "(4) of 9: ").as_deref(), Some("(7) of 9: "));
        assert_eq!(unified("2|3", "3|4").as_deref(), Some("6|7"));
        assert_eq!(unified("03", "04"), None);
        assert_eq!(unified("3", "5"), None);
        assert_eq!(unified("a", "b"), None);
        assert_eq!(unified("a", "a1"), None);
        assert_eq!(unified("", "").as_deref(), Some(""));
    }

    #[test]
    fn values_are_found_where_the_texts_between_agree() {
        let (first, second) = (["a".to_string(), "b".into()], ["c".to_string(), "a".into()]);
        let found = Spans::new("a list: 1. a+1+b, 2. c+2+a.", &first, &second, 1, 100).find();
        let found: Vec<_> = found.iter().map(|(texts, lead)| (fill(&texts[0], 9), lead.as_str())).collect();
        assert_eq!(found, [("+9+".to_string(), ", 2. ")]);
    }

    #[test]
    fn every_order_is_tried() {
        let fields = [Field::Query, Field::Chosen, Field::Rejected];
        let found = orders(&fields);
        assert_eq!(found.len(), 6);
        assert_eq!(found[5], [Field::Rejected, Field::Chosen, Field::Query]);
        assert_eq!(orders(&[]).len(), 1);
    }
}
