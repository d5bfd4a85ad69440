//! `{% generation %}` blocks, with which a chat template in transformers marks the text that the model writes. MiniJinja does not
//! have this tag, so the template's source is rewritten before it is compiled. The tags become blocks that print nothing, or, to
//! locate the text between them, markers.

use std::ops::Range;

use crate::Message;

// Unicode noncharacters, which are reserved for internal use, so no text should contain them.
pub(crate) const BEGIN: char = '\u{FDD0}';
pub(crate) const END: char = '\u{FDD1}';

/// A rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    /// The rendered text.
    pub text: String,
    /// The byte ranges of the text that the template marks as the model's, one per block.
    pub turns: Vec<Range<usize>>,
}

/// Returns whether the template has generation blocks.
pub(crate) fn has_blocks(source: &str) -> bool {
    next_tag(source).is_some()
}

/// Returns the source without generation tags. With `marked`, the tags print [`BEGIN`] and [`END`] instead.
pub(crate) fn rewrite(source: &str, marked: bool) -> String {
    let (mut out, mut rest) = (String::with_capacity(source.len()), source);
    while let Some(tag) = next_tag(rest) {
        let mark = match (marked, tag.begins) {
            (false, _) => "".into(),
            (true, true) => BEGIN.to_string(),
            (true, false) => END.to_string(),
        };
        // A block replaces the tag, so that the whitespace control of the tag and trim_blocks strip the same text as before.
        let (left, right) = (tag.left, tag.right);
        out.push_str(&rest[..tag.at.start]);
        out.push_str(&format!("{{%{left} if true %}}{mark}{{% endif {right}%}}"));
        rest = &rest[tag.at.end..];
    }
    out + rest
}

struct Tag<'a> {
    at: Range<usize>,
    begins: bool,
    /// Whitespace control: `-`, `+`, or empty.
    left: &'a str,
    right: &'a str,
}

/// Returns the first `{% generation %}` or `{% endgeneration %}`.
fn next_tag(source: &str) -> Option<Tag<'_>> {
    let mut from = 0;
    while let Some(found) = source[from..].find("{%") {
        let start = from + found;
        let (left, body) = sign(&source[start + 2..]);
        let body = body.trim_start();
        let word = body.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let name = &body[..body.len() - word.len()];
        let (right, close) = sign(word.trim_start());
        if let Some(after) = close.strip_prefix("%}")
            && ["generation", "endgeneration"].contains(&name)
        {
            return Some(Tag { at: start..source.len() - after.len(), begins: name == "generation", left, right });
        }
        from = start + 2;
    }
    None
}

fn sign(text: &str) -> (&str, &str) {
    let n = usize::from(text.starts_with(['-', '+']));
    text.split_at(n)
}

/// Returns whether a message contains a marker, which could not be distinguished from the template's.
pub(crate) fn in_the_way(messages: &[Message]) -> bool {
    messages.iter().any(|m| m.content.contains([BEGIN, END]))
}

/// Returns the text without its markers, and the byte ranges between them.
pub(crate) fn strip(marked: &str) -> Marked {
    let (mut text, mut turns, mut begin) = (String::with_capacity(marked.len()), Vec::new(), 0);
    for piece in marked.split_inclusive([BEGIN, END]) {
        text.push_str(piece.trim_end_matches([BEGIN, END]));
        if piece.ends_with(BEGIN) {
            begin = text.len();
        } else if piece.ends_with(END) {
            turns.push(begin..text.len());
        }
    }
    Marked { text, turns }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_found_with_their_signs() {
        let source = "{% if a %}{%- generation -%} x {% endgeneration +%}{%generation%}";
        let plain = "{% if a %}{%- if true %}{% endif -%} x {% if true %}{% endif +%}{% if true %}{% endif %}";
        assert_eq!(rewrite(source, false), plain);
        assert_eq!(rewrite(source, true).matches(BEGIN).count(), 2);
        assert_eq!(rewrite(source, true).matches(END).count(), 1);
        for other in
            ["{% set generation = 1 %}", "{{ generation }}", "{% if add_generation_prompt %}", "{% generations %}"]
        {
            assert!(!has_blocks(other), "{other}");
            assert_eq!(rewrite(other, true), other);
        }
    }

    #[test]
    fn marks_become_ranges_of_bytes() {
        let marked = strip(&format!("é{BEGIN}ab{END}c{BEGIN}{END}{BEGIN}日{END}"));
        assert_eq!(marked.text, "éabc日");
        assert_eq!(marked.turns, [2..4, 5..5, 5..8]);
    }
}
