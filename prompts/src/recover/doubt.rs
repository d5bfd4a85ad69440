//! What a template that fits leaves open: constant text that may belong to the values.
//!
//! Rows of which nothing is known cannot tell a text that the template repeats from one that all values share. Such a
//! text is reported where a template rarely has one: letters, digits or the end of a sentence directly beside a slot, a
//! word beside a slot of few values, structure inside of all values.

use std::collections::{BTreeMap, BTreeSet};

use chat::prompts::NO_PAST;

use super::constants::{Symbols, split_once};
use super::error::RecoverError;
use super::parse::Parsed;
use super::shape::{Field, Items, Pattern, Piece, TURN, TemplateShape, fill};

/// As many different values do not share a word by chance.
const ENOUGH: usize = 8;

/// How many characters at the edge of the block may belong to a value.
const REACH: usize = 200;

/// How many values are searched for structure.
const SEARCHED: usize = 64;

/// Checks a template that rebuilds every row, given the values of the rows.
///
/// # Errors
/// [`RecoverError::Ambiguous`] for the first text that may belong to the values as well as to the template.
pub(crate) fn check(shape: &TemplateShape, rows: &[Parsed]) -> Result<(), RecoverError> {
    let values = values(rows);
    no_past(shape)?;
    for pieces in [&shape.before, &shape.after] {
        for (index, piece) in pieces.iter().enumerate() {
            if let Piece::Slot(slot) = piece {
                let left = index.checked_sub(1).map(|before| text(&pieces[before])).unwrap_or_default();
                let right = pieces.get(index + 1).map(text).unwrap_or_default();
                Border { field: slot.field, values: &values }.check(&left, &right)?;
            }
        }
    }
    if let Some(items) = &shape.items {
        block(shape, items, &values)?;
    }
    values.iter().filter(|(field, _)| **field != Field::Past).try_for_each(|(field, values)| structure(*field, values))
}

type Values<'r> = BTreeMap<Field, BTreeSet<&'r str>>;

fn values(rows: &[Parsed]) -> Values<'_> {
    let mut values = Values::new();
    let mut add = |field, value| {
        values.entry(field).or_default().insert(value);
    };
    for row in rows {
        row.past.iter().for_each(|past| add(Field::Past, past.as_str()));
        for item in &row.interactions {
            add(Field::Chosen, item.chosen.as_str());
            item.query.iter().for_each(|query| add(Field::Query, query.as_str()));
            item.rejected.iter().for_each(|rejected| add(Field::Rejected, rejected.as_str()));
        }
    }
    values
}

/// A template without the past summary, in rows that all say there is none.
fn no_past(shape: &TemplateShape) -> Result<(), RecoverError> {
    if shape.has_outer(Field::Past) {
        return Ok(());
    }
    for text in shape.before.iter().chain(&shape.after).map(text) {
        if let Some(at) = text.find(NO_PAST) {
            let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
            let question = format!("whether \"{NO_PAST}\", which every row has, stands for the past summary");
            return Err(RecoverError::ambiguous(question, &text[line..]));
        }
    }
    Ok(())
}

fn text(piece: &Piece) -> String {
    match piece {
        Piece::Text(text) => fill(text, 1),
        Piece::Slot(_) => String::new(),
    }
}

/// Checks the slots of an interaction.
fn block(shape: &TemplateShape, items: &Items, values: &Values<'_>) -> Result<(), RecoverError> {
    let constant = |index: Option<usize>| match index.and_then(|index| items.body.get(index)) {
        Some(Piece::Text(text)) => text.clone(),
        _ => Pattern::new(),
    };
    let slots: Vec<usize> =
        (0..items.body.len()).filter(|index| matches!(items.body[*index], Piece::Slot(_))).collect();
    let (Some(first), Some(last)) = (slots.first(), slots.last()) else { return Ok(()) };
    let (open, close) = (constant(first.checked_sub(1)), constant(Some(last + 1)));
    let between = fill(&[close.clone(), items.lead.clone(), open.clone()].concat(), 2);
    let head = shape.before.last().map(text).unwrap_or_default() + &fill(&open, 1);
    let tail = fill(&close, 1) + &shape.after.first().map(text).unwrap_or_default();
    for index in &slots {
        let Piece::Slot(slot) = &items.body[*index] else { continue };
        let border = Border { field: slot.field, values };
        let (before, after) = slot.absent.as_ref().map_or((&[][..], &[][..]), |a| (&a.before[..], &a.after[..]));
        let lefts = if !before.is_empty() {
            vec![fill(before, 1)]
        } else if index == first {
            vec![between.clone(), head.clone()]
        } else {
            vec![fill(&constant(index.checked_sub(1)), 1)]
        };
        let rights = if !after.is_empty() {
            vec![fill(after, 1)]
        } else if index == last {
            vec![between.clone(), tail.clone()]
        } else {
            vec![fill(&constant(Some(index + 1)), 1)]
        };
        for left in &lefts {
            rights.iter().try_for_each(|right| border.check(left, right))?;
        }
        if let [between, head] = &lefts[..] {
            border.beginning(between, head)?;
        }
        if let [between, tail] = &rights[..] {
            border.end(between, tail)?;
        }
    }
    Ok(())
}

/// The constant texts beside a slot.
struct Border<'v> {
    field: Field,
    values: &'v Values<'v>,
}

impl Border<'_> {
    fn has(&self, holds: impl Fn(&str) -> bool) -> bool {
        self.values.get(&self.field).is_some_and(|values| values.iter().any(|value| holds(value)))
    }

    fn doubt<T>(&self, which: &str, part: &str, excerpt: &str) -> Result<T, RecoverError> {
        let name = self.field.name();
        let question =
            format!("whether {part:?}, {which} every value of `{name}`, belongs to the template or to the values");
        Err(RecoverError::ambiguous(question, excerpt))
    }

    fn check(&self, left: &str, right: &str) -> Result<(), RecoverError> {
        let few = self.values.get(&self.field).is_none_or(|values| values.len() < ENOUGH);
        let line = |text: &str| text.rsplit(['\n', TURN]).next().unwrap_or_default().to_string();
        let words: String = {
            let near: Vec<char> = left.chars().rev().take_while(is_word_or_space).collect();
            near.into_iter().rev().collect()
        };
        if left.ends_with(char::is_alphanumeric) || (few && words.contains(char::is_alphanumeric)) {
            return self.doubt("before", words.trim_start(), &line(left));
        }
        let words: String = right.chars().take_while(is_word_or_space).collect();
        if let Some(end) = right.chars().next().filter(|c| matches!(c, '.' | '!' | '?' | '。')) {
            return self.doubt("after", &end.to_string(), right);
        }
        if right.starts_with(char::is_alphanumeric) || (few && words.contains(char::is_alphanumeric)) {
            return self.doubt("after", words.trim_end(), right);
        }
        Ok(())
    }

    /// The text before the first interaction ends otherwise than the text between interactions, so its end may belong
    /// to the first values.
    fn beginning(&self, between: &str, head: &str) -> Result<(), RecoverError> {
        if between.chars().last() == head.chars().last() {
            return Ok(());
        }
        let mut ends = head.char_indices().rev().take(REACH).map(|(at, _)| &head[at..]);
        match ends.find(|end| self.has(|value| value.starts_with(end))) {
            Some(end) => self.doubt("before", end, head.rsplit('\n').next().unwrap_or_default()),
            None => Ok(()),
        }
    }

    /// The text after the last interaction begins otherwise than the text between interactions.
    fn end(&self, between: &str, tail: &str) -> Result<(), RecoverError> {
        if between.chars().next() == tail.chars().next() {
            return Ok(());
        }
        let mut beginnings = tail.char_indices().take(REACH).map(|(at, c)| &tail[..at + c.len_utf8()]);
        match beginnings.find(|beginning| self.has(|value| value.ends_with(beginning))) {
            Some(beginning) => self.doubt("after", beginning, tail),
            None => Ok(()),
        }
    }
}

fn is_word_or_space(c: &char) -> bool {
    *c != '\n' && *c != TURN && (c.is_alphanumeric() || c.is_whitespace())
}

/// Looks for a text that all values of a field hold, such as the title of an item: the text before it may belong to the
/// values, too.
fn structure(field: Field, values: &BTreeSet<&str>) -> Result<(), RecoverError> {
    if values.len() < 4 {
        return Ok(());
    }
    let texts: Vec<Symbols<'_>> = values.iter().take(SEARCHED).copied().map(Symbols::new).collect();
    let Some(shared) = split_once(&texts, 4) else { return Ok(()) };
    let start = shared.at[0][0];
    let part = texts[0].text(start, start + shared.len);
    if values.iter().all(|value| value.contains(part)) && part.contains([':', '\n']) {
        let name = field.name();
        let question =
            format!("whether the parts of `{name}`, of which each value has {part:?}, belong to the template");
        return Err(RecoverError::ambiguous(question, texts[0].text(0, texts[0].len())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::shape::Glyph;
    use super::*;

    fn border(past: &[&str], left: &str, right: &str) -> Result<(), String> {
        let rows: Vec<Parsed> =
            past.iter().map(|past| Parsed { past: Some((*past).into()), interactions: vec![] }).collect();
        let before = vec![Piece::text(left), Piece::slot(Field::Past), Piece::text(right)];
        check(&TemplateShape { before, items: None, after: vec![] }, &rows).map_err(|e| e.to_string())
    }

    #[test]
    fn text_beside_a_slot_is_doubted_where_values_may_share_it() {
        let few = ["a", "b"];
        assert_eq!(border(&few, "Past: ", "\nNow"), Ok(()));
        assert_eq!(border(&few, "Past: \"", "\". So"), Ok(()));
        for (left, right, words) in [
            ("Past: ", ".\n", "\".\", after every value of `past`"),
            ("Past: T", "\n", "\"T\", before"),
            ("Past: The ", "\n", "\"The \", before"),
            ("Past: ", " things\n", "\" things\", after"),
        ] {
            let error = border(&few, left, right).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let many: Vec<String> = (0..8).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(border(&many, "Past: The ", " things\n"), Ok(()));
    }

    #[test]
    fn values_with_structure_are_doubted() {
        let values = |end: &str| ["red", "oak", "tin", "sea"].map(|word| format!("{word}\nAbout: {word}{end}"));
        let (same, other) = (values("."), ["red", "oak: tree", "tin\nbox", "sea"]);
        let same: BTreeSet<&str> = same.iter().map(String::as_str).collect();
        assert!(structure(Field::Chosen, &same).unwrap_err().to_string().contains("\\nAbout: "));
        assert!(structure(Field::Chosen, &BTreeSet::from(other)).is_ok());
    }

    #[test]
    fn a_row_that_only_says_that_there_is_no_past_is_ambiguous() {
        let shape = |text: &str| TemplateShape { before: vec![Piece::text(text)], items: None, after: vec![] };
        let error = check(&shape("Read.\nPast: Not Provided.\nNow"), &[]).unwrap_err().to_string();
        assert!(error.contains("near \"Past: Not Provided.\\nNow\""), "{error}");
        assert!(check(&shape("Read.\nNow"), &[]).is_ok());
    }

    #[test]
    fn a_numbered_block_has_no_doubts() {
        let open = vec![Glyph::Number(0), Glyph::Char(')'), Glyph::Char(' ')];
        let body = vec![Piece::Text(open), Piece::slot(Field::Chosen), Piece::text("\n")];
        let items = Items { lead: Pattern::new(), body };
        let shape =
            TemplateShape { before: vec![Piece::text("Past\n")], items: Some(items), after: vec![Piece::text("\nGo")] };
        assert!(check(&shape, &[]).is_ok());
    }
}
