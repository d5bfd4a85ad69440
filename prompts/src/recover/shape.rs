//! The structure of a template: constant texts, slots, and the repeated block of interactions.

/// Separates the turns of a conversation whose texts are joined. It is a noncharacter, so no text holds it.
pub(crate) const TURN: char = '\u{FFFF}';

/// A character of a constant text, or the number of the interaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Glyph {
    Char(char),
    /// The number of the interaction, counted from 1, plus an offset.
    Number(i64),
}

/// A constant text that may hold the number of the interaction.
pub(crate) type Pattern = Vec<Glyph>;

/// Returns the pattern of a text.
pub(crate) fn literal(text: &str) -> Pattern {
    text.chars().map(Glyph::Char).collect()
}

/// Returns the text of each glyph in the interaction `number`.
pub(crate) fn units(pattern: &[Glyph], number: i64) -> Vec<String> {
    let unit = |glyph: &Glyph| match glyph {
        Glyph::Char(c) => c.to_string(),
        Glyph::Number(offset) => (number + offset).to_string(),
    };
    pattern.iter().map(unit).collect()
}

/// Returns the text of a pattern in the interaction `number`.
pub(crate) fn fill(pattern: &[Glyph], number: i64) -> String {
    units(pattern, number).concat()
}

/// Returns the pattern whose numbers are relative to the interaction before.
pub(crate) fn of_previous(pattern: &[Glyph]) -> Pattern {
    let shift = |glyph: &Glyph| match glyph {
        Glyph::Number(offset) => Glyph::Number(offset + 1),
        other => *other,
    };
    pattern.iter().map(shift).collect()
}

/// Returns whether the pattern depends on the number of the interaction.
pub(crate) fn is_numbered(pattern: &[Glyph]) -> bool {
    pattern.iter().any(|glyph| matches!(glyph, Glyph::Number(_)))
}

/// A value that a template receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Field {
    Past,
    Query,
    Chosen,
    Rejected,
    Preference,
    ItemA,
    ItemB,
}

impl Field {
    /// Returns the name of the value in a template.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Past => "past",
            Self::Query => "query",
            Self::Chosen => "chosen",
            Self::Rejected => "rejected",
            Self::Preference => "preference",
            Self::ItemA => "item_a",
            Self::ItemB => "item_b",
        }
    }
}

/// The text around a value that may be absent, and the text that replaces all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Absent {
    pub before: Pattern,
    pub after: Pattern,
    pub text: String,
}

/// A place of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ValueSlot {
    pub field: Field,
    /// Set where the value may be absent.
    pub absent: Option<Absent>,
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Piece {
    Text(Pattern),
    Slot(ValueSlot),
}

impl Piece {
    pub(crate) fn text(text: &str) -> Self {
        Self::Text(literal(text))
    }

    pub(crate) fn slot(field: Field) -> Self {
        Self::Slot(ValueSlot { field, absent: None })
    }
}

/// The block that repeats for each interaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Items {
    /// Text before each interaction but the first; its numbers are relative to the interaction that follows.
    pub lead: Pattern,
    pub body: Vec<Piece>,
}

/// A template.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TemplateShape {
    pub before: Vec<Piece>,
    pub items: Option<Items>,
    pub after: Vec<Piece>,
}

impl TemplateShape {
    /// Returns the number of constant characters: the shorter of two templates that fit is the better reading.
    pub(crate) fn cost(&self) -> usize {
        let pieces = |pieces: &[Piece]| -> usize {
            let cost = |piece: &Piece| match piece {
                Piece::Text(text) => text.len(),
                Piece::Slot(ValueSlot { absent: Some(absent), .. }) => {
                    absent.before.len() + absent.after.len() + absent.text.len()
                }
                Piece::Slot(_) => 0,
            };
            pieces.iter().map(cost).sum()
        };
        let items = self.items.as_ref().map_or(0, |items| items.lead.len() + pieces(&items.body));
        pieces(&self.before) + items + pieces(&self.after)
    }

    /// Returns whether a value outside of the block is a slot of `field`.
    pub(crate) fn has_outer(&self, field: Field) -> bool {
        let is = |piece: &Piece| matches!(piece, Piece::Slot(slot) if slot.field == field);
        self.before.iter().chain(&self.after).any(is)
    }

    /// Moves the text between interactions into the block where the text around the block allows it, so that every
    /// interaction has the same text. Rows with at least one interaction render the same as before.
    pub(crate) fn absorb(mut self) -> Self {
        let Some(Items { lead, mut body }) = self.items.take() else { return self };
        let opening = take_front(&mut body);
        let mut closing = take_back(&mut body);
        let mut head = pop_text(&mut self.before);
        head.extend(literal(&fill(&opening, 1)));
        // The number of the last interaction cannot move out of the block.
        let kept = if is_numbered(&closing) { std::mem::take(&mut closing) } else { Pattern::new() };
        let tail: Pattern = closing.iter().copied().chain(shift_text(&mut self.after)).collect();
        let between: Pattern = closing.into_iter().chain(lead).chain(opening).collect();

        let cut = PatternCut::best(&between, &head, &tail, self.before.is_empty());
        push_text(&mut self.before, head[..cut.head].to_vec());
        if cut.close < tail.len() {
            self.after.insert(0, Piece::Text(tail[cut.close..].to_vec()));
        }
        push_text(&mut body, kept);
        push_text(&mut body, between[..cut.close].to_vec());
        let open = between[cut.open..].to_vec();
        if !open.is_empty() {
            body.insert(0, Piece::Text(open));
        }
        self.items = Some(Items { lead: between[cut.close..cut.open].to_vec(), body });
        self
    }
}

/// Where the text between interactions is cut: the end of each interaction, the lead, and the beginning of each
/// interaction.
struct PatternCut {
    close: usize,
    open: usize,
    /// What remains of the text before the block.
    head: usize,
}

impl PatternCut {
    /// Returns the cut with the shortest lead. Of several, one after which the block begins on a line of its own.
    /// `first`: whether nothing stands before `head`.
    fn best(between: &[Glyph], head: &[Glyph], tail: &[Glyph], first: bool) -> Self {
        let mut best: Option<((bool, u8, usize, usize), Self)> = None;
        let mut left = head.len();
        for open in (0..=between.len()).rev() {
            if let Some(glyph) = between.get(open) {
                let text = literal(&fill(std::slice::from_ref(glyph), 1));
                if !head[..left].ends_with(&text) {
                    break;
                }
                left -= text.len();
            }
            let same = |(a, b): &(&Glyph, &Glyph)| a == b && matches!(a, Glyph::Char(_));
            let close = between[..open].iter().zip(tail).take_while(same).count();
            let rank = match head[..left].last() {
                None if first => 0,
                Some(Glyph::Char('\n' | TURN)) => 0,
                Some(Glyph::Char(c)) if c.is_whitespace() => 1,
                _ => 2,
            };
            let key = (close < open, rank, open - close, open);
            if best.as_ref().is_none_or(|(least, _)| key < *least) {
                best = Some((key, Self { close, open, head: left }));
            }
        }
        // The loop runs at least once, for `open` = `between.len()`.
        best.map_or(Self { close: 0, open: between.len(), head: head.len() }, |(_, cut)| cut)
    }
}

/// Appends a text, unless it is empty, to the text at the end of the pieces.
pub(crate) fn push_text(pieces: &mut Vec<Piece>, text: Pattern) {
    if text.is_empty() {
        return;
    }
    match pieces.last_mut() {
        Some(Piece::Text(last)) => last.extend(text),
        _ => pieces.push(Piece::Text(text)),
    }
}

fn pop_text(pieces: &mut Vec<Piece>) -> Pattern {
    match pieces.pop() {
        Some(Piece::Text(text)) => text,
        Some(slot) => {
            pieces.push(slot);
            Pattern::new()
        }
        None => Pattern::new(),
    }
}

fn shift_text(pieces: &mut Vec<Piece>) -> Pattern {
    match pieces.first() {
        Some(Piece::Text(text)) => {
            let text = text.clone();
            pieces.remove(0);
            text
        }
        _ => Pattern::new(),
    }
}

fn take_front(body: &mut Vec<Piece>) -> Pattern {
    let texts = body.iter().take_while(|piece| matches!(piece, Piece::Text(_))).count();
    texts_of(body.drain(..texts))
}

fn take_back(body: &mut Vec<Piece>) -> Pattern {
    let texts = body.iter().rev().take_while(|piece| matches!(piece, Piece::Text(_))).count();
    let from = body.len() - texts;
    texts_of(body.drain(from..))
}

fn texts_of(pieces: impl Iterator<Item = Piece>) -> Pattern {
    let text = |piece: Piece| match piece {
        Piece::Text(text) => text,
        Piece::Slot(_) => Pattern::new(),
    };
    pieces.flat_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(head: &str, lead: &str, tail: &str) -> TemplateShape {
        let lead = lead.chars().map(|c| if c == '@' { Glyph::Number(0) } else { Glyph::Char(c) }).collect();
        let body = vec![Piece::slot(Field::Chosen)];
        TemplateShape {
            before: vec![Piece::text(head)],
            items: Some(Items { lead, body }),
            after: vec![Piece::text(tail)],
        }
        .absorb()
    }

    fn parts(shape: &TemplateShape) -> (String, String, Vec<String>, String) {
        let text = |piece: &Piece| match piece {
            Piece::Text(text) => fill(text, 7),
            Piece::Slot(slot) => format!("<{}>", slot.field.name()),
        };
        let all = |pieces: &[Piece]| pieces.iter().map(text).collect::<String>();
        let items = shape.items.as_ref().unwrap();
        (all(&shape.before), fill(&items.lead, 7), items.body.iter().map(text).collect(), all(&shape.after))
    }

    #[test]
    fn the_text_between_moves_into_the_block() {
        // Written as "\n## @\n" + value + "\n" for each interaction.
        let found = parts(&shape("Past\n\n## 1\n", "\n\n## @\n", "\n\nTask"));
        let body = ["\n## 7\n".to_string(), "<chosen>".into(), "\n".into()];
        assert_eq!(found, ("Past\n".into(), String::new(), body.to_vec(), "\nTask".into()));
    }

    #[test]
    fn a_separator_stays_between() {
        let found = parts(&shape("Items: [", "]; [", "]. Go"));
        assert_eq!(found.0, "Items: ");
        assert_eq!((found.1.as_str(), found.3.as_str()), ("; ", ". Go"));
        assert_eq!(found.2, ["[", "<chosen>", "]"]);
    }
}
