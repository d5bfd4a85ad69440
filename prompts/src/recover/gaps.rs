//! The texts between the constant texts that repeat in each interaction.

use super::constants::{Constant, Symbols};
use super::shape::{Glyph, Pattern, literal};

/// The texts between the constant texts of the interactions of several rows.
pub(crate) struct Gaps<'t> {
    /// The constant texts of an interaction.
    pub marks: Vec<Pattern>,
    /// The number of interactions of each row.
    pub counts: Vec<usize>,
    /// For each constant text but the last, the texts between it and the next one, in all interactions.
    pub inner: Vec<Vec<&'t str>>,
    /// The texts between consecutive interactions.
    pub outer: Vec<&'t str>,
    /// The text of each row before the first interaction.
    pub heads: Vec<&'t str>,
    /// The text of each row after the last interaction.
    pub tails: Vec<&'t str>,
}

impl<'t> Gaps<'t> {
    /// Cuts rows at the constant texts `cycle`, which follow each other in each interaction. `None` if they cannot, or
    /// if no two pairs of consecutive interactions can be compared.
    pub(crate) fn new(texts: &[Symbols<'t>], cycle: &[Constant]) -> Option<Self> {
        let cycle = without_overlap(cycle)?;
        let mut marks = Vec::new();
        let mut constants = Vec::new();
        for constant in &cycle {
            for (from, len, pattern) in numbered_parts(texts, constant, |_, index| index as i64 + 1) {
                marks.push(pattern);
                constants.push(constant.part(from, len));
            }
        }
        let (first, last) = (constants.first()?, constants.last()?);
        let end = |constant: &Constant, row: usize, index: usize| constant.at[row][index] + constant.len;
        let counts: Vec<usize> = first.at.iter().map(Vec::len).collect();
        let rows = || texts.iter().zip(&counts).enumerate();
        let outer: Vec<&str> = rows()
            .flat_map(|(row, (text, count))| {
                (1..*count).map(move |index| text.text(end(last, row, index - 1), first.at[row][index]))
            })
            .collect();
        if outer.len() < 2 {
            return None;
        }
        let between = |pair: &[Constant]| -> Vec<&'t str> {
            let (left, right) = (&pair[0], &pair[1]);
            let mut gaps = Vec::new();
            for (row, (text, count)) in rows() {
                gaps.extend((0..*count).map(|index| text.text(end(left, row, index), right.at[row][index])));
            }
            gaps
        };
        Some(Self {
            inner: constants.windows(2).map(between).collect(),
            outer,
            heads: rows().map(|(row, (text, _))| text.text(0, first.at[row][0])).collect(),
            tails: rows().map(|(row, (text, count))| text.text(end(last, row, count - 1), text.len())).collect(),
            counts: counts.clone(),
            marks,
        })
    }
}

/// Cuts from each constant text what overlaps the one before it anywhere. Two texts share symbols where nothing stands
/// between them: "\nA\n" and "\nB\n" in "\nA\nB\n".
fn without_overlap(cycle: &[Constant]) -> Option<Vec<Constant>> {
    let mut cycle = cycle.to_vec();
    let number = cycle.len();
    for left in 0..number {
        let right = (left + 1) % number;
        let mut overlap = 0;
        for row in 0..cycle[left].at.len() {
            // The last text of an interaction is followed by the first one of the next.
            let next = usize::from(right == 0);
            let pairs = cycle[left].at[row].iter().zip(cycle[right].at[row].iter().skip(next));
            overlap = pairs.fold(overlap, |most, (a, b)| most.max((a + cycle[left].len).saturating_sub(*b)));
        }
        if overlap >= cycle[right].len {
            return None;
        }
        if overlap > 0 {
            cycle[right] = cycle[right].part(overlap, cycle[right].len - overlap);
        }
    }
    Some(cycle)
}

/// Returns the parts of a constant text between the numbers in it that vary otherwise than with the number of the
/// interaction: the first symbol, the length and the pattern of each. `number` maps a row and an occurrence to the
/// number of its interaction.
pub(crate) fn numbered_parts(
    texts: &[Symbols<'_>],
    constant: &Constant,
    number: impl Fn(usize, usize) -> i64,
) -> Vec<(usize, usize, Pattern)> {
    let mut parts = Vec::new();
    let (mut start, mut pattern) = (0, Pattern::new());
    for offset in 0..constant.len {
        let code = texts[0].codes[constant.at[0][0] + offset];
        let glyphs = match char::from_u32(code) {
            Some(c) => Some(vec![Glyph::Char(c)]),
            None => digits(texts, constant, offset, &number),
        };
        if let Some(glyphs) = glyphs {
            pattern.extend(glyphs);
            continue;
        }
        if offset > start {
            parts.push((start, offset - start, std::mem::take(&mut pattern)));
        }
        start = offset + 1;
    }
    if constant.len > start {
        parts.push((start, constant.len - start, pattern));
    }
    parts
}

/// Returns the pattern of a run of digits in all occurrences of a constant text: a fixed number, or that of the
/// interaction.
fn digits(
    texts: &[Symbols<'_>],
    constant: &Constant,
    offset: usize,
    number: &impl Fn(usize, usize) -> i64,
) -> Option<Pattern> {
    let mut runs = Vec::new();
    for (row, starts) in constant.at.iter().enumerate() {
        for (index, start) in starts.iter().enumerate() {
            runs.push((number(row, index), texts[row].text(start + offset, start + offset + 1)));
        }
    }
    let (_, first) = *runs.first()?;
    if runs.iter().all(|(_, run)| *run == first) {
        return Some(literal(first));
    }
    let difference = |(number, run): &(i64, &str)| Some(value(run)? - number);
    let shared = difference(&runs[0])?;
    runs.iter().all(|run| difference(run) == Some(shared)).then(|| vec![Glyph::Number(shared)])
}

/// Returns the value of a run of digits, if writing the value gives the same run.
pub(crate) fn value(run: &str) -> Option<i64> {
    run.parse().ok().filter(|value: &i64| value.to_string() == run)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constant(len: usize, at: &[&[usize]]) -> Constant {
        Constant { len, at: at.iter().map(|starts| starts.to_vec()).collect() }
    }

    #[test]
    fn numbers_are_told_apart() {
        let texts = ["a1 v2 x9,a2 v2 x4,", "a1 v2 x7,"].map(Symbols::new);
        let parts = numbered_parts(&texts, &constant(9, &[&[0, 9], &[0]]), |_, index| index as i64 + 1);
        let text = |pattern: &Pattern| super::super::shape::fill(pattern, 5);
        let found: Vec<_> = parts.iter().map(|(from, len, pattern)| (*from, *len, text(pattern))).collect();
        assert_eq!(found, [(0, 7, "a5 v2 x".to_string()), (8, 1, ",".to_string())]);
    }

    #[test]
    fn rows_are_cut_at_constant_texts() {
        // Two constant texts, "[" and "\nB\n"; the second one overlaps nothing.
        let texts = ["P[x\nB\ny[zz\nB\nw!", "P[q\nB\nr[s\nB\nt!"].map(Symbols::new);
        let cycle = [constant(1, &[&[1, 7], &[1, 7]]), constant(3, &[&[3, 10], &[3, 9]])];
        let gaps = Gaps::new(&texts, &cycle).unwrap();
        assert_eq!((gaps.heads, gaps.tails), (vec!["P", "P"], vec!["w!", "t!"]));
        assert_eq!((gaps.inner, gaps.outer), (vec![vec!["x", "zz", "q", "s"]], vec!["y", "r"]));
    }
}
