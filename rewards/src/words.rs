//! Words of a text, for terms that compare texts.

use std::collections::HashSet;

use unicode_segmentation::UnicodeSegmentation;

/// Returns the words of a text in lower case, by Unicode's word boundaries (UAX 29), without punctuation and spaces.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.unicode_words().map(str::to_lowercase).collect()
}

/// Returns the Jaccard index of two sets: the size of the intersection relative to that of the union. Two empty sets are equal.
pub(crate) fn jaccard(a: &HashSet<String>, b: &HashSet<String>) -> f64 {
    let common = a.intersection(b).count();
    let union = a.len() + b.len() - common;
    if union == 0 { 1.0 } else { common as f64 / union as f64 }
}

/// Returns the length of the longest common subsequence. Time is proportional to the product of the lengths, memory to the
/// length of `b`.
pub(crate) fn common_subsequence(a: &[String], b: &[String]) -> usize {
    let mut lengths = vec![0; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (j, other) in b.iter().enumerate() {
            let above = lengths[j + 1];
            lengths[j + 1] = if word == other { diagonal + 1 } else { above.max(lengths[j]) };
            diagonal = above;
        }
    }
    lengths[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_lower_case_and_without_punctuation() {
        assert_eq!(words("Likes  \"Jazz\", not\tROCK!"), ["likes", "jazz", "not", "rock"]);
        // Text without spaces has words too.
        assert_eq!(words("爵士").len(), 2);
        assert!(words(" …\n").is_empty());
    }

    #[test]
    fn similarities_as_worked_by_hand() {
        let set = |text: &str| -> HashSet<String> { words(text).into_iter().collect() };
        // {a, b, c} and {b, c, d}: 2 of 4.
        assert_eq!(jaccard(&set("a b c"), &set("b c d c")), 0.5);
        assert_eq!((jaccard(&set(""), &set("")), jaccard(&set("a"), &set(""))), (1.0, 0.0));
        let longest = |a: &str, b: &str| common_subsequence(&words(a), &words(b));
        // "a c d" is in both, in this order.
        assert_eq!(longest("a b c d", "x a c e d"), 3);
        assert_eq!((longest("a b", "b a"), longest("", "a"), longest("a", "")), (1, 0, 0));
    }
}
