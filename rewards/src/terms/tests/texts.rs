//! Terms that look at the text alone.

use serde_json::json;

use super::*;

#[test]
fn lengths_inside_a_band_score_1() {
    let words = |n: usize| format!("<think>t</think>{}", "word ".repeat(n));
    let texts: Vec<String> = [1, 2, 4, 6, 7, 9, 12].map(words).into();
    let mut responses: Vec<RewardResponse<'_>> = texts.iter().map(|text| said(text, Some(0.5))).collect();
    responses.extend([response(None, 10), empty(0.5)]);
    // From 4 to 6 words; half the slack of 4 words away from it, 0.5.
    let band = scores("length_band", json!({"min": 4, "max": 6, "slack": 4}), &responses);
    close(&band, &[0.25, 0.5, 1.0, 1.0, 0.75, 0.25, 0.0, 0.0, 0.0]);
    let hard = scores("length_band", json!({"min": 4, "max": 6}), &responses);
    close(&hard, &[0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    // "word word" has 9 characters after trimming.
    let characters = scores("length_band", json!({"min": 9, "max": 9, "unit": "characters"}), &responses);
    close(&characters, &[0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    // All responses have 10 tokens, the malformed one too.
    let tokens = scores("length_band", json!({"min": 0, "max": 10, "unit": "tokens"}), &responses);
    close(&tokens, &[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0]);
    assert!(refusal("length_band", json!({"min": 7, "max": 6})).contains("at most `max` (6)"));
    assert!(refusal("length_band", json!({"min": 7})).contains("max"));
}

#[test]
fn verbatim_text_of_the_items_is_copied() {
    let history = [item("Warm stories about space boats", "Dry reports"), item("The quiet harbour", "A loud night")];
    let with = |text, p| RewardResponse { history: &history, ..said(text, p) };
    let responses = [
        // Both 4-grams are in the first item, whatever the case and punctuation.
        with("<think>t</think>warm stories, about SPACE boats!", Some(0.5)),
        // likes-warm-stories-about, warm-stories-about-space: one of two.
        with("<think>t</think>Likes warm stories about space", Some(0.5)),
        with("<think>t</think>Likes fiction about other worlds", Some(0.5)),
        with("<think>t</think>warm stories about", Some(0.5)),
        with("warm stories about space boats", None),
        RewardResponse { history: &history, ..empty(0.5) },
    ];
    close(&scores("copying", json!({}), &responses), &[1.0, 0.5, 0.0, 0.0, 0.0, 0.0]);
    // Words: of the third, only "about" was read.
    let words = scores("copying", json!({"n": 1}), &responses);
    close(&words, &[1.0, 0.8, 0.2, 1.0, 0.0, 0.0]);
    assert!(refusal("copying", json!({"n": 0})).contains("nonzero"));
    // No n-gram spans two items, and the items of another group do not count.
    let other =
        RewardResponse { group: 1, history: &history[..1], ..said("<think>t</think>The quiet harbour", Some(0.5)) };
    let spanning = with("<think>t</think>boats dry reports the quiet", Some(0.5));
    close(&scores("copying", json!({"n": 3}), &[other, spanning]), &[0.0, 0.0]);
    let first = RewardResponse { group: 0, ..with("<think>t</think>The quiet harbour", Some(0.5)) };
    close(&scores("copying", json!({"n": 3}), &[first, other]), &[1.0, 0.0]);
    // What a prompt shows of a conversation counts alike.
    let messages = [chat::Message::user("Warm stories about space"), chat::Message::assistant("Try the quiet harbour")];
    let read = RewardResponse { messages: &messages, ..said("<think>t</think>likes stories about space", Some(0.5)) };
    close(&scores("copying", json!({"n": 3}), &[read]), &[0.5]);
    assert!(built("copying", json!({})).penalizes() && !built("judge", json!({})).penalizes());
}

#[test]
fn novelty_compares_the_summaries_of_a_group() {
    let of = |group, text, p| RewardResponse { group, ..said(text, p) };
    let responses = [
        of(0, "<think>t</think>Likes jazz and tea", Some(0.5)),
        of(0, "<think>t</think>likes JAZZ and tea!", Some(0.5)),
        of(0, "<think>t</think>Avoids rock and milk", Some(0.5)),
        of(0, "Likes jazz and tea", None),
        of(1, "<think>t</think>Likes jazz and tea", Some(0.5)),
    ];
    // Jaccard 1 between the first two; "and" is common with the third: 1 of 7. The malformed one is not compared with.
    let pair = 1.0 - (1.0 + 1.0 / 7.0) / 2.0;
    close(&scores("novelty", json!({}), &responses), &[pair, pair, 1.0 - 1.0 / 7.0, 0.0, 1.0]);
    close(&scores("novelty", json!({}), &[empty(0.5), empty(0.5)]), &[0.0, 0.0]);
}

#[test]
fn similarity_to_the_reference_is_rouge_l() {
    let with = |text, p, reference| RewardResponse { reference, ..said(text, p) };
    let reference = Some("The user likes warm stories");
    let responses = [
        with("<think>t</think>the user likes WARM stories.", Some(0.5), reference),
        // "user likes stories" in common: 2 · 3 / (4 + 5).
        with("<think>t</think>user likes dry stories", Some(0.5), reference),
        with("<think>t</think>avoids rock", Some(0.5), reference),
        with("<think>t</think>the user likes warm stories", Some(0.5), None),
        with("the user likes warm stories", None, reference),
        RewardResponse { reference, ..empty(0.5) },
    ];
    close(&scores("teacher_similarity", json!({}), &responses), &[1.0, 6.0 / 9.0, 0.0, 0.0, 0.0, 0.0]);
}
