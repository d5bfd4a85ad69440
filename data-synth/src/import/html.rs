//! Text without HTML.

use std::borrow::Cow;

/// Tags within a word or a sentence, which leave no space behind.
const INLINE: [&str; 12] = ["a", "abbr", "b", "em", "font", "i", "small", "span", "strong", "sub", "sup", "u"];

/// Removes tags, decodes entities, and joins the runs of whitespace of each line. A `<` that begins no tag stays. Text without tags
/// and entities is returned as it is.
pub(super) fn strip(text: &str) -> Cow<'_, str> {
    if !text.contains(['<', '&']) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        let (before, tag) = rest.split_at(start);
        shown.push_str(before);
        match tag_end(tag) {
            Some(end) => {
                if !is_inline(&tag[1..end]) {
                    shown.push(' ');
                }
                rest = &tag[end + 1..];
            }
            None => {
                shown.push('<');
                rest = &tag[1..];
            }
        }
    }
    shown.push_str(rest);
    let decoded = html_escape::decode_html_entities(&shown);
    let lines = decoded.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    Cow::Owned(lines.collect::<Vec<_>>().join("\n"))
}

/// Returns the position of the `>` that ends the tag at the start of `text`; `None` if no tag starts there. A tag is on one line, and
/// none begins in it.
fn tag_end(text: &str) -> Option<usize> {
    let second = text[1..].chars().next()?;
    if !(second.is_ascii_alphabetic() || matches!(second, '/' | '!')) {
        return None;
    }
    let end = text[1..].find(['<', '>', '\n'])? + 1;
    text[end..].starts_with('>').then_some(end)
}

/// Returns whether the tag with this content is one of [`INLINE`], opening or closing.
fn is_inline(content: &str) -> bool {
    let name = content.trim_start_matches('/').split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
    INLINE.iter().any(|inline| inline.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_entities_become_what_they_show() {
        for (html, shown) in [
            ("plain  text", "plain  text"),
            ("<b>Great</b>est <i class=\"x\">hits</i>", "Greatest hits"),
            ("one<br />two<p>three</p>\n four  &lt; five", "one two three\nfour < five"),
            ("Rock &amp; roll &#39;n&#x27; &quot;soul&quot;", "Rock & roll 'n' \"soul\""),
            ("3 < 5 and 7 <9", "3 < 5 and 7 <9"),
            ("an <unfinished tag", "an <unfinished tag"),
            ("<!-- note -->kept &unknown; AT&T", "kept &unknown; AT&T"),
            ("2 &lt;b&gt; stays", "2 <b> stays"),
            ("<br>", ""),
            ("Title: if a <b then\nDescription: x > y", "Title: if a <b then\nDescription: x > y"),
            ("a <b <i>c</i> > d", "a <b c > d"),
        ] {
            assert_eq!(strip(html), shown, "{html}");
        }
    }
}
