use std::cell::RefCell;
use std::collections::HashSet;

use chat::{Interaction, Message};
use tolerance::assert_within;

use super::*;

fn interaction(chosen: &str, rejected: Option<&str>) -> Interaction {
    Interaction { chosen: chosen.into(), rejected: rejected.map(Into::into), ..Interaction::default() }
}

/// Twelve choices, the fourth of which has no second item.
fn history() -> History {
    let items = ["a witty note", "a dry note", "a long A list", "a short B list"];
    let choice = |i: usize| interaction(items[i % 4], (i != 3).then_some(items[(i + 1) % 4]));
    History { uid: "u1".into(), interactions: (0..12).map(choice).collect(), ..History::default() }
}

fn settings() -> ScorerSettings {
    ScorerSettings { seed: 7, max_interactions: 0, max_length: 10_000 }
}

fn tokenizer() -> Tokenizer {
    let text = training_text(&history(), settings());
    Tokenizer::train(std::iter::once(text.as_str()), 400).unwrap()
}

#[test]
fn the_letters_are_those_of_the_chosen_items_and_both_occur() {
    let shown = choices_text("u1", &history().interactions, 0, 7);
    assert_eq!((shown.begins.len(), shown.letters.len()), (12, 11));
    for &(byte, position) in &shown.letters {
        let letter = &shown.text[byte..=byte];
        let end = shown.begins.get(position + 1).copied().unwrap_or(shown.text.len());
        let block = &shown.text[shown.begins[position]..end];
        let chosen = &history().interactions[position].chosen;
        assert!(block.contains(&format!("<option_{letter}>{chosen}</option_{letter}>")), "{block}");
        assert!(block.ends_with(&format!("<preference> {letter} </preference>|SEP|")), "{block}");
    }
    let letters: HashSet<&str> = shown.letters.iter().map(|&(byte, _)| &shown.text[byte..=byte]).collect();
    assert_eq!(letters.len(), 2);
    assert!(shown.text.contains("<prompt></prompt><option>a short B list</option>|SEP|"));
}

#[test]
fn a_choice_has_the_same_letter_in_every_text() {
    let interactions = history().interactions;
    let whole = choices_text("u1", &interactions, 0, 7);
    let later = choices_text("u1", &interactions, 5, 7);
    assert_eq!(later.letters.len(), 7);
    assert!(whole.text.ends_with(&later.text[later.begins[0]..]));
    assert_ne!(choices_text("u2", &interactions, 0, 7).text, whole.text);
    assert_ne!(choices_text("u1", &interactions, 0, 8).text, whole.text);
}

#[test]
fn the_indices_name_the_tokens_of_the_letters() {
    let tokenizer = tokenizer();
    let row = training_row(&history(), settings(), &tokenizer).unwrap().unwrap();
    assert_eq!((row.indices.len(), row.defect()), (11, None));
    // What the trainer computes from a row of text and indices.
    let ids = tokenizer.encode(&row.text).unwrap();
    let shown = choices_text("u1", &history().interactions, 0, 7);
    for (&index, &(byte, _)) in row.indices.iter().zip(&shown.letters) {
        assert_eq!(tokenizer.decode(&ids[index..=index]).unwrap().trim(), &shown.text[byte..=byte]);
        assert_eq!(tokenizer.decode(&ids[..=index]).unwrap(), &shown.text[..=byte]);
    }
}

#[test]
fn a_long_history_loses_its_oldest_interactions() {
    let tokenizer = tokenizer();
    let length = |row: &ScorerRow| tokenizer.encode(&row.text).unwrap().len();
    let whole = training_row(&history(), settings(), &tokenizer).unwrap().unwrap();
    for max_length in [length(&whole) - 1, length(&whole) / 2, length(&whole) / 3] {
        let settings = ScorerSettings { max_length, ..settings() };
        let row = training_row(&history(), settings, &tokenizer).unwrap().unwrap();
        assert!(length(&row) <= max_length && row.indices.len() < whole.indices.len());
        let kept = &row.text[row.text.find("<prompt>").unwrap()..];
        assert!(whole.text.ends_with(kept));
        // One more interaction would not have fit.
        let before = whole.text[..whole.text.len() - kept.len()].rfind("<prompt>").unwrap();
        let opening = &whole.text[..whole.text.find("<prompt>").unwrap()];
        let longer = format!("{opening}{}", &whole.text[before..]);
        assert!(tokenizer.encode(&longer).unwrap().len() > max_length);
    }
    let none = ScorerSettings { max_length: 5, ..settings() };
    assert_eq!(training_row(&history(), none, &tokenizer).unwrap(), None);
    let last = ScorerSettings { max_interactions: 3, ..settings() };
    assert_eq!(training_row(&history(), last, &tokenizer).unwrap().unwrap().indices.len(), 3);
}

#[test]
fn the_signal_is_what_the_history_so_far_is_worth() {
    let tokenizer = tokenizer();
    let asked = RefCell::new(Vec::new());
    // A scorer that is surer the more it has read.
    let logprobs = |texts: &[ScorerTokens]| {
        asked.borrow_mut().extend(texts.iter().map(|tokens| (tokens.ids.len(), tokens.indices.clone())));
        let of = |tokens: &ScorerTokens| (1..=tokens.indices.len()).map(|n| -1.0 / n as f64).collect::<Vec<f64>>();
        Ok(texts.iter().map(of).collect())
    };
    let scored = score(vec![history()], settings(), &tokenizer, &logprobs).unwrap().remove(0);
    assert_eq!((scored.defect(), scored.interactions == history().interactions), (None, true));
    let signals: Vec<Option<f64>> = scored.signals.iter().map(|r| r.map(|r| r.signal)).collect();
    assert_eq!((signals[0], signals[3]), (Some(0.0), None));
    assert_within!(signals[1].unwrap() - 0.5, 1e-12);
    // The tenth letter is that of the eleventh choice, because the fourth has none.
    assert_within!(signals[10].unwrap() - (1.0 - 0.1), 1e-12);
    for (length, indices) in asked.borrow().iter() {
        assert_eq!(indices.last(), Some(&(length - 1)), "nothing after the last letter is read");
    }
    assert_eq!(asked.borrow().len(), 12);

    let last = ScorerSettings { max_interactions: 4, ..settings() };
    let scored = score(vec![history()], last, &tokenizer, &logprobs).unwrap().remove(0);
    assert_eq!(scored.interactions, history().interactions[8..]);
    assert_eq!(scored.signals.iter().flatten().count(), 4);
}

#[test]
fn messages_and_short_answers_are_told_apart() {
    let tokenizer = tokenizer();
    let messages = History {
        uid: "m".into(),
        messages: vec![Message::user("hello")],
        targets: history().interactions[..2].to_vec(),
        ..History::default()
    };
    let one_each = |texts: &[ScorerTokens]| Ok(texts.iter().map(|_| vec![-0.5]).collect());
    let scored = score(vec![messages], settings(), &tokenizer, &one_each).unwrap().remove(0);
    assert_eq!((scored.defect(), scored.target_signals), (None, vec![None, None]));
    let error = score(vec![history()], settings(), &tokenizer, &one_each).unwrap_err().to_string();
    assert!(error.contains("12 log-probabilities for 22 letters"), "{error}");
    let gone = |_: &[ScorerTokens]| Err("gone".to_owned());
    let error = score(vec![history()], settings(), &tokenizer, &gone).unwrap_err().to_string();
    assert!(error.contains("the scorer failed: gone"), "{error}");
}
