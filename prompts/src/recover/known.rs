//! Derives a template from prompts whose values are known.
//!
//! Two consecutive interactions of one row give the constant texts between the values, for each order of the values
//! that the row allows (`spans`); texts around absent values follow from the rows that lack them (`absent`). What
//! stands before and after the interactions then gives the place of the past summary. Only a template that fits all
//! rows is returned.

use std::collections::BTreeMap;

use chat::Interaction;
use chat::prompts::NO_PAST;

use super::absent::learn;
use super::block::{InteractionBlock, KnownRow, value_of};
use super::emit::emit;
use super::error::{RecoverError, cut};
use super::gaps::value;
use super::shape::{
    Field, Glyph, Items, Pattern, Piece, TemplateShape, ValueSlot, fill, is_numbered, literal, of_previous, push_text,
    units,
};
use super::spans::{Spans, orders};

/// How many places of an interaction pair, or of a block, are tried in a row.
const TRIES: usize = 20_000;

/// How many rows are tried as the model of the others for an error message.
const MODELS: usize = 16;

/// Derives the template of rows.
///
/// # Errors
/// Returns an error if a value is not in its row, if no template fits all rows, or if several do.
pub(crate) fn derive(rows: &[KnownRow<'_>]) -> Result<TemplateShape, RecoverError> {
    let rows: Vec<&KnownRow<'_>> = rows.iter().filter(|row| !row.items.is_empty()).collect();
    let Some(row) = rows.first() else {
        return Err(RecoverError::ambiguous("what an interaction looks like, as no row has one", ""));
    };
    let fields = used(&rows)?;
    let (mut shapes, mut failure) = fitting(&rows, &fields);
    if shapes.is_empty() && fields.contains(&Field::Query) {
        // All queries may be a text that the template has, too.
        let others: Vec<Field> = fields.iter().copied().filter(|field| *field != Field::Query).collect();
        let without = fitting(&rows, &others);
        shapes = without.0;
        failure = failure.or(without.1);
    }
    shapes.sort_by_key(TemplateShape::cost);
    match &shapes[..] {
        [first, second, ..] if first.cost() == second.cost() => {
            Err(RecoverError::ambiguous("which of several templates rendered them", row.text))
        }
        [first, ..] => Ok(first.clone()),
        [] => Err(failure.unwrap_or_else(|| RecoverError::Row {
            place: row.place.into(),
            message: "no two consecutive interactions have all of their values in the prompt, with the same text \
                      between them; expected the values as they were rendered, and a row with two interactions"
                .into(),
        })),
    }
}

/// Returns the templates that fit all rows, and the error of the block that fits most of them.
fn fitting(rows: &[&KnownRow<'_>], fields: &[Field]) -> (Vec<TemplateShape>, Option<RecoverError>) {
    let mut shapes: BTreeMap<Vec<(String, String)>, TemplateShape> = BTreeMap::new();
    let mut failure: Option<(usize, RecoverError)> = None;
    for mut block in blocks(rows, fields) {
        if !learn(&mut block, rows) {
            let lacks = |row: &&&KnownRow<'_>| block.render(row.items).is_none();
            let row = rows.iter().find(lacks).unwrap_or(&rows[0]);
            failure.get_or_insert_with(|| (0, unknown(&block, row)));
            continue;
        }
        match assemble(&block, rows) {
            Ok(found) => {
                shapes.extend(found.into_iter().map(|shape| (emit(&shape, "summarize").into_iter().collect(), shape)));
            }
            Err((fits, error)) if failure.as_ref().is_none_or(|(most, _)| fits > *most) => {
                failure = Some((fits, error));
            }
            Err(_) => {}
        }
    }
    (shapes.into_values().collect(), failure.map(|(_, error)| error))
}

/// Returns the fields that the template uses.
fn used(rows: &[&KnownRow<'_>]) -> Result<Vec<Field>, RecoverError> {
    let mut used = Vec::new();
    for field in [Field::Query, Field::Chosen, Field::Rejected] {
        let values = rows.iter().flat_map(|row| row.items.iter().map(move |item| (row, value_of(item, field))));
        let mut values = values.filter_map(|(row, value)| Some((row, value?))).peekable();
        let occurs = values.peek().is_some();
        match values.find(|(row, value)| !row.text.contains(value)) {
            None if occurs => used.push(field),
            Some((row, value)) if field == Field::Chosen => {
                let message =
                    format!("the chosen item {:?} is not in the prompt; expected it as it was rendered", cut(value));
                return Err(RecoverError::Row { place: row.place.into(), message });
            }
            // A template need not use the query or the rejected item.
            _ => {}
        }
    }
    Ok(used)
}

/// Returns the blocks that fit the pair of consecutive interactions whose values occur least often in their row.
fn blocks(rows: &[&KnownRow<'_>], fields: &[Field]) -> Vec<InteractionBlock> {
    let mut best: Option<(usize, &KnownRow<'_>, usize)> = None;
    for row in rows {
        for (index, pair) in row.items.windows(2).enumerate() {
            let mut places: Option<usize> = Some(1);
            for (item, field) in pair.iter().flat_map(|item| fields.iter().map(move |field| (item, *field))) {
                let occurrences = value_of(item, field).map(|value| row.text.matches(value).count());
                places = places.zip(occurrences).map(|(a, b)| a.saturating_mul(b));
            }
            // A later pair tells numbers from constants better: "1" and "2" are frequent.
            if let Some(places) = places.filter(|places| best.is_none_or(|(least, _, _)| *places <= least)) {
                best = Some((places, *row, index));
            }
        }
    }
    let Some((_, row, index)) = best else { return Vec::new() };
    let number = index as i64 + 1;
    let mut found = Vec::new();
    for order in orders(fields) {
        let of = |item: &Interaction| -> Vec<String> {
            order.iter().filter_map(|field| value_of(item, *field)).map(String::from).collect()
        };
        let (first, second) = (of(&row.items[index]), of(&row.items[index + 1]));
        for (texts, between) in Spans::new(row.text, &first, &second, number, TRIES).find() {
            for lead in leads(&between, number + 1) {
                let texts = std::iter::once(lead).chain(texts.iter().cloned()).collect();
                found.push(InteractionBlock { fields: order.clone(), texts, absent: vec![None; order.len()] });
            }
        }
    }
    found
}

/// Returns the patterns of a text between two interactions: each number in it that is that of the second one, of the
/// first one, or less by one, may be constant or follow the interaction.
fn leads(text: &str, number: i64) -> Vec<Pattern> {
    let mut leads = vec![Pattern::new()];
    for run in text.split_inclusive(|c: char| !c.is_ascii_digit()) {
        let digits = run.trim_end_matches(|c: char| !c.is_ascii_digit());
        let offset = value(digits).map(|value| value - number).filter(|offset| (-2..=0).contains(offset));
        let rest = literal(&run[digits.len()..]);
        let numbered = offset.filter(|_| leads.len() < 8).map(|offset| {
            let with = |lead: &Pattern| [&lead[..], &[Glyph::Number(offset)][..], &rest[..]].concat();
            leads.iter().map(with).collect::<Vec<_>>()
        });
        leads.iter_mut().for_each(|lead| lead.extend(literal(run)));
        leads.extend(numbered.unwrap_or_default());
    }
    leads
}

/// Returns the templates of a block that fit all rows. They differ in the position of the past summary. The error has the
/// number of rows that fit.
fn assemble(block: &InteractionBlock, rows: &[&KnownRow<'_>]) -> Result<Vec<TemplateShape>, (usize, RecoverError)> {
    let mut sides = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let text = block.render(row.items).ok_or_else(|| (index, unknown(block, row)))?;
        let places = row.text.match_indices(&text).take(4);
        let found: Vec<(&str, &str)> = places.map(|(at, _)| (&row.text[..at], &row.text[at + text.len()..])).collect();
        if found.is_empty() {
            return Err((index, differs(block, row)));
        }
        sides.push(found);
    }
    let closing = closing(block, rows, &sides);
    let close = of_previous(&block.texts[0][..closing]);
    for (row, sides) in rows.iter().zip(&mut sides) {
        let close = fill(&close, row.items.len() as i64);
        let mut kept = Vec::new();
        for (before, after) in sides.iter() {
            kept.extend(after.strip_prefix(close.as_str()).map(|after| (*before, after)));
        }
        *sides = kept;
    }
    // The longest past summary occurs by chance least.
    let model = (0..rows.len()).max_by_key(|row| (rows[*row].past != NO_PAST, rows[*row].past.len())).unwrap_or(0);
    let mut shapes = Vec::new();
    for (before, after) in &sides[model] {
        let mut fitting = places(before, after, rows[model].past);
        fitting.retain(|outside| rows.iter().zip(&sides).all(|(row, sides)| holds(outside, row, sides)));
        if fitting.len() > 1 {
            let question =
                format!("which of {} places of {:?} is the past summary", fitting.len(), cut(rows[model].past));
            return Err((rows.len(), RecoverError::ambiguous(question, before)));
        }
        shapes.extend(fitting.into_iter().map(|[before, after]| block.shape(before, after, closing)));
    }
    if shapes.is_empty() { Err((rows.len(), sides_differ(rows, &sides))) } else { Ok(shapes) }
}

/// The constant texts before and after the interactions, with the past summary in one of them.
type Outside = [Vec<Piece>; 2];

/// Returns whether a row has the constant texts around one of the places of its interactions.
fn holds([before, after]: &Outside, row: &KnownRow<'_>, sides: &[(&str, &str)]) -> bool {
    let (left, right) = (outer(before, row.past), outer(after, row.past));
    sides.iter().any(|(before, after)| left == *before && right == *after)
}

impl InteractionBlock {
    /// Returns the template with this block; the first `closing` glyphs between interactions end each one.
    fn shape(&self, before: Vec<Piece>, after: Vec<Piece>, closing: usize) -> TemplateShape {
        let mut body = Vec::new();
        for (place, field) in self.fields.iter().enumerate() {
            if place > 0 {
                push_text(&mut body, self.texts[place].clone());
            }
            body.push(Piece::Slot(ValueSlot { field: *field, absent: self.absent[place].clone() }));
        }
        push_text(&mut body, of_previous(&self.texts[0][..closing]));
        let lead = self.texts[0][closing..].to_vec();
        TemplateShape { before, items: Some(Items { lead, body }), after }.absorb()
    }
}

/// Returns how much of the text between interactions stands after the last one, too, if that holds its number: such a
/// text cannot belong to the constant text after the interactions.
fn closing(block: &InteractionBlock, rows: &[&KnownRow<'_>], sides: &[Vec<(&str, &str)>]) -> usize {
    let shared = |(row, sides): (&&KnownRow<'_>, &Vec<(&str, &str)>)| {
        let mut rest = sides[0].1;
        let units = units(&block.texts[0], row.items.len() as i64 + 1);
        let same = units.iter().take_while(|unit| match rest.strip_prefix(unit.as_str()) {
            Some(shorter) => {
                rest = shorter;
                true
            }
            None => false,
        });
        same.count()
    };
    let length = rows.iter().zip(sides).map(shared).min().unwrap_or(0);
    if is_numbered(&block.texts[0][..length]) { length } else { 0 }
}

/// Returns the constant texts before and after the interactions for each place that the past summary may have.
fn places(before: &str, after: &str, past: &str) -> Vec<Outside> {
    let of = |text: &str| text.match_indices(past).map(|(at, _)| at).collect::<Vec<usize>>();
    let (left, right) = if past.is_empty() { (vec![], vec![]) } else { (of(before), of(after)) };
    let cut = |left: &[usize], right: &[usize]| [pieces(before, past, left), pieces(after, past, right)];
    let mut all: Vec<Outside> = left.iter().map(|at| cut(&[*at], &[])).collect();
    all.extend(right.iter().map(|at| cut(&[], &[*at])));
    if all.len() != 1 {
        all.push(cut(&left, &right));
    }
    all
}

fn pieces(text: &str, past: &str, places: &[usize]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut end = 0;
    for at in places {
        push_text(&mut pieces, literal(&text[end..*at]));
        pieces.push(Piece::slot(Field::Past));
        end = at + past.len();
    }
    push_text(&mut pieces, literal(&text[end..]));
    pieces
}

fn outer(pieces: &[Piece], past: &str) -> String {
    let text = |piece: &Piece| match piece {
        Piece::Text(text) => fill(text, 0),
        Piece::Slot(_) => past.to_string(),
    };
    pieces.iter().map(text).collect()
}

/// A row with an absent value of which nothing is known.
fn unknown(block: &InteractionBlock, row: &KnownRow<'_>) -> RecoverError {
    let lacks = |field: &&Field| row.items.iter().any(|item| value_of(item, **field).is_none());
    let field = block.fields.iter().find(lacks).map_or("value", |field| field.name());
    RecoverError::Row {
        place: row.place.into(),
        message: format!("an interaction has no `{field}`, and no row shows it between others that have all values"),
    }
}

/// A row that does not hold the block.
fn differs(block: &InteractionBlock, row: &KnownRow<'_>) -> RecoverError {
    let rendered = |number: usize| block.render(&row.items[..number]).unwrap_or_default();
    let count = (0..row.items.len()).rev().find(|number| row.text.contains(&rendered(*number))).unwrap_or(0);
    let (held, more) = (rendered(count), rendered(count + 1));
    let position = row.text.find(&held).unwrap_or(0) + held.len();
    RecoverError::differs(row.place, row.text, position, &more[held.len()..])
}

/// The first row whose texts around the interactions are not those of most rows.
fn sides_differ(rows: &[&KnownRow<'_>], sides: &[Vec<(&str, &str)>]) -> RecoverError {
    let models = rows.iter().zip(sides).take(MODELS).flat_map(|(row, sides)| places(sides[0].0, sides[0].1, row.past));
    let fits = |outside: &Outside, index: usize| holds(outside, rows[index], &sides[index]);
    let best = models.max_by_key(|outside| (0..rows.len()).filter(|index| fits(outside, *index)).count());
    let outside = best.unwrap_or_default();
    let index = (0..rows.len()).find(|index| !fits(&outside, *index)).unwrap_or(0);
    let (row, (left, right)) = (rows[index], sides[index][0]);
    let middle = &row.text[left.len()..row.text.len() - right.len()];
    let expected = outer(&outside[0], row.past) + middle + &outer(&outside[1], row.past);
    let same = expected.char_indices().zip(row.text.chars()).find(|((_, a), b)| a != b);
    let position = same.map_or(expected.len().min(row.text.len()), |((at, _), _)| at);
    RecoverError::differs(row.place, row.text, position, &expected[position..])
}

#[cfg(test)]
mod tests;
