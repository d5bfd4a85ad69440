//! Learns what a template writes where a value is absent.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::block::{InteractionBlock, KnownRow, value_of};
use super::shape::{Absent, Glyph, of_previous, units};

/// Longer texts between two values are not constant texts of a template.
const LONGEST: usize = 4096;

/// How a text between two values, one of them left out, differs from the text with all of them: the numbers of glyphs
/// that it shares with the text before and the text after the value, and the text between these.
pub(crate) type GapDifference = (usize, usize, String);

/// Learns the texts that replace absent values of a block. Returns whether each field that is absent anywhere has one.
pub(crate) fn learn(block: &mut InteractionBlock, rows: &[&KnownRow<'_>]) -> bool {
    for place in 0..block.fields.len() {
        let field = block.fields[place];
        let lacks = |row: &&KnownRow<'_>| row.items.iter().any(|item| value_of(item, field).is_none());
        if !rows.iter().any(lacks) {
            continue;
        }
        let mut votes: BTreeMap<GapDifference, usize> = BTreeMap::new();
        for row in rows {
            for index in 0..row.items.len() {
                differences(block, row, index, place)
                    .into_iter()
                    .for_each(|found| *votes.entry(found).or_default() += 1);
            }
        }
        // Of the differences that most rows allow, the one with the shortest text.
        let best = votes.into_iter().max_by_key(|((_, _, text), votes)| (*votes, Reverse(text.len())));
        let Some((difference, _)) = best else { return false };
        apply(block, place, difference);
    }
    true
}

/// Returns the differences that the interaction `index`, which lacks the field at `place`, allows. None if a
/// neighboring value is absent, too.
fn differences(block: &InteractionBlock, row: &KnownRow<'_>, index: usize, place: usize) -> Vec<GapDifference> {
    let count = block.fields.len();
    if count < 2 || value_of(&row.items[index], block.fields[place]).is_some() {
        return Vec::new();
    }
    let value = |index: usize, place: usize| value_of(row.items.get(index)?, block.fields[place]);
    let (left_place, right_place) = ((place + count - 1) % count, (place + 1) % count);
    // The neighbors may belong to the interactions before and after.
    let left_item = if place == 0 { index.checked_sub(1) } else { Some(index) };
    let right_item = if place + 1 == count { index + 1 } else { index };
    let (Some(left_item), true) = (left_item, right_item < row.items.len()) else { return Vec::new() };
    let (Some(left), Some(right)) = (value(left_item, left_place), value(right_item, right_place)) else {
        return Vec::new();
    };
    let around = |place: usize, item: usize, which: fn(&Absent) -> &[Glyph]| {
        block.absent[place].as_ref().map_or_else(Vec::new, |absent| units(which(absent), item as i64 + 1))
    };
    let after_left = around(left_place, left_item, |absent| &absent.after[..]);
    let before_right = around(right_place, right_item, |absent| &absent.before[..]);
    let least = (after_left.len(), before_right.len());
    let before = [after_left, units(&block.texts[place], index as i64 + 1)].concat();
    let after = [units(&block.texts[right_place], right_item as i64 + 1), before_right].concat();

    let mut found = Vec::new();
    for (at, _) in row.text.match_indices(left) {
        let rest = &row.text[at + left.len()..];
        let Some(text) = rest.find(right).filter(|length| *length <= LONGEST).map(|length| &rest[..length]) else {
            continue;
        };
        let (shared_before, shared_after, text) = difference(text, &before, &after);
        if shared_before >= least.0 && shared_after >= least.1 {
            found.push((shared_before - least.0, shared_after - least.1, text));
        }
    }
    found
}

/// Compares a text without a value with the texts before and after the value: of the cuts that leave the shortest text
/// between, one at the beginning of a line, and of these the last one.
pub(crate) fn difference(text: &str, before: &[String], after: &[String]) -> GapDifference {
    // (length between, not at the beginning of a line, units before): the least is the best.
    type Key = (usize, bool, Reverse<usize>);
    let mut best: Option<(Key, usize, &str)> = None;
    let mut left = 0;
    for count in 0..=before.len() {
        let (shared, between) = strip_end(&text[left..], after);
        let key = (between.len(), !text[..left].ends_with('\n'), Reverse(count));
        if best.as_ref().is_none_or(|(least, _, _)| key < *least) {
            best = Some((key, shared, between));
        }
        match before.get(count).filter(|unit| text[left..].starts_with(unit.as_str())) {
            Some(unit) => left += unit.len(),
            None => break,
        }
    }
    // The loop runs at least once, for no unit.
    best.map_or((0, 0, text.to_string()), |((_, _, count), shared, between)| (count.0, shared, between.to_string()))
}

/// Removes from the end of a text as many units as it has.
fn strip_end<'t>(text: &'t str, units: &[String]) -> (usize, &'t str) {
    let mut rest = text;
    for (count, unit) in units.iter().rev().enumerate() {
        match rest.strip_suffix(unit.as_str()) {
            Some(shorter) => rest = shorter,
            None => return (count, rest),
        }
    }
    (units.len(), rest)
}

/// Moves what an absent value takes along from the constant texts to the field.
fn apply(block: &mut InteractionBlock, place: usize, (shared_before, shared_after, text): GapDifference) {
    let next = (place + 1) % block.fields.len();
    let before = block.texts[place].split_off(shared_before);
    let kept = block.texts[next].len().saturating_sub(shared_after);
    let rest = block.texts[next].split_off(kept);
    let mut after = std::mem::replace(&mut block.texts[next], rest);
    if next == 0 {
        after = of_previous(&after);
    }
    block.absent[place] = Some(Absent { before, after, text });
}

#[cfg(test)]
mod tests {
    use chat::Interaction;

    use super::super::shape::{Field, fill, literal};
    use super::*;

    #[test]
    fn a_value_takes_along_what_its_absence_removes() {
        let item = |query: Option<&str>, chosen: &str, rejected: Option<&str>| Interaction {
            query: query.map(Into::into),
            chosen: chosen.into(),
            rejected: rejected.map(Into::into),
            ..Interaction::default()
        };
        let items = [
            item(Some("q"), "c", Some("r")),
            item(None, "d", Some("s")),
            item(Some("t"), "e", None),
            item(None, "f", None),
        ];
        let text = "* ask q: take c, not r\n* take d, not s\n* ask t: take e alone\n* take f alone\nGo";
        let row = KnownRow { place: "row", text, past: "", items: &items };
        let fields = vec![Field::Query, Field::Chosen, Field::Rejected];
        let texts = ["\n* ask ", ": take ", ", not "].map(literal).to_vec();
        let mut block = InteractionBlock { fields, texts, absent: vec![None; 3] };
        // The first row lacks the last field only where a neighbor is absent or missing, too.
        let more = [item(Some("q"), "c", None), item(Some("u"), "g", Some("h"))];
        let other = KnownRow {
            place: "row",
            text: "* ask q: take c alone\n* ask u: take g, not h\nGo",
            past: "",
            items: &more,
        };
        assert!(learn(&mut block, &[&row, &other]));
        let rendered = block.render(&items).unwrap();
        assert_eq!(format!("* {rendered}\nGo"), text);
        assert_eq!(fill(&block.texts[0], 1), "\n* ");
        let query = block.absent[0].as_ref().unwrap();
        assert_eq!((fill(&query.before, 1), fill(&query.after, 1)), ("ask ".into(), ": ".into()));
        assert_eq!(block.absent[2].as_ref().unwrap().text, " alone");
    }
}
