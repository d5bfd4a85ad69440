//! The `<think>…</think>` convention: reasoning first, then the summary.

/// The tag that opens the reasoning.
pub const OPEN: &str = "<think>";
/// The tag that closes the reasoning.
pub const CLOSE: &str = "</think>";

/// A response, split into reasoning and summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reasoned<'a> {
    /// The text between the tags, trimmed.
    pub reasoning: &'a str,
    /// The text after the closing tag, trimmed. [`split`] rejects an empty one, [`split_as_published`] does not.
    pub summary: &'a str,
}

/// Splits a response that consists of exactly one `<think>…</think>` and text after it; returns `None` for anything else.
/// Whitespace around the parts is ignored, the reasoning may be empty, and the summary may not.
pub fn split(response: &str) -> Option<Reasoned<'_>> {
    let (before, rest) = response.split_once(OPEN)?;
    let (reasoning, summary) = trimmed_parts(rest)?;
    (before.trim().is_empty() && !summary.is_empty()).then_some(Reasoned { reasoning, summary })
}

/// Splits a response as the released reward of AlignXplore+ does; returns `None` for a response that it rejects. The response must
/// begin with `<think>`, hold each tag once, and have at least one character between the tags and one after them. Whitespace
/// counts as characters, so the trimmed reasoning and summary may be empty.
pub fn split_as_published(response: &str) -> Option<Reasoned<'_>> {
    let rest = response.strip_prefix(OPEN)?;
    let filled = !rest.starts_with(CLOSE) && !rest.ends_with(CLOSE);
    let (reasoning, summary) = trimmed_parts(rest)?;
    filled.then_some(Reasoned { reasoning, summary })
}

/// Returns the text up to the closing tag and the text after it, trimmed, or `None` if there is not exactly one further tag.
fn trimmed_parts(after_open: &str) -> Option<(&str, &str)> {
    let (reasoning, summary) = after_open.split_once(CLOSE)?;
    let extra = |s: &str| s.contains(OPEN) || s.contains(CLOSE);
    (!extra(reasoning) && !extra(summary)).then(|| (reasoning.trim(), summary.trim()))
}

/// Returns the summary as the published evaluators read it: everything after the last `</think>`, or the whole response if there is
/// none. The text is trimmed.
pub fn summary_leniently(response: &str) -> &str {
    response.rsplit_once(CLOSE).map_or(response, |(_, after)| after).trim()
}

/// Joins reasoning and summary in the format of the published SFT rows.
pub fn join(reasoning: &str, summary: &str) -> String {
    format!("{OPEN}\n{reasoning}\n{CLOSE}\n\n{summary}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_formed_responses_split() {
        let text = join("space +2", "Likes space.");
        assert_eq!(split(&text), Some(Reasoned { reasoning: "space +2", summary: "Likes space." }));
        assert_eq!(split("<think></think>x").map(|r| r.reasoning), Some(""));
    }

    #[test]
    fn the_gate_rejects_what_the_method_rejects() {
        for bad in [
            "Likes space.",
            "<think>a</think>",
            "<think>a</think>  \n",
            "<think>a Likes space.",
            "a</think> Likes space.",
            "<think>a</think>b<think>c</think>d",
            "<think>a<think>b</think>c",
            "said first <think>a</think>b",
        ] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_published_gate_counts_whitespace_and_strips_nothing_first() {
        let parts = |text| split_as_published(text).map(|r| (r.reasoning, r.summary));
        assert_eq!(parts("<think>\na\n</think>\n\nLikes space."), Some(("a", "Likes space.")));
        // An empty summary or reasoning is accepted if there is at least one character, which may be whitespace.
        assert_eq!(parts("<think>a</think> \n"), Some(("a", "")));
        assert_eq!(parts("<think> </think>x"), Some(("", "x")));
        for bad in [
            "Likes space.",
            "<think></think>x",
            "<think>a</think>",
            "<think>a Likes space.",
            " <think>a</think>x",
            "\n<think>a</think>x",
            "<Think>a</think>x",
            "<think>a</THINK>x",
            "<think>a</think>x</think>",
            "<think>a<think></think>x",
            "<think>a</think>x<think>",
            "</think><think>ax",
        ] {
            assert_eq!(parts(bad), None, "{bad:?}");
        }
        // The strict gate differs on whitespace in both directions.
        assert!(split(" <think></think>x").is_some() && split("<think>a</think> ").is_none());
    }

    #[test]
    fn the_lenient_reading_keeps_what_follows_the_last_tag() {
        assert_eq!(summary_leniently("a</think>b</think> c"), "c");
        assert_eq!(summary_leniently(" all of it "), "all of it");
    }
}
