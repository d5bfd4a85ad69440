//! The tokens of the scorer's texts.

use std::ops::Range;

use chat::History;
use chat::tokenizer::{Tokenizer, TokenizerError};

use super::text::{ChoicesText, choices_text};
use super::{ScorerSettings, first_kept};

/// Tokens with the indices of the letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScorerTokens {
    /// The token ids, up to and including the last letter.
    pub ids: Vec<u32>,
    /// The indices of the letters' tokens, ascending; at least 1.
    pub indices: Vec<usize>,
}

/// A text within the maximum length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FittedText {
    pub text: String,
    pub tokens: ScorerTokens,
    /// The positions in the history of the choices whose letters `tokens.indices` names.
    pub positions: Vec<usize>,
}

impl ScorerTokens {
    /// Tokenizes a text.
    ///
    /// # Errors
    /// Returns [`TokenizerError`] if the tokenizer fails.
    pub fn new(shown: &ChoicesText, tokenizer: &Tokenizer) -> Result<Self, TokenizerError> {
        let (ids, offsets) = tokenizer.encode_with_offsets(&shown.text)?;
        Ok(Self::of(shown, ids, &offsets))
    }

    fn of(shown: &ChoicesText, mut ids: Vec<u32>, offsets: &[Range<usize>]) -> Self {
        let indices: Vec<usize> = shown.letters.iter().map(|&(letter, _)| token_of(offsets, letter)).collect();
        ids.truncate(indices.last().map_or(0, |last| last + 1));
        Self { ids, indices }
    }
}

/// Returns the index of the token that holds a byte.
fn token_of(offsets: &[Range<usize>], byte: usize) -> usize {
    offsets.partition_point(|token| token.end <= byte)
}

/// Tokenizes the last interactions of a user, without the oldest of them if the text is longer than `settings.max_length` tokens.
/// Returns `None` if no choice between two items remains.
pub(super) fn fitted(
    history: &History,
    settings: ScorerSettings,
    tokenizer: &Tokenizer,
) -> Result<Option<FittedText>, TokenizerError> {
    let mut from = first_kept(history, settings);
    loop {
        let shown = choices_text(&history.uid, &history.interactions, from, settings.seed);
        if shown.letters.is_empty() {
            return Ok(None);
        }
        let (ids, offsets) = tokenizer.encode_with_offsets(&shown.text)?;
        let excess = ids.len().saturating_sub(settings.max_length);
        if excess == 0 {
            let tokens = ScorerTokens::of(&shown, ids, &offsets);
            let positions = shown.letters.iter().map(|&(_, position)| position).collect();
            return Ok(Some(FittedText { text: shown.text, tokens, positions }));
        }
        // The oldest interactions that hold the excess are left out; merges at the new beginning may need another round.
        let begins: Vec<usize> = shown.begins.iter().map(|&byte| token_of(&offsets, byte)).collect();
        let dropped = begins.iter().skip(1).position(|&begin| begin - begins[0] >= excess);
        match dropped {
            Some(index) => from += index + 1,
            None if begins.len() > 1 => from += begins.len() - 1,
            None => return Ok(None),
        }
    }
}
