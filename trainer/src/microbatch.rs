//! Cutting a global batch into packed passes by a token budget.

/// Ranges of consecutive sequences whose lengths sum to at most `budget` tokens; a longer sequence goes alone.
pub fn by_tokens(lengths: &[usize], budget: usize) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    let (mut begin, mut tokens) = (0, 0);
    for (i, &length) in lengths.iter().enumerate() {
        if i > begin && tokens + length > budget {
            ranges.push(begin..i);
            (begin, tokens) = (i, 0);
        }
        tokens += length;
    }
    if begin < lengths.len() {
        ranges.push(begin..lengths.len());
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_respect_the_budget_and_cover_everything_once() {
        assert_eq!(by_tokens(&[3, 3, 3, 9, 1, 2], 6), [0..2, 2..3, 3..4, 4..6]);
        assert!(by_tokens(&[], 6).is_empty());
        assert_eq!(by_tokens(&[7, 1], 6), [0..1, 1..2]);
    }
}
