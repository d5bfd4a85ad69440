//! A history as the text that the scorer reads.

use chat::{Draw, Interaction};

/// What precedes the choices.
const OPENING: &str = "The choices of one user between two options, oldest first.\n";

/// The text of a user's choices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChoicesText {
    /// The text.
    pub text: String,
    /// The byte at which each interaction begins.
    pub begins: Vec<usize>,
    /// The byte of each letter, and the position of its choice in the history. Choices without a second item have none.
    pub letters: Vec<(usize, usize)>,
}

/// Returns the interactions from index `from` on as text. A seeded draw for each user and position decides which item is option A, so
/// a choice has the same letter in every text that shows it.
pub fn choices_text(uid: &str, interactions: &[Interaction], from: usize, seed: u64) -> ChoicesText {
    let mut shown = ChoicesText { text: OPENING.into(), ..ChoicesText::default() };
    for (position, interaction) in interactions.iter().enumerate().skip(from) {
        let Interaction { query, chosen, rejected, .. } = interaction;
        shown.begins.push(shown.text.len());
        shown.text += &format!("<prompt>{}</prompt>", query.as_deref().unwrap_or_default());
        let Some(rejected) = rejected else {
            shown.text += &format!("<option>{chosen}</option>|SEP|");
            continue;
        };
        let chosen_first = Draw::new(seed).text("scorer letter").text(uid).with(position as u64).below(2) == 0;
        let (a, b, letter) = if chosen_first { (chosen, rejected, 'A') } else { (rejected, chosen, 'B') };
        shown.text += &format!("<option_A>{a}</option_A><option_B>{b}</option_B><preference> ");
        shown.letters.push((shown.text.len(), position));
        shown.text.push(letter);
        shown.text += " </preference>|SEP|";
    }
    shown
}
