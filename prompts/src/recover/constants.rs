//! Finds constant texts: strings that occur in every row equally often, with the same text around every occurrence.

use std::collections::{HashMap, HashSet};

/// Stands for a run of digits, whose value may vary between the occurrences of a constant text. It is no character's
/// code.
pub(crate) const DIGITS: u32 = 0x11_0000;

/// Lengths of the strings from which constant texts are extended.
const SEEDS: [usize; 7] = [2, 3, 4, 6, 10, 16, 24];

/// A text as a sequence of characters and runs of digits.
pub(crate) struct Symbols<'t> {
    text: &'t str,
    pub codes: Vec<u32>,
    /// Offset of each symbol in bytes, and the length of the text.
    at: Vec<usize>,
}

impl<'t> Symbols<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        let (mut codes, mut at) = (Vec::new(), Vec::new());
        let mut in_digits = false;
        for (offset, c) in text.char_indices() {
            let digit = c.is_ascii_digit();
            if !(digit && in_digits) {
                codes.push(if digit { DIGITS } else { u32::from(c) });
                at.push(offset);
            }
            in_digits = digit;
        }
        at.push(text.len());
        Self { text, codes, at }
    }

    /// Returns the text of the symbols `from..to`.
    pub(crate) fn text(&self, from: usize, to: usize) -> &'t str {
        &self.text[self.at[from]..self.at[to]]
    }

    pub(crate) fn len(&self) -> usize {
        self.codes.len()
    }
}

/// A constant text: its length in symbols, and its beginnings in each row.
#[derive(Clone, Debug)]
pub(crate) struct Constant {
    pub len: usize,
    pub at: Vec<Vec<usize>>,
}

impl Constant {
    /// Returns the same text in rows of which each lacked its first symbols.
    pub(crate) fn shifted(&self, by: &[usize]) -> Self {
        let at = self.at.iter().zip(by).map(|(starts, by)| starts.iter().map(|start| start + by).collect()).collect();
        Self { len: self.len, at }
    }

    /// Returns the part of the text that begins at symbol `from` and has `len` symbols.
    pub(crate) fn part(&self, from: usize, len: usize) -> Self {
        Self { len, ..self.shifted(&vec![from; self.at.len()]) }
    }
}

/// Returns the longest constant texts whose number of occurrences in each row satisfies `keep`.
pub(crate) fn constants(rows: &[&[u32]], keep: impl Fn(&[usize]) -> bool) -> Vec<Constant> {
    constants_from(rows, &SEEDS, keep)
}

fn constants_from(rows: &[&[u32]], seeds: &[usize], keep: impl Fn(&[usize]) -> bool) -> Vec<Constant> {
    // Every constant text occurs in every row, so those of the shortest one suffice.
    let Some(shortest) = (0..rows.len()).min_by_key(|row| rows[*row].len()) else { return Vec::new() };
    let mut found = Vec::new();
    let mut known: HashSet<(usize, usize)> = HashSet::new();
    let mut covered: HashMap<Vec<usize>, Vec<(usize, usize)>> = HashMap::new();
    for &length in seeds {
        for places in occurrences(rows, shortest, length) {
            let mut at = vec![Vec::new(); rows.len()];
            places.iter().for_each(|(row, start)| at[*row].push(*start));
            let counts: Vec<usize> = at.iter().map(Vec::len).collect();
            if counts.contains(&0) || !keep(&counts) {
                continue;
            }
            let first = at[shortest][0];
            let covered = covered.entry(counts).or_default();
            if covered.iter().any(|(from, to)| *from <= first && first + length <= *to) {
                continue;
            }
            let Some(constant) = extend(rows, at, length) else { continue };
            let from = constant.at[shortest][0];
            covered.push((from, from + constant.len));
            if known.insert((from, constant.len)) {
                found.push(constant);
            }
        }
    }
    found
}

/// Returns the places (row, offset), in order, of each string of `length` symbols of the row `reference`, in the order
/// of their first places there.
fn occurrences(rows: &[&[u32]], reference: usize, length: usize) -> Vec<Vec<(usize, usize)>> {
    let mut index: HashMap<&[u32], usize> = HashMap::new();
    for seed in rows[reference].windows(length) {
        let next = index.len();
        index.entry(seed).or_insert(next);
    }
    let mut places = vec![Vec::new(); index.len()];
    for (row, codes) in rows.iter().enumerate() {
        for (start, seed) in codes.windows(length).enumerate() {
            if let Some(number) = index.get(seed) {
                places[*number].push((row, start));
            }
        }
    }
    places
}

/// Extends a string to both sides while the same symbol stands beside each of its occurrences. `None` if they overlap.
fn extend(rows: &[&[u32]], at: Vec<Vec<usize>>, length: usize) -> Option<Constant> {
    let distance = |starts: &Vec<usize>| starts.windows(2).map(|pair| pair[1] - pair[0]).min();
    let longest = at.iter().filter_map(distance).min().unwrap_or(usize::MAX);
    if longest < length {
        return None;
    }
    let places = || at.iter().enumerate().flat_map(|(row, starts)| starts.iter().map(move |start| (row, *start)));
    // The symbol at a distance from each occurrence, if it is the same one everywhere.
    let same = |symbol: &dyn Fn(usize, usize) -> Option<u32>| -> bool {
        let mut symbols = places().map(|(row, start)| symbol(row, start));
        let first = symbols.next().flatten();
        first.is_some() && symbols.all(|other| other == first)
    };
    let (mut left, mut right) = (0, 0);
    while length + left < longest
        && same(&|row, start| start.checked_sub(left + 1).and_then(|before| rows[row].get(before).copied()))
    {
        left += 1;
    }
    while length + left + right < longest && same(&|row, start| rows[row].get(start + length + right).copied()) {
        right += 1;
    }
    let at = at.into_iter().map(|starts| starts.into_iter().map(|start| start - left).collect()).collect();
    Some(Constant { len: length + left + right, at })
}

/// Returns the longest constant text of at least `least` symbols that occurs once in each text and is no mere word: it
/// has a symbol that is neither a letter, a digit nor a space.
pub(crate) fn split_once(texts: &[Symbols<'_>], least: usize) -> Option<Constant> {
    let rows: Vec<&[u32]> = texts.iter().map(|text| &text.codes[..]).collect();
    let seeds: Vec<usize> = std::iter::once(1).chain(SEEDS).collect();
    let mut best: Option<Constant> = None;
    for constant in constants_from(&rows, &seeds, |counts| counts.iter().all(|count| *count == 1)) {
        let start = constant.at[0][0];
        let text = texts[0].text(start, start + constant.len);
        let is_marker = text.chars().any(|c| !c.is_alphanumeric() && c != ' ');
        if constant.len >= least && is_marker && best.as_ref().is_none_or(|best| constant.len > best.len) {
            best = Some(constant);
        }
    }
    best
}

/// Returns the length in bytes of the longest common beginning; 0 for no texts.
pub(crate) fn common_prefix(texts: &[&str]) -> usize {
    let Some(first) = texts.first() else { return 0 };
    texts.iter().fold(first.len(), |length, text| {
        let mut pairs = first[..length].char_indices().zip(text.chars());
        pairs.find(|((_, a), b)| a != b).map_or(length.min(text.len()), |((at, _), _)| at)
    })
}

/// Returns the length in bytes of the longest common end; 0 for no texts.
pub(crate) fn common_suffix(texts: &[&str]) -> usize {
    let Some(first) = texts.first() else { return 0 };
    texts.iter().fold(first.len(), |length, text| {
        let end = &first[first.len() - length..];
        let mut pairs = end.char_indices().rev().zip(text.chars().rev());
        pairs.find(|((_, a), b)| a != b).map_or(length.min(text.len()), |((at, a), _)| length - at - a.len_utf8())
    })
}

/// Returns the lengths in bytes of the longest common beginning, and of the longest common end of what remains.
pub(crate) fn affixes(texts: &[&str]) -> (usize, usize) {
    let prefix = common_prefix(texts);
    let rests: Vec<&str> = texts.iter().map(|text| &text[prefix..]).collect();
    (prefix, common_suffix(&rests))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(texts: &[&str], keep: impl Fn(&[usize]) -> bool) -> Vec<String> {
        let symbols: Vec<Symbols<'_>> = texts.iter().copied().map(Symbols::new).collect();
        let rows: Vec<&[u32]> = symbols.iter().map(|s| &s.codes[..]).collect();
        let mut texts: Vec<String> = constants(&rows, keep)
            .iter()
            .map(|c| symbols[0].text(c.at[0][0], c.at[0][0] + c.len).to_string())
            .collect();
        texts.sort();
        texts
    }

    #[test]
    fn constant_texts_are_extended_to_their_ends() {
        let texts = ["Head\n1. [kettle]\n2. [tram]\nTail", "Head\n1. [moss]\n2. [wig]\n3. [fog]\nTail"];
        assert_eq!(found(&texts, |counts| counts == [2, 3]), ["\n1. [", "]\n"]);
        assert_eq!(found(&texts, |counts| counts == [1, 1]), ["Head\n1. [", "]\nTail"]);
    }

    #[test]
    fn affixes_do_not_overlap() {
        assert_eq!(affixes(&["aXa", "aYYa"]), (1, 1));
        assert_eq!(affixes(&["aa", "aaa"]), (2, 0));
        assert_eq!(affixes(&["é.ü", "é!ü"]), (2, 2));
        assert_eq!(affixes(&["ab", "ab"]), (2, 0));
        assert_eq!(affixes(&[]), (0, 0));
    }

    #[test]
    fn a_split_is_no_word() {
        let texts = ["red and blue; green", "one and two; three"].map(Symbols::new);
        let split = split_once(&texts, 2).unwrap();
        assert_eq!(texts[0].text(split.at[0][0], split.at[0][0] + split.len), "; ");
        assert!(split_once(&["red and blue", "one and two"].map(Symbols::new), 2).is_none());
    }
}
