//! Reads the values back from a row: the inverse of rendering.

use chat::Interaction;

use super::shape::{Absent, Field, Items, Piece, TemplateShape, ValueSlot, fill};

/// The values of a row, in the order of their places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub past: Option<String>,
    pub interactions: Vec<Interaction>,
}

/// The furthest place at which a row differs from a template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RenderMismatch {
    /// Offset in bytes.
    pub at: usize,
    pub expected: String,
}

/// Parses a row. Each value ends where the constant text after it first occurs.
///
/// # Errors
/// Returns the furthest mismatch.
pub(crate) fn parse(shape: &TemplateShape, text: &str) -> Result<Parsed, RenderMismatch> {
    let mut cursor = Cursor::new(text, shape);
    let found = cursor.pieces(&shape.before, 0)
        && shape.items.as_ref().is_none_or(|items| cursor.items(items))
        && cursor.rest(&shape.after);
    if !found {
        return Err(cursor.mismatch);
    }
    let mut parsed = Parsed::default();
    for (number, field, value) in cursor.found {
        let value = value.to_string();
        if number == 0 {
            parsed.past = Some(value);
            continue;
        }
        parsed.interactions.resize_with(number, Interaction::default);
        let item = &mut parsed.interactions[number - 1];
        match field {
            Field::Query => item.query = Some(value),
            Field::Rejected => item.rejected = Some(value),
            _ => item.chosen = value,
        }
    }
    Ok(parsed)
}

struct Cursor<'t> {
    text: &'t str,
    /// Where the constant texts after the block begin at the latest.
    limit: usize,
    at: usize,
    /// A slot whose end is not known yet: the number of its interaction (0 outside of the block) and its field.
    open: Option<(usize, Field)>,
    found: Vec<(usize, Field, &'t str)>,
    mismatch: RenderMismatch,
}

/// A place to return to.
#[derive(Clone, Copy)]
struct Mark {
    at: usize,
    open: Option<(usize, Field)>,
    found: usize,
}

impl<'t> Cursor<'t> {
    fn new(text: &'t str, shape: &TemplateShape) -> Self {
        let length = |piece: &Piece| match piece {
            Piece::Text(text) => fill(text, 0).len(),
            Piece::Slot(_) => 0,
        };
        let after: usize = shape.after.iter().map(length).sum();
        let mut limit = text.len().saturating_sub(after);
        while !text.is_char_boundary(limit) {
            limit -= 1;
        }
        Self { text, limit, at: 0, open: None, found: Vec::new(), mismatch: RenderMismatch::default() }
    }

    fn mark(&self) -> Mark {
        Mark { at: self.at, open: self.open, found: self.found.len() }
    }

    fn return_to(&mut self, mark: Mark) {
        (self.at, self.open) = (mark.at, mark.open);
        self.found.truncate(mark.found);
    }

    fn fail(&mut self, expected: &str) -> bool {
        if self.at >= self.mismatch.at {
            self.mismatch = RenderMismatch { at: self.at, expected: expected.to_string() };
        }
        false
    }

    /// Returns where `constant` occurs next: here, or anywhere if a value is open.
    fn next(&self, constant: &str) -> Option<usize> {
        let window = self.text.get(self.at..self.limit)?;
        if self.open.is_some() {
            return window.find(constant);
        }
        window.starts_with(constant).then_some(0)
    }

    fn close(&mut self, length: usize) {
        if let Some((number, field)) = self.open.take() {
            self.found.push((number, field, &self.text[self.at..self.at + length]));
        }
        self.at += length;
    }

    fn constant(&mut self, constant: &str) -> bool {
        if constant.is_empty() {
            return true;
        }
        let Some(at) = self.next(constant) else { return self.fail(constant) };
        self.close(at);
        self.at += constant.len();
        true
    }

    fn slot(&mut self, number: usize, field: Field) -> bool {
        // Nothing tells where the value before ends.
        if self.open.is_some() {
            return false;
        }
        self.open = Some((number, field));
        true
    }

    fn pieces(&mut self, pieces: &[Piece], number: usize) -> bool {
        pieces.iter().enumerate().all(|(index, piece)| match piece {
            Piece::Text(text) => self.constant(&fill(text, number as i64)),
            Piece::Slot(ValueSlot { field, absent: None }) => self.slot(number, *field),
            Piece::Slot(ValueSlot { field, absent: Some(absent) }) => {
                let next = match pieces.get(index + 1) {
                    Some(Piece::Text(text)) => fill(text, number as i64),
                    _ => String::new(),
                };
                if self.is_absent(absent, &next, number) {
                    return self.constant(&absent.text);
                }
                self.constant(&fill(&absent.before, number as i64))
                    && self.slot(number, *field)
                    && self.constant(&fill(&absent.after, number as i64))
            }
        })
    }

    /// Returns whether the text continues without the value.
    fn is_absent(&self, absent: &Absent, next: &str, number: usize) -> bool {
        let without = self.next(&format!("{}{next}", absent.text));
        let before = fill(&absent.before, number as i64);
        match (without, self.next(&before)) {
            (None, _) => false,
            // A value begins wherever nothing stands before it.
            (Some(_), _) if before.is_empty() => true,
            (Some(_), None) => true,
            (Some(without), Some(with)) => without < with,
        }
    }

    fn items(&mut self, items: &Items) -> bool {
        let mut number = 1;
        if !self.pieces(&items.body, number) {
            return false;
        }
        loop {
            let mark = self.mark();
            number += 1;
            let again = self.constant(&fill(&items.lead, number as i64)) && self.pieces(&items.body, number);
            // A block without constant text would repeat forever.
            if !again || self.at == mark.at {
                self.return_to(mark);
                return true;
            }
        }
    }

    /// Parses the pieces after the block, up to the end of the text.
    fn rest(&mut self, pieces: &[Piece]) -> bool {
        self.limit = self.text.len();
        let Some((Piece::Text(last), before)) = pieces.split_last() else {
            return self.pieces(pieces, 0) && self.end("");
        };
        self.pieces(before, 0) && self.end(&fill(last, 0))
    }

    fn end(&mut self, constant: &str) -> bool {
        let rest = &self.text[self.at..];
        let Some(value) = rest.strip_suffix(constant) else { return self.fail(constant) };
        if self.open.is_none() && !value.is_empty() {
            return self.fail(constant);
        }
        self.close(value.len());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::shape::{Glyph, literal};
    use super::*;

    /// `P{past}M`, then `#N? {query}` (optional) `+{chosen}-{rejected}` for each interaction, then `|S`.
    fn shape() -> TemplateShape {
        let absent = Absent { before: literal("? "), after: literal(";"), text: "none".into() };
        let open: Vec<Glyph> = vec![Glyph::Char('#'), Glyph::Number(0)];
        let body = vec![
            Piece::Text(open),
            Piece::Slot(ValueSlot { field: Field::Query, absent: Some(absent) }),
            Piece::text("+"),
            Piece::slot(Field::Chosen),
            Piece::text("-"),
            Piece::slot(Field::Rejected),
        ];
        TemplateShape {
            before: vec![Piece::text("P"), Piece::slot(Field::Past), Piece::text("M")],
            items: Some(Items { lead: literal(","), body }),
            after: vec![Piece::text("|S")],
        }
    }

    fn item(query: Option<&str>, chosen: &str, rejected: &str) -> Interaction {
        Interaction {
            query: query.map(Into::into),
            chosen: chosen.into(),
            rejected: Some(rejected.into()),
            ..Interaction::default()
        }
    }

    #[test]
    fn values_are_read_back() {
        let parsed = parse(&shape(), "Pa pastM#1? q;+c-r,#2none+d-s|,#3|S").unwrap();
        assert_eq!(parsed.past.as_deref(), Some("a past"));
        // A lead that no interaction follows is part of the value.
        assert_eq!(parsed.interactions, [item(Some("q"), "c", "r"), item(None, "d", "s|,#3")]);
    }

    #[test]
    fn the_furthest_mismatch_is_reported() {
        assert_eq!(parse(&shape(), "Pa pastM#2? q"), Err(RenderMismatch { at: 8, expected: "#1".into() }));
        let error = parse(&shape(), "PxM#1? q;+c-r|T").unwrap_err();
        assert_eq!((error.at, error.expected.as_str()), (12, "|S"));
    }
}
