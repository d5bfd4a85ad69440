//! Parses a judge's answer letter, and its probability, from a completion.

use chat::{Completion, TokenLogprob};

/// Returns the probability of the first of two answers, given that one of them is written. `texts` are the answers with the space
/// before them, as they continue the conversation. Returns `None` if the first token lists no alternative that is an answer.
///
/// If both texts are among the alternatives, only they count: these are the tokens that the model would have written. Otherwise
/// the alternatives are compared without the spaces around them.
pub(crate) fn forced(completion: &Completion, texts: &[String; 2]) -> Option<f64> {
    let token = completion.tokens.first()?;
    let listed = |text: &String| token.top.iter().find(|(t, _)| t == text).map(|(_, logprob)| f64::from(*logprob));
    if let [Some(first), Some(second)] = texts.each_ref().map(listed) {
        let p = 1.0 / (1.0 + (second - first).exp());
        return p.is_finite().then_some(p);
    }
    first_choice(token, texts.each_ref().map(|text| text.trim()))
}

/// Returns the probability of the first of two answers, in any case and with any spaces around them, given that one of them is
/// written: chat models answer `No` or ` no` to the same question. Returns `None` if the first token lists no alternative that is an
/// answer.
pub(crate) fn in_any_case(completion: &Completion, texts: &[String; 2]) -> Option<f64> {
    let token = completion.tokens.first()?;
    let [first, second] = texts.each_ref().map(|text| text.trim().to_lowercase());
    if first == second {
        return forced(completion, texts);
    }
    let of = |answer: &str| -> Vec<f64> {
        let own = alternatives(token).filter(|(text, _)| text.trim().to_lowercase() == answer);
        own.map(|(_, logprob)| f64::from(logprob)).collect()
    };
    let (first, second) = (of(&first), of(&second));
    // Relative to the most likely one, so that not all of them vanish.
    let highest = first.iter().chain(&second).copied().fold(f64::NEG_INFINITY, f64::max);
    let mass = |logprobs: &[f64]| -> f64 { logprobs.iter().map(|logprob| (logprob - highest).exp()).sum() };
    let p = mass(&first) / (mass(&first) + mass(&second));
    p.is_finite().then_some(p)
}

/// Returns the probability of the first choice in a completion that reasons first: reads the first token that is one of the
/// choices, after the last occurrence of `prefix`. Returns `None` for a completion without such an answer.
///
/// Searches the concatenated texts of the tokens, whose whitespace may differ from that of the completion's text.
pub(crate) fn reasoned(completion: &Completion, prefix: &str, choices: &[String; 2]) -> Option<f64> {
    let (prefix, choices) = (prefix.trim(), choices.each_ref().map(|choice| choice.as_str()));
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

/// Returns the confidence in the choice at index `right` of a freely generated answer, by the rule of AlignXplore+'s released
/// reward. Returns `None` if neither choice was generated.
///
/// Every generated token is compared with the choices, without the white space around them and the markers that byte-level
/// tokenizers write for a space and a line break. The last token that is the first choice and the last that is the second are kept apart. If the right choice
/// was generated, the result is its probability, even if the other choice follows it; else it is 1 − the other's probability. A
/// choice whose probability is exactly 0 counts as not generated.
pub(crate) fn sampled(completion: &Completion, choices: &[String; 2], right: usize) -> Option<f64> {
    let mut probabilities = [None; 2];
    for (choice, p) in generated(completion, choices) {
        probabilities[choice] = Some(p).filter(|p| *p > 0.0);
    }
    probabilities[right].or(probabilities[1 - right].map(|p| 1.0 - p))
}

/// Returns the index of the choice that was generated last in a freely generated answer, read as by [`sampled`].
pub(crate) fn last_generated(completion: &Completion, choices: &[String; 2]) -> Option<usize> {
    generated(completion, choices).filter(|(_, p)| *p > 0.0).last().map(|(choice, _)| choice)
}

/// Returns the generated tokens that are one of the choices: the index of the choice, and the probability of the token.
fn generated(completion: &Completion, choices: &[String; 2]) -> impl Iterator<Item = (usize, f64)> {
    completion.tokens.iter().filter_map(move |token| {
        let letter = token.text.replace(['Ġ', 'Ċ'], "");
        let choice = choices.iter().position(|choice| choice == letter.trim())?;
        Some((choice, f64::from(token.logprob).exp()))
    })
}

/// Returns the listed alternatives of a token, and the token itself if they leave it out, with their log-probabilities.
fn alternatives(token: &TokenLogprob) -> impl Iterator<Item = (&str, f32)> {
    let unlisted = !token.top.iter().any(|(text, _)| *text == token.text);
    let own = unlisted.then_some((token.text.as_str(), token.logprob));
    token.top.iter().map(|(text, logprob)| (text.as_str(), *logprob)).chain(own)
}

fn first_choice(token: &TokenLogprob, choices: [&str; 2]) -> Option<f64> {
    // A letter may have several tokens ("A" and " A"); their probabilities add up.
    let mass = |choice: &str| -> f64 {
        alternatives(token).filter(|(text, _)| is(text, choice)).map(|(_, lp)| f64::from(lp).exp()).sum()
    };
    let (first, second) = (mass(choices[0]), mass(choices[1]));
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
        close(read(&[("I", 0.5), ("B", 0.5)]), 0.0);
        close(read(&[("I", 0.5), ("A", 0.1)]), 1.0);
        assert_eq!(read(&[("I", 0.5), ("a", 0.5)]), None);
        assert_eq!(forced(&completion(vec![]), &ab()), None);
    }

    #[test]
    fn letters_with_the_expected_space_come_first_and_others_in_their_absence() {
        let spaced: [String; 2] = [" A".into(), " B".into()];
        let read = |top: &[(&str, f64)]| forced(&completion(vec![token(top[0].0, top)]), &spaced);
        // 0.3 against 0.1: the letters without a space are other tokens.
        close(read(&[(" A", 0.3), ("B", 0.3), ("A", 0.2), (" B", 0.1)]), 0.75);
        // Without " B", all tokens of a letter count: 0.3 + 0.3 against 0.2.
        close(read(&[("A", 0.3), (" A", 0.3), ("B", 0.2)]), 0.75);
        close(read(&[("A", 0.3), ("B", 0.1)]), 0.75);
        // Probabilities too small for a sum.
        let tiny = |first: f32, second: f32| TokenLogprob {
            text: " A".into(),
            logprob: first,
            top: vec![(" A".into(), first), (" B".into(), second)],
        };
        close(forced(&completion(vec![tiny(-800.0, -800.0)]), &spaced), 0.5);
        close(forced(&completion(vec![tiny(-900.0, -2000.0)]), &spaced), 1.0);
    }

    #[test]
    fn answers_in_any_case_add_up() {
        let texts: [String; 2] = [" no".into(), " yes".into()];
        let read = |top: &[(&str, f64)]| in_any_case(&completion(vec![token(top[0].0, top)]), &texts);
        close(read(&[("No", 0.6), ("yes", 0.2)]), 0.75);
        // 0.3 + 0.2 + 0.1 against 0.2; "not" is another word.
        close(read(&[("No", 0.3), (" no", 0.2), ("NO", 0.1), (" Yes", 0.2), ("not", 0.2)]), 0.75);
        close(read(&[("Maybe", 0.9), ("No", 0.1)]), 1.0);
        assert_eq!(read(&[("Maybe", 1.0)]), None);
        assert_eq!(in_any_case(&completion(vec![]), &texts), None);
        let tiny = [("no".to_owned(), -800.0_f32), ("yes".to_owned(), -800.0)];
        let tiny = TokenLogprob { text: "no".into(), logprob: -800.0, top: tiny.into() };
        close(in_any_case(&completion(vec![tiny]), &texts), 0.5);
    }

    #[test]
    fn the_confidence_of_a_sampled_answer_follows_the_published_rule() {
        let of = |tokens: &[(&str, f64)]| {
            let tokens = tokens.iter().map(|&(text, p)| token(text, &[(text, p)])).collect();
            let answer = completion(tokens);
            [0, 1].map(|right| sampled(&answer, &ab(), right))
        };
        let both = |tokens: &[(&str, f64)], a: f64, b: f64| {
            let [got_a, got_b] = of(tokens);
            close(got_a, a);
            close(got_b, b);
        };
        // One letter: its probability if it is right, else 1 − it.
        both(&[("{\"", 0.9), ("Item", 0.9), (" A", 0.7), ("\"}", 0.9)], 0.7, 0.3);
        both(&[("B", 0.6)], 0.4, 0.6);
        // White space around the letter and the markers of byte-level tokenizers are removed; other characters are not.
        both(&[("ĠA", 0.8)], 0.8, 0.2);
        both(&[("ĊĠB ", 0.8)], 0.2, 0.8);
        both(&[("\t\nA\u{a0}", 0.8)], 0.8, 0.2);
        assert_eq!(of(&[("A\"", 0.8), ("a", 0.8), ("AB", 0.8), ("A B", 0.8)]), [None, None]);
        // The last of each letter counts, and both letters in one answer pay in both orders.
        both(&[("A", 0.9), (" or", 0.5), (" B", 0.6), (" A", 0.7)], 0.7, 0.6);
        // A probability of exactly 0 is as if the letter had not been generated, also after an earlier one.
        assert_eq!(of(&[("A", 0.0)]), [None, None]);
        both(&[("A", 0.9), ("A", 0.0), ("B", 0.6)], 0.4, 0.6);
        // A wrong letter that is certain is an answer, which is worth 0.
        both(&[("A", 1.0)], 1.0, 0.0);
        assert_eq!(of(&[]), [None, None]);
    }

    #[test]
    fn the_selection_of_a_sampled_answer_is_its_last_letter() {
        let of = |tokens: &[(&str, f64)]| {
            let tokens = tokens.iter().map(|&(text, p)| token(text, &[(text, p)])).collect();
            last_generated(&completion(tokens), &ab())
        };
        assert_eq!(of(&[("A", 0.9), (" or", 0.5), ("ĠB", 0.1), ("\"}", 0.9)]), Some(1));
        assert_eq!(of(&[("B", 0.1), ("A", 0.0)]), Some(1));
        assert_eq!(of(&[("a", 0.9)]), None);
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
