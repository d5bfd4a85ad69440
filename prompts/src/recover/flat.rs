//! Derives the template of a judge's prompts, whose values are known and stand in it once each.

use std::collections::BTreeMap;

use super::absent::{GapDifference, difference};
use super::emit::emit;
use super::error::{RecoverError, cut};
use super::shape::{Absent, Field, Piece, TemplateShape, ValueSlot, literal, push_text, units};
use super::spans::orders;

/// How many places of the values are tried in a row.
const TRIES: usize = 20_000;

/// A judge's prompt with its values, in the order of [`FIELDS`]. Only the query may be absent.
pub(crate) struct JudgeRow<'s> {
    pub place: &'s str,
    pub text: &'s str,
    pub values: [Option<&'s str>; 4],
}

/// The values of a judge's prompt.
pub(crate) const FIELDS: [Field; 4] = [Field::Query, Field::Preference, Field::ItemA, Field::ItemB];

impl<'s> JudgeRow<'s> {
    fn value(&self, field: Field) -> Option<&'s str> {
        let place = FIELDS.iter().position(|other| *other == field)?;
        self.values[place]
    }
}

/// Derives the template of rows.
///
/// # Errors
/// Returns an error if a value is not in its row, if no template fits all rows, or if several do.
pub(crate) fn derive(rows: &[JudgeRow<'_>]) -> Result<TemplateShape, RecoverError> {
    let fields = used(rows)?;
    let model = rows.iter().min_by_key(|row| occurrences(row, &fields));
    let Some(model) = model.filter(|row| occurrences(row, &fields) < usize::MAX) else {
        return Err(RecoverError::ambiguous("where the values stand, as no row has all of them", ""));
    };
    let mut shapes: BTreeMap<Vec<(String, String)>, TemplateShape> = BTreeMap::new();
    for order in orders(&fields) {
        let values: Vec<&str> = order.iter().filter_map(|field| model.value(*field)).collect();
        let mut search = Search { text: model.text, values, tries: TRIES, gaps: Vec::new(), found: Vec::new() };
        search.walk(0);
        let fitting = search.found.iter().filter_map(|texts| fit(texts, &order, rows));
        shapes.extend(fitting.map(|shape| (emit(&shape, "judge").into_iter().collect(), shape)));
    }
    let mut shapes: Vec<TemplateShape> = shapes.into_values().collect();
    shapes.sort_by_key(TemplateShape::cost);
    match &shapes[..] {
        [first, second, ..] if first.cost() == second.cost() => {
            Err(RecoverError::ambiguous("which of several templates rendered the judge's prompts", model.text))
        }
        [first, ..] => Ok(first.clone()),
        [] => Err(RecoverError::Row {
            place: model.place.into(),
            message: "the texts around the values are not those of the other judge's prompts; pass only rows that one \
                      template rendered"
                .into(),
        }),
    }
}

/// Returns the fields that the template uses.
fn used(rows: &[JudgeRow<'_>]) -> Result<Vec<Field>, RecoverError> {
    let mut used = Vec::new();
    for field in FIELDS {
        let mut values = rows.iter().filter_map(|row| Some((row, row.value(field)?)));
        let Some((row, value)) = values.find(|(row, value)| !row.text.contains(value)) else {
            if rows.iter().any(|row| row.value(field).is_some()) {
                used.push(field);
            }
            continue;
        };
        // A template need not use the query.
        if field != Field::Query {
            let message =
                format!("`{}` {:?} is not in the prompt; expected it as it was rendered", field.name(), cut(value));
            return Err(RecoverError::Row { place: row.place.into(), message });
        }
    }
    Ok(used)
}

/// Returns the number of places that the values of a row may have together; `usize::MAX` if one is absent or empty.
fn occurrences(row: &JudgeRow<'_>, fields: &[Field]) -> usize {
    let count = |field: &Field| match row.value(*field) {
        None | Some("") => usize::MAX,
        Some(value) => row.text.matches(value).count(),
    };
    fields.iter().map(count).fold(1, usize::saturating_mul)
}

/// Finds the places of values in one order.
struct Search<'s> {
    text: &'s str,
    values: Vec<&'s str>,
    tries: usize,
    gaps: Vec<&'s str>,
    /// The texts around the values, for each of their places.
    found: Vec<Vec<&'s str>>,
}

impl Search<'_> {
    fn walk(&mut self, at: usize) {
        let text = self.text;
        let Some(value) = self.values.get(self.gaps.len()).copied() else {
            let texts = self.gaps.iter().copied().chain([&text[at..]]).collect();
            self.found.push(texts);
            return;
        };
        for (offset, _) in text[at..].match_indices(value) {
            if self.tries == 0 {
                return;
            }
            self.tries -= 1;
            self.gaps.push(&text[at..at + offset]);
            self.walk(at + offset + value.len());
            self.gaps.pop();
        }
    }
}

/// Returns the template with these texts around the values if all rows have them.
fn fit(texts: &[&str], order: &[Field], rows: &[JudgeRow<'_>]) -> Option<TemplateShape> {
    let query = order.iter().position(|field| *field == Field::Query);
    let mut absent: Option<GapDifference> = None;
    for row in rows {
        let lacks = query.filter(|_| row.value(Field::Query).is_none());
        let join = |from: usize, to: usize| -> String {
            (from..to).map(|place| format!("{}{}", texts[place], row.value(order[place]).unwrap_or_default())).collect()
        };
        let end = texts[order.len()];
        let Some(place) = lacks else {
            if row.text != join(0, order.len()) + end {
                return None;
            }
            continue;
        };
        let left = join(0, place);
        // From the value after the query on.
        let right = join(place + 1, order.len()) + end;
        let right = right.strip_prefix(texts[place + 1])?;
        let between = row.text.strip_prefix(left.as_str())?.strip_suffix(right)?;
        let found = difference(between, &units(&literal(texts[place]), 0), &units(&literal(texts[place + 1]), 0));
        if *absent.get_or_insert_with(|| found.clone()) != found {
            return None;
        }
    }
    Some(shape(texts, order, absent.as_ref()))
}

fn shape(texts: &[&str], order: &[Field], absent: Option<&GapDifference>) -> TemplateShape {
    let mut pieces = Vec::new();
    let mut text = literal(texts[0]);
    for (place, field) in order.iter().enumerate() {
        let mut next = literal(texts[place + 1]);
        let mut slot = ValueSlot { field: *field, absent: None };
        if let Some((shared_before, shared_after, instead)) = absent.filter(|_| *field == Field::Query) {
            let before = text.split_off(*shared_before);
            let rest = next.split_off(next.len() - shared_after);
            slot.absent = Some(Absent { before, after: next, text: instead.clone() });
            next = rest;
        }
        push_text(&mut pieces, text);
        pieces.push(Piece::Slot(slot));
        text = next;
    }
    push_text(&mut pieces, text);
    TemplateShape { before: pieces, items: None, after: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recovered(rows: &[(&str, [Option<&str>; 4])]) -> Result<String, String> {
        let rows: Vec<JudgeRow<'_>> =
            rows.iter().map(|&(text, values)| JudgeRow { place: "row", text, values }).collect();
        derive(&rows).map(|shape| emit(&shape, "judge")["judge.j2"].clone()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_query_may_be_absent() {
        let rows = [
            ("Likes: tea\nAsked: now?\nA) tea B) milk", [Some("now?"), Some("tea"), Some("tea"), Some("milk")]),
            ("Likes: oats\nA) rye B) oats", [None, Some("oats"), Some("rye"), Some("oats")]),
        ];
        let expected = "Likes: {{ preference }}\n{% if query %}\nAsked: {{ query }}\n{% endif %}\n\
                        A) {{ item_a }} B) {{ item_b }}\n";
        assert_eq!(recovered(&rows).unwrap(), expected);
    }

    #[test]
    fn what_the_rows_leave_open_is_reported() {
        let same = [("x x", [None, Some("x"), Some("x"), Some("x")])];
        assert!(recovered(&same).unwrap_err().contains("not those of the other"), "{:?}", recovered(&same));
        let open = [("P: x A: x B: x", [None, Some("x"), Some("x"), Some("x")])];
        assert!(recovered(&open).unwrap_err().contains("which of several templates"));
        let missing = [("P: x A: y B: z", [None, Some("x"), Some("y"), Some("w")])];
        assert!(recovered(&missing).unwrap_err().contains("`item_b` \"w\" is not in the prompt"));
    }
}
