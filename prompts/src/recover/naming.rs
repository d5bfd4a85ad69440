//! Tells which slot of an interaction is the query, the chosen and the rejected item, from the words before it.

use super::constants::affixes;
use super::error::RecoverError;
use super::reading::{ReadingPart, RowReading, distinct};
use super::shape::{Absent, Field, Items, Pattern, Piece, TemplateShape, ValueSlot, fill, literal};

/// Words that label a slot. Of words that end at the same place the longest counts: "not chosen" over "chosen".
const LABELS: [(Field, &[&str]); 3] = [
    (
        Field::Rejected,
        &[
            "rejected",
            "rejects",
            "reject",
            "unchosen",
            "not chosen",
            "not choose",
            "not select",
            "not selected",
            "unselected",
            "disliked",
            "dislike",
            "declined",
            "rather than",
            "instead of",
            " over",
            "skipped",
            "ignored",
            "unclicked",
            "not clicked",
            "negative",
            "dispreferred",
            "not preferred",
            "other",
        ],
    ),
    (
        Field::Chosen,
        &[
            "chosen",
            "chose",
            "choose",
            "selected",
            "select",
            "preferred",
            "prefers",
            "accepted",
            "accept",
            "clicked",
            "liked",
            "picked",
            "positive",
            "winner",
            "took",
        ],
    ),
    (
        Field::Query,
        &["query", "situation", "question", "prompt", "post", "context", "request", "instruction", "asked", "task"],
    ),
];

/// Words that may stand between a label and its slot.
const FILLERS: [&str; 22] = [
    "a",
    "an",
    "the",
    "is",
    "was",
    "are",
    "one",
    "item",
    "items",
    "option",
    "response",
    "answer",
    "choice",
    "content",
    "text",
    "article",
    "product",
    "movie",
    "book",
    "post",
    "news",
    "following",
];

/// How many characters before a slot may label it.
const REACH: usize = 60;

/// Returns the structure of a reading.
///
/// # Errors
/// [`RecoverError::Ambiguous`] if the number of slots or the words before them do not tell what the slots are.
pub(crate) fn shape(reading: RowReading<'_>) -> Result<TemplateShape, RecoverError> {
    let slots: Vec<Option<Absent>> = reading.body.iter().filter_map(values).map(optional).collect::<Result<_, _>>()?;
    let excerpt = excerpt(&reading);
    if !(2..=3).contains(&slots.len()) {
        let question = format!(
            "what the {} varying parts of each interaction are (expected 2 or 3: query, chosen and rejected item)",
            slots.len()
        );
        return Err(RecoverError::ambiguous(question, &excerpt));
    }
    let fields = fields(&labels(&reading, &slots)).ok_or_else(|| {
        RecoverError::ambiguous(
            "which part of each interaction is the query, the chosen and the rejected item",
            &excerpt,
        )
    })?;
    let mut slots = fields.into_iter().zip(slots);
    let piece = |part: ReadingPart<'_>| match part {
        ReadingPart::Text(text) => Some(Piece::Text(text)),
        ReadingPart::Values(_) => slots.next().map(|(field, absent)| Piece::Slot(ValueSlot { field, absent })),
    };
    let body = reading.body.into_iter().filter_map(piece).collect();
    let items = Some(Items { lead: reading.lead, body });
    Ok(TemplateShape { before: reading.before, items, after: reading.after })
}

fn values<'r, 't>(part: &'r ReadingPart<'t>) -> Option<&'r [&'t str]> {
    match part {
        ReadingPart::Values(values) => Some(values.as_slice()),
        ReadingPart::Text(_) => None,
    }
}

/// Returns the text around a value that is absent in some interactions; `None` if it never is.
fn optional(values: &[&str]) -> Result<Option<Absent>, RecoverError> {
    let present: Vec<&str> = values.iter().copied().filter(|value| !value.is_empty()).collect();
    if present.len() == values.len() {
        return Ok(None);
    }
    if distinct(&present) < 2 {
        let question = "what belongs to the template in a part that occurs only once";
        return Err(RecoverError::ambiguous(question, present.first().unwrap_or(&"")));
    }
    let (before, after) = affixes(&present);
    let first = present[0];
    let (before, after) = (literal(&first[..before]), literal(&first[first.len() - after..]));
    Ok(Some(Absent { before, after, text: String::new() }))
}

/// Returns what the words before each slot call it.
fn labels(reading: &RowReading<'_>, slots: &[Option<Absent>]) -> Vec<Option<Field>> {
    let mut text: Pattern = match reading.before.last() {
        _ if !reading.lead.is_empty() => reading.lead.clone(),
        Some(Piece::Text(text)) => text.clone(),
        _ => Pattern::new(),
    };
    let mut slots = slots.iter();
    let mut labels = Vec::new();
    for part in &reading.body {
        match part {
            ReadingPart::Text(constant) => text.extend(constant),
            ReadingPart::Values(_) => {
                let absent = slots.next().and_then(Option::as_ref);
                text.extend(absent.map_or(&[][..], |absent| &absent.before[..]));
                labels.push(label(&fill(&text, 1)));
                text = absent.map(|absent| absent.after.clone()).unwrap_or_default();
            }
        }
    }
    labels
}

/// Returns what the words at the end of a text call the slot after it.
fn label(text: &str) -> Option<Field> {
    let lower = text.to_lowercase();
    let start = lower.char_indices().rev().nth(REACH - 1).map_or(0, |(at, _)| at);
    let near = &lower[start..];
    match near.trim_end().chars().last() {
        Some('+') => return Some(Field::Chosen),
        Some('-') => return Some(Field::Rejected),
        _ => {}
    }
    // An item may be a post or a question, so what calls it chosen or rejected counts more.
    let mut best: Option<((bool, usize, usize), Field)> = None;
    for (field, words) in LABELS {
        for word in words {
            let Some(at) = near.rfind(word) else { continue };
            // "chosen" in "unchosen" is no label.
            if word.starts_with(char::is_alphanumeric) && near[..at].ends_with(char::is_alphanumeric) {
                continue;
            }
            let key = (field != Field::Query, at + word.len(), word.len());
            if leads_to_slot(&near[at + word.len()..]) && best.is_none_or(|(most, _)| key > most) {
                best = Some((key, field));
            }
        }
    }
    best.map(|(_, field)| field)
}

/// Returns whether a text between a label and a slot has no words but fillers, on the line of the label.
fn leads_to_slot(text: &str) -> bool {
    let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
    let mut words = line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let is_filler = |word: &str| FILLERS.contains(&word) || word.chars().all(|c| c.is_ascii_digit());
    words.all(is_filler) && !rest.contains(char::is_alphanumeric)
}

/// Completes the labels where only one field is left for a slot. `None` if they repeat or leave more than one reading.
fn fields(labels: &[Option<Field>]) -> Option<Vec<Field>> {
    let all = [Field::Query, Field::Chosen, Field::Rejected];
    if all.iter().any(|field| labels.iter().filter(|label| **label == Some(*field)).count() > 1) {
        return None;
    }
    let missing: Vec<Field> = all.into_iter().filter(|field| !labels.contains(&Some(*field))).collect();
    let unnamed = labels.iter().filter(|label| label.is_none()).count();
    // Every interaction has a chosen item, so a single unnamed slot is that one if no other is.
    let last = match (unnamed, &missing[..]) {
        (0, _) => None,
        (1, [one]) => Some(*one),
        (1, fields) if fields.contains(&Field::Chosen) => Some(Field::Chosen),
        _ => return None,
    };
    let fields: Vec<Field> = labels.iter().filter_map(|label| label.or(last)).collect();
    fields.contains(&Field::Chosen).then_some(fields)
}

/// Returns the first interaction, its values marked.
fn excerpt(reading: &RowReading<'_>) -> String {
    let part = |part: &ReadingPart<'_>| match part {
        ReadingPart::Text(text) => fill(text, 1),
        ReadingPart::Values(values) => {
            let value = values.first().copied().unwrap_or_default();
            format!("‹{}›", value.chars().take(12).collect::<String>())
        }
    };
    reading.body.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_the_words_beside_the_slot() {
        for (text, expected) in [
            ("\nChosen: ", Some(Field::Chosen)),
            ("</chosen>\n<rejected>", Some(Field::Rejected)),
            ("Not chosen: ", Some(Field::Rejected)),
            ("): chose \"", Some(Field::Chosen)),
            ("\" rather than \"", Some(Field::Rejected)),
            ("\n+ ", Some(Field::Chosen)),
            ("\n- ", Some(Field::Rejected)),
            ("Rejected item 3:\n", Some(Field::Rejected)),
            (" was preferred to ", None),
            ("\nPair 1: ", None),
            ("\nThe post: ", Some(Field::Query)),
            ("\nChosen post: ", Some(Field::Chosen)),
            ("</chosen>\nPost 3: ", Some(Field::Query)),
        ] {
            assert_eq!(label(text), expected, "{text:?}");
        }
    }

    #[test]
    fn one_slot_may_lack_a_label() {
        use Field::{Chosen, Query, Rejected};
        assert_eq!(fields(&[None, Some(Chosen), Some(Rejected)]), Some(vec![Query, Chosen, Rejected]));
        assert_eq!(fields(&[None, Some(Rejected)]), Some(vec![Chosen, Rejected]));
        assert_eq!(fields(&[Some(Chosen), None]), None);
        assert_eq!(fields(&[None, None]), None);
        assert_eq!(fields(&[Some(Chosen), Some(Chosen)]), None);
        assert_eq!(fields(&[Some(Query), Some(Rejected)]), None);
    }
}
