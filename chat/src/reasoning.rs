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
    /// The text after the closing tag, trimmed; never empty.
    pub summary: &'a str,
}

/// Splits a response that consists of exactly one `<think>…</think>` and text after it; returns `None` for anything else.
///
/// This is the format gate of AlignXplore+'s reward: a response that it rejects scores 0.
pub fn split(response: &str) -> Option<Reasoned<'_>> {
    let (before, rest) = response.split_once(OPEN)?;
    let (reasoning, summary) = rest.split_once(CLOSE)?;
    let extra = |s: &str| s.contains(OPEN) || s.contains(CLOSE);
    let (reasoning, summary) = (reasoning.trim(), summary.trim());
    (before.trim().is_empty() && !extra(reasoning) && !extra(summary) && !summary.is_empty())
        .then_some(Reasoned { reasoning, summary })
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
    fn the_lenient_reading_keeps_what_follows_the_last_tag() {
        assert_eq!(summary_leniently("a</think>b</think> c"), "c");
        assert_eq!(summary_leniently(" all of it "), "all of it");
    }
}
