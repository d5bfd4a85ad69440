//! Texts as sequences of words.

use unicode_segmentation::UnicodeSegmentation;

/// The least number of words of a title that a summary may not quote. Shorter titles occur by chance.
pub(super) const LEAST_TITLE: usize = 3;

/// Returns the words of a text in lowercase, without punctuation.
pub(super) fn words(text: &str) -> Vec<String> {
    text.unicode_words().map(str::to_lowercase).collect()
}

/// Returns the title of an item: what follows `Title:` on the first line, up to genres; without `Title:`, the first line.
pub(super) fn title(item: &str) -> &str {
    let line = item.trim().lines().next().unwrap_or_default();
    let title = line.strip_prefix("Title:").unwrap_or(line);
    title.split(", Genres:").next().unwrap_or(title).trim()
}

/// Returns whether `sequence` occurs in `words`.
pub(super) fn contains(words: &[String], sequence: &[String]) -> bool {
    !sequence.is_empty() && words.windows(sequence.len()).any(|window| window == sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_no_case_and_no_punctuation() {
        assert_eq!(words("It's \"Dry\", 3.5 日本!"), ["it's", "dry", "3.5", "日", "本"]);
        assert!(contains(&words("a b, c d"), &words("B c")) && !contains(&words("a b c"), &words("a c")));
        assert!(!contains(&words("a"), &[]) && !contains(&words("a"), &words("a b")));
    }

    #[test]
    fn titles_of_the_known_forms() {
        assert_eq!(title("Title: A \"long\" walk\nAbstract: …"), "A \"long\" walk");
        assert_eq!(title("Title: Heat (1995), Genres: Action|Crime"), "Heat (1995)");
        assert_eq!(title("\n a plain line \nmore"), "a plain line");
        assert_eq!(title(""), "");
    }
}
