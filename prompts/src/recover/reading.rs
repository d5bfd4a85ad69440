//! One reading of rows: which constant texts repeat in each interaction, and where the values between them belong.

use std::collections::HashSet;

use chat::prompts::NO_PAST;

use super::constants::{Constant, Symbols, affixes, common_prefix, common_suffix, split_once};
use super::gaps::{Gaps, numbered_parts};
use super::shape::{Field, Pattern, Piece, literal};

/// A part of an interaction: constant text, or the values of a slot.
pub(crate) enum ReadingPart<'t> {
    Text(Pattern),
    Values(Vec<&'t str>),
}

/// A reading of rows.
pub(crate) struct RowReading<'t> {
    /// The number of characters that constant texts explain, less the length of the template.
    pub score: i64,
    pub body: Vec<ReadingPart<'t>>,
    pub lead: Pattern,
    pub before: Vec<Piece>,
    pub after: Vec<Piece>,
}

/// What stands before or after the interactions.
struct Side<'t> {
    pieces: Vec<Piece>,
    /// The number of constant characters in each row.
    constant: usize,
    has_past: bool,
    /// The values beside the block: of the first slot of the first, or of the last slot of the last interaction.
    values: Vec<&'t str>,
}

/// Returns the readings in which the gaps between interactions hold one value, two, or none.
pub(crate) fn readings<'t>(gaps: &Gaps<'t>) -> Vec<RowReading<'t>> {
    if all_same(&gaps.outer) {
        constant_between(gaps).into_iter().collect()
    } else if all_same(&gaps.tails) {
        value_before(gaps).into_iter().collect()
    } else {
        [value_after(gaps), values_around(gaps)].into_iter().flatten().collect()
    }
}

/// Every value stands between two constant texts of its interaction.
fn constant_between<'t>(gaps: &Gaps<'t>) -> Option<RowReading<'t>> {
    let head = fixed(&gaps.heads);
    let tail = fixed(&gaps.tails);
    reading(gaps, head, tail, literal(gaps.outer[0]), |body| body)
}

/// The first value of an interaction stands before the first constant text that repeats.
fn value_before<'t>(gaps: &Gaps<'t>) -> Option<RowReading<'t>> {
    let length = common_prefix(&gaps.outer);
    let head = varying_head(&gaps.heads)?;
    let tail = fixed(&gaps.tails);
    let values: Vec<&str> = gaps.outer.iter().map(|gap| &gap[length..]).chain(head.values.iter().copied()).collect();
    let lead = literal(&gaps.outer[0][..length]);
    reading(gaps, head, tail, lead, |mut body| {
        body.insert(0, ReadingPart::Values(values));
        body
    })
}

/// The last value of an interaction stands after the last constant text that repeats.
fn value_after<'t>(gaps: &Gaps<'t>) -> Option<RowReading<'t>> {
    let length = common_suffix(&gaps.outer);
    let head = fixed(&gaps.heads);
    let tail = varying_tail(&gaps.tails, !head.has_past);
    let cut = |gap: &&'t str| -> &'t str { &gap[..gap.len() - length] };
    let values: Vec<&str> = gaps.outer.iter().map(cut).chain(tail.values.iter().copied()).collect();
    let lead = literal(&gaps.outer[0][gaps.outer[0].len() - length..]);
    reading(gaps, head, tail, lead, |mut body| {
        body.push(ReadingPart::Values(values));
        body
    })
}

/// Both: a text separates the interactions.
fn values_around<'t>(gaps: &Gaps<'t>) -> Option<RowReading<'t>> {
    let texts: Vec<Symbols<'t>> = gaps.outer.iter().copied().map(Symbols::new).collect();
    let separator = split_once(&texts, 1)?;
    let numbers: Vec<i64> = gaps.counts.iter().flat_map(|count| 2..=*count as i64).collect();
    let mut parts = numbered_parts(&texts, &separator, |gap, _| numbers[gap]);
    let lead = match parts.pop() {
        Some((_, len, lead)) if len == separator.len => lead,
        _ => return None,
    };
    let (left, right) = around(&texts, &separator);
    if all_same(&left) || all_same(&right) {
        return None;
    }
    let head = varying_head(&gaps.heads)?;
    let tail = varying_tail(&gaps.tails, !head.has_past);
    let first: Vec<&str> = right.into_iter().chain(head.values.iter().copied()).collect();
    let last: Vec<&str> = left.into_iter().chain(tail.values.iter().copied()).collect();
    reading(gaps, head, tail, lead, |mut body| {
        body.insert(0, ReadingPart::Values(first));
        body.push(ReadingPart::Values(last));
        body
    })
}

fn reading<'t>(
    gaps: &Gaps<'t>,
    head: Side<'t>,
    tail: Side<'t>,
    lead: Pattern,
    complete: impl FnOnce(Vec<ReadingPart<'t>>) -> Vec<ReadingPart<'t>>,
) -> Option<RowReading<'t>> {
    if head.has_past && tail.has_past {
        return None;
    }
    let sides = head.constant + tail.constant;
    let marks: usize = gaps.marks.iter().map(Vec::len).sum();
    let items: usize = gaps.counts.iter().sum();
    let explained = sides * gaps.heads.len() + lead.len() * gaps.outer.len() + marks * items;
    let score = explained as i64 - (sides + lead.len() + marks) as i64;
    Some(RowReading { score, body: complete(inside(gaps)), lead, before: head.pieces, after: tail.pieces })
}

/// Returns the constant texts of an interaction and the values between them.
fn inside<'t>(gaps: &Gaps<'t>) -> Vec<ReadingPart<'t>> {
    let mut body = Vec::new();
    let mut text = Pattern::new();
    for (index, mark) in gaps.marks.iter().enumerate() {
        text.extend(mark);
        let Some(values) = gaps.inner.get(index) else { continue };
        if all_same(values) {
            text.extend(literal(values[0]));
        } else {
            body.push(ReadingPart::Text(std::mem::take(&mut text)));
            body.push(ReadingPart::Values(values.clone()));
        }
    }
    body.push(ReadingPart::Text(text));
    body
}

/// Constant text, around the past summary if it varies.
fn fixed<'t>(texts: &[&'t str]) -> Side<'t> {
    if all_same(texts) {
        return Side {
            pieces: vec![Piece::text(texts[0])],
            constant: texts[0].chars().count(),
            has_past: false,
            values: vec![],
        };
    }
    let (prefix, suffix) = affixes(texts);
    let pasts: Vec<&str> = texts.iter().map(|text| &text[prefix..text.len() - suffix]).collect();
    let (left, right) = (&texts[0][..prefix], &texts[0][texts[0].len() - suffix..]);
    with_past(left, &pasts, right)
}

/// Constant text, around the past summary if there is one, and then the first value of the first interaction.
fn varying_head<'t>(heads: &[&'t str]) -> Option<Side<'t>> {
    let prefix = common_prefix(heads);
    let rests: Vec<&str> = heads.iter().map(|head| &head[prefix..]).collect();
    if all_same(&rests) {
        return None;
    }
    let left = &heads[0][..prefix];
    Some(match split(&rests, 2) {
        Some((pasts, text, values)) if all_same(&pasts) => {
            let constant = format!("{left}{}{text}", pasts[0]);
            Side { pieces: vec![Piece::text(&constant)], constant: constant.chars().count(), has_past: false, values }
        }
        Some((pasts, text, values)) => Side { values, ..with_past(left, &pasts, text) },
        None => {
            Side { pieces: vec![Piece::text(left)], constant: left.chars().count(), has_past: false, values: rests }
        }
    })
}

/// The last value of the last interaction, and then constant text, around the past summary if there is one.
fn varying_tail<'t>(tails: &[&'t str], may_hold_past: bool) -> Side<'t> {
    let suffix = common_suffix(tails);
    let rests: Vec<&str> = tails.iter().map(|tail| &tail[..tail.len() - suffix]).collect();
    let right = &tails[0][tails[0].len() - suffix..];
    // A shorter text than that may be in the values by chance.
    let split = if may_hold_past { split(&rests, 4) } else { None };
    match split {
        Some((values, text, pasts)) if !all_same(&pasts) => Side { values, ..with_past(text, &pasts, right) },
        _ => Side { pieces: vec![Piece::text(right)], constant: right.chars().count(), has_past: false, values: rests },
    }
}

/// Constant texts around the past summaries. A row without one says [`NO_PAST`], so the slot holds all of these words
/// even where the other summaries begin or end alike.
fn with_past<'t>(left: &str, pasts: &[&str], right: &str) -> Side<'t> {
    let (from_left, from_right) = hidden(left, pasts, right).unwrap_or((0, 0));
    let (left, right) = (&left[..left.len() - from_left], &right[from_right..]);
    Side {
        pieces: vec![Piece::text(left), Piece::slot(Field::Past), Piece::text(right)],
        constant: left.chars().count() + right.chars().count(),
        has_past: true,
        values: vec![],
    }
}

/// Returns how much of [`NO_PAST`] stands in the texts around the summaries. The words are ASCII.
fn hidden(left: &str, pasts: &[&str], right: &str) -> Option<(usize, usize)> {
    if pasts.contains(&NO_PAST) {
        return None;
    }
    let within = |past: &&str| {
        let mut places = NO_PAST.match_indices(*past).filter(|_| !past.is_empty());
        places.find_map(|(at, _)| {
            let end = at + past.len();
            (left.ends_with(&NO_PAST[..at]) && right.starts_with(&NO_PAST[end..])).then_some((at, NO_PAST.len() - end))
        })
    };
    pasts.iter().find_map(within)
}

/// Splits texts at a constant text that each holds once.
fn split<'t>(texts: &[&'t str], least: usize) -> Option<(Vec<&'t str>, &'t str, Vec<&'t str>)> {
    let symbols: Vec<Symbols<'t>> = texts.iter().copied().map(Symbols::new).collect();
    let constant = split_once(&symbols, least)?;
    let text = |row: usize| symbols[row].text(constant.at[row][0], constant.at[row][0] + constant.len);
    let first = text(0);
    if (1..symbols.len()).any(|row| text(row) != first) {
        return None;
    }
    let (left, right) = around(&symbols, &constant);
    Some((left, first, right))
}

fn around<'t>(texts: &[Symbols<'t>], constant: &Constant) -> (Vec<&'t str>, Vec<&'t str>) {
    let sides = |(text, starts): (&Symbols<'t>, &Vec<usize>)| {
        (text.text(0, starts[0]), text.text(starts[0] + constant.len, text.len()))
    };
    texts.iter().zip(&constant.at).map(sides).unzip()
}

pub(crate) fn all_same(texts: &[&str]) -> bool {
    texts.iter().all(|text| *text == texts[0])
}

/// Returns the number of different texts.
pub(crate) fn distinct(texts: &[&str]) -> usize {
    texts.iter().collect::<HashSet<_>>().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_for_no_past_are_one_value() {
        assert_eq!(hidden("Past: ", &["Not Provided", "Likes tea"], ".\n"), Some((0, 1)));
        assert_eq!(hidden("Past: N", &["ot Provided", "o tea"], ".\n"), Some((1, 1)));
        assert_eq!(hidden("Past: ", &[NO_PAST, "Likes tea."], "\n"), None);
        assert_eq!(hidden("Past: ", &["Likes tea"], ".\n"), None);
    }

    #[test]
    fn a_past_beside_a_value_needs_a_text_between() {
        let head = varying_head(&["Past: none\nNow: ask", "Past: tea\nNow: buy"]).unwrap();
        assert!(head.has_past);
        assert_eq!(head.values, ["ask", "buy"]);
        let head = varying_head(&["Now: ask", "Now: buy"]).unwrap();
        assert_eq!((head.has_past, head.values), (false, vec!["ask", "buy"]));
        assert!(varying_head(&["Now: ask", "Now: ask"]).is_none());
    }
}
