//! Parses a judge's answer letter, and its probability, from a completion.

use chat::{Completion, TokenLogprob};

/// Returns the probability of the first of two choices, given that one of them is the answer. The completion starts where the
/// answer letter belongs. Returns `None` if neither choice is among the first token's alternatives.
pub(crate) fn forced(completion: &Completion, choices: &[String; 2]) -> Option<f64> {
    first_choice(completion.tokens.first()?, choices)
}

/// Same as [`forced`], for a completion that reasons first: reads the first token that is one of the choices, after the last
/// occurrence of `prefix`. Returns `None` for a completion without such an answer.
///
/// Searches the concatenated texts of the tokens, whose whitespace may differ from that of the completion's text.
pub(crate) fn reasoned(completion: &Completion, prefix: &str, choices: &[String; 2]) -> Option<f64> {
    let prefix = prefix.trim();
    let text: String = completion.tokens.iter().map(|t| t.text.as_str()).collect();
    let prefix_end = text.rfind(prefix)? + prefix.len();
    let mut end = 0;
    let answer = completion.tokens.iter().find(|token| {
        end += token.text.len();
        // A token may contain the end of the prefix and the letter's leading space. Hence the end of the token is compared, not its
        // start.
        end > prefix_end && choices.iter().any(|c| is(&token.text, c))
    })?;
    first_choice(answer, choices)
}

fn first_choice(token: &TokenLogprob, choices: &[String; 2]) -> Option<f64> {
    let unlisted = !token.top.iter().any(|(text, _)| *text == token.text);
    let own = unlisted.then_some((token.text.as_str(), token.logprob));
    let alternatives = || token.top.iter().map(|(text, logprob)| (text.as_str(), *logprob)).chain(own);
    // A letter may have several tokens ("A" and " A"); their probabilities add up.
    let mass = |choice: &str| -> f64 {
        alternatives().filter(|(text, _)| is(text, choice)).map(|(_, lp)| f64::from(lp).exp()).sum()
    };
    let (first, second) = (mass(&choices[0]), mass(&choices[1]));
    let p = first / (first + second);
    p.is_finite().then_some(p)
}

fn is(token: &str, choice: &str) -> bool {
    token.trim() == choice
}

#[cfg(test)]
mod tests {
    use chat::FinishReason;
    use tolerance::assert_within;

    use super::*;

    fn ab() -> [String; 2] {
        ["A".into(), "B".into()]
    }

    fn token(text: &str, top: &[(&str, f64)]) -> TokenLogprob {
        let top: Vec<_> = top.iter().map(|(t, p)| (t.to_string(), p.ln() as f32)).collect();
        TokenLogprob { text: text.into(), logprob: top.first().map_or(0.0, |t| t.1), top }
    }

    fn completion(tokens: Vec<TokenLogprob>) -> Completion {
        let text = tokens.iter().map(|t| t.text.as_str()).collect();
        Completion { text, tokens, finish: FinishReason::Stop }
    }

    #[track_caller]
    fn close(got: Option<f64>, want: f64) {
        let got = got.expect("an answer");
        assert_within!(got - want, 1e-6, "{got} is not {want}");
    }

    #[test]
    fn a_forced_answer_compares_the_letters_and_nothing_else() {
        let read = |top: &[(&str, f64)]| forced(&completion(vec![token(top[0].0, top)]), &ab());
        close(read(&[("A", 0.6), ("B", 0.2), ("C", 0.2)]), 0.75);
        close(read(&[("A", 0.3), (" A", 0.3), ("B", 0.2)]), 0.75);
        close(read(&[("I", 0.5), ("B", 0.5)]), 0.0);
        close(read(&[("I", 0.5), ("A", 0.1)]), 1.0);
        assert_eq!(read(&[("I", 0.5), ("a", 0.5)]), None);
        assert_eq!(forced(&completion(vec![]), &ab()), None);
    }

    #[test]
    fn the_chosen_token_counts_also_where_the_alternatives_leave_it_out() {
        let sampled = TokenLogprob { text: "A".into(), logprob: 0.2f32.ln(), top: vec![("B".into(), 0.6f32.ln())] };
        close(forced(&completion(vec![sampled]), &ab()), 0.25);
    }

    #[test]
    fn letters_in_the_evidence_are_no_answer() {
        // "A likes space B answer A avoids jazz answer B": the evidence names both letters, and the prefix occurs twice.
        let sure = |t: &str| token(t, &[(t, 0.99)]);
        let mut tokens: Vec<_> =
            ["A", " likes", " space", " B", " answer", " A", " avoids", " jazz", " answer"].map(sure).into();
        tokens.push(token(" B", &[(" B", 0.8), (" A", 0.2)]));
        close(reasoned(&completion(tokens.clone()), "answer", &ab()), 0.2);
        // Truncated before the letter, the completion has no answer, whatever the evidence says.
        tokens.pop();
        assert_eq!(reasoned(&completion(tokens.clone()), "answer", &ab()), None);
        tokens.truncate(4);
        assert_eq!(reasoned(&completion(tokens), "answer", &ab()), None);
    }

    #[test]
    fn the_letter_may_share_its_token_with_the_prefix_s_last_space() {
        let text = ["{\"", "selection", "\":", " \"", "Item"].map(|t| token(t, &[(t, 1.0)]));
        let mut tokens = Vec::from(text);
        tokens.push(token(" A", &[(" A", 0.9), (" B", 0.1)]));
        close(reasoned(&completion(tokens.clone()), "{\"selection\": \"Item ", &ab()), 0.9);
        // Words between the prefix and the letter are skipped.
        tokens[4] = token("the", &[("the", 1.0)]);
        close(reasoned(&completion(tokens), "{\"selection\":", &ab()), 0.9);
    }

    #[test]
    fn token_texts_are_trusted_over_the_text() {
        let mut answer = completion(vec![token("answer", &[("answer", 1.0)]), token("B", &[("B", 0.7), ("A", 0.3)])]);
        answer.text = "answer B".into();
        close(reasoned(&answer, "answer ", &ab()), 0.3);
    }
}
