//! Infers a template from rows of which nothing but the rendered text is known.
//!
//! Constant texts that occur equally often in every row, and in a fixed order, are the marks of an interaction. Each
//! set of such texts is a reading; the one that explains most of the rows is taken.

use std::collections::BTreeMap;

use super::constants::{Constant, Symbols, constants};
use super::error::{RecoverError, cut};
use super::gaps::Gaps;
use super::naming;
use super::reading::{RowReading, distinct, readings};
use super::shape::TemplateShape;

/// How many of the texts that occur once are tried as the border of the interactions.
const BORDERS: usize = 6;

/// A reading that explains less than this share of what the best one explains is no alternative to it.
const ALTERNATIVE: f64 = 0.6;

/// Infers the structure of rows.
///
/// # Errors
/// [`RecoverError::Ambiguous`] if the rows have no repeated part, or do not tell what its values are.
pub(crate) fn infer(rows: &[&str]) -> Result<TemplateShape, RecoverError> {
    let row = rows.first().copied().unwrap_or_default();
    if distinct(rows) < 2 {
        return Err(RecoverError::Ambiguous {
            question: "which text is constant, as all rows are the same".into(),
            excerpt: cut(row),
            fix: "one row suffices only where its values are known: add rows, or give the values of this one with \
                  --example"
                .into(),
        });
    }
    let texts: Vec<Symbols<'_>> = rows.iter().copied().map(Symbols::new).collect();
    let mut found: Vec<RowReading<'_>> =
        cycles(&texts).iter().filter_map(|cycle| Gaps::new(&texts, cycle)).flat_map(|gaps| readings(&gaps)).collect();
    // The sort is stable, so of equal readings the one of the whole rows comes first.
    found.sort_by_key(|reading| std::cmp::Reverse(reading.score));
    let mut refused: Option<(i64, RecoverError)> = None;
    for reading in found {
        let score = reading.score;
        if refused.as_ref().is_some_and(|(best, _)| (score as f64) < ALTERNATIVE * *best as f64) {
            break;
        }
        match naming::shape(reading) {
            Ok(shape) => return Ok(shape.absorb()),
            Err(error) if refused.is_none() => refused = Some((score, error)),
            Err(_) => {}
        }
    }
    Err(refused.map_or_else(
        || RecoverError::ambiguous("which texts repeat in every interaction, as no two repeat together", row),
        |(_, error)| error,
    ))
}

/// Returns the sets of constant texts that follow each other in each interaction: of whole rows, and of the rows after
/// or before each of the longest texts that occur once. A past summary may hold the marks of an interaction by chance.
fn cycles(texts: &[Symbols<'_>]) -> Vec<Vec<Constant>> {
    let rows: Vec<&[u32]> = texts.iter().map(|text| &text.codes[..]).collect();
    let mut borders = constants(&rows, |counts| counts.iter().all(|count| *count == 1));
    borders.sort_by_key(|border| std::cmp::Reverse(border.len));
    borders.truncate(BORDERS);
    let nothing = vec![0; rows.len()];
    let mut cycles = cycles_in(&rows, &nothing);
    for border in borders {
        let starts: Vec<usize> = border.at.iter().map(|starts| starts[0]).collect();
        let after: Vec<&[u32]> = rows.iter().zip(&starts).map(|(row, start)| &row[*start..]).collect();
        let before: Vec<&[u32]> = rows.iter().zip(&starts).map(|(row, start)| &row[..start + border.len]).collect();
        cycles.extend(cycles_in(&after, &starts));
        cycles.extend(cycles_in(&before, &nothing));
    }
    cycles
}

/// Returns the cycles of parts of rows that begin at `offsets`.
fn cycles_in(rows: &[&[u32]], offsets: &[usize]) -> Vec<Vec<Constant>> {
    let mut groups: BTreeMap<Vec<usize>, Vec<Constant>> = BTreeMap::new();
    for constant in constants(rows, |counts| counts.iter().any(|count| *count > 1)) {
        groups.entry(constant.at.iter().map(Vec::len).collect()).or_default().push(constant);
    }
    groups.into_values().map(|group| cycle(group).iter().map(|c| c.shifted(offsets)).collect()).collect()
}

/// Returns the constant texts, longest first, that keep one order in all interactions.
fn cycle(mut group: Vec<Constant>) -> Vec<Constant> {
    group.sort_by_key(|constant| std::cmp::Reverse(constant.len));
    let mut cycle: Vec<Constant> = Vec::new();
    for constant in group {
        let place = cycle.iter().position(|other| constant.at[0][0] < other.at[0][0]).unwrap_or(cycle.len());
        cycle.insert(place, constant);
        if !in_order(&cycle) {
            cycle.remove(place);
        }
    }
    cycle
}

fn in_order(cycle: &[Constant]) -> bool {
    (0..cycle[0].at.len()).all(|row| {
        let starts: Vec<usize> =
            (0..cycle[0].at[row].len()).flat_map(|index| cycle.iter().map(move |c| c.at[row][index])).collect();
        starts.is_sorted_by(|a, b| a < b)
    })
}

#[cfg(test)]
mod tests {
    use super::super::emit::emit;
    use super::*;

    #[test]
    fn the_order_in_the_first_row_decides_nothing() {
        let constant = |len, at: [&[usize]; 2]| Constant { len, at: at.iter().map(|starts| starts.to_vec()).collect() };
        let group = vec![constant(3, [&[2, 20], &[3]]), constant(2, [&[9, 31], &[2]]), constant(1, [&[10, 30], &[9]])];
        let lengths: Vec<usize> = cycle(group).iter().map(|constant| constant.len).collect();
        assert_eq!(lengths, [3, 1]);
    }

    #[test]
    fn rows_of_two_interactions_are_enough() {
        let row = |past: &str, items: &[[&str; 2]]| {
            let item =
                |[chosen, rejected]: &[&str; 2]| format!("<chosen>{chosen}</chosen><rejected>{rejected}</rejected>\n");
            format!("Known: {past}\n{}Write.", items.iter().map(item).collect::<String>())
        };
        let rows = [
            row("Not Provided.", &[["tea", "milk"], ["oats", "rye"], ["fig", "kiwi"]]),
            row("Drinks tea", &[["jam", "salt"], ["pear", "lime"]]),
            row("Eats figs", &[["ham", "leek"], ["corn", "peas"]]),
        ];
        let shape = infer(&rows.each_ref().map(String::as_str)).unwrap();
        let expected = "Known: {{ past }}\n{% for i in interactions %}\n<chosen>{{ i.chosen }}</chosen><rejected>\
                        {{ i.rejected }}</rejected>\n{% endfor %}\nWrite.\n";
        assert_eq!(emit(&shape, "summarize")["summarize.j2"], expected);
    }
}
