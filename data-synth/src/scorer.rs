//! The scorer: a language model that continues a user's choices by the letter of the chosen item.
//!
//! - [`text`]: a history as text, with the places of the letters;
//! - [`tokens`]: its tokens, with the indices of the letters' tokens, within a maximum length.
//!
//! The rows of its training have the published shape ([`ScorerRow`]): a text, and the indices of the tokens that the loss is computed
//! on. [`score`] scores each choice by the log-probability of its letter with the history so far and without it. The difference is
//! the signal. This definition is ours: the published code of `logprob2` and of the signal is not released.
//!
//! The tokenizer gives the place of a letter's token, so any tokenizer can be used: the published offset relies on the space before
//! a letter being merged into its token. The wording before the choices is ours; the tags are the published ones.

pub mod text;
pub mod tokens;

use chat::History;
use chat::records::{Checked, RowDefect, SignalRecord};
use chat::tokenizer::{Tokenizer, TokenizerError};
use serde::{Deserialize, Serialize};

use crate::signal::{ScoredHistory, latest};
use text::choices_text;
use tokens::{ScorerTokens, fitted};

/// A training row of the scorer in the published shape.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScorerRow {
    /// The choices of a user as text.
    pub text: String,
    /// The indices of the letters' tokens, starting at 0. Each is predicted from the tokens before it.
    pub indices: Vec<usize>,
}

impl Checked for ScorerRow {
    fn defect(&self) -> Option<RowDefect> {
        let message = "is empty; expected the index of at least one token to train on";
        self.indices.is_empty().then(|| RowDefect { field: "indices", message: message.into() })
    }
}

/// What the scorer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScorerSettings {
    /// The seed of the letters: which of the two items is option A.
    pub seed: u64,
    /// The number of last interactions of a user that are scored and kept; 0 keeps all.
    pub max_interactions: usize,
    /// The maximum length of a text in tokens. A longer text loses its oldest interactions.
    pub max_length: usize,
}

/// The scorer as a function: for each text, the log-probabilities of the tokens at its indices, each given the tokens before it.
pub type LetterLogprobs<'a> = &'a dyn Fn(&[ScorerTokens]) -> Result<Vec<Vec<f64>>, String>;

/// The error when histories cannot be scored.
#[derive(Debug, thiserror::Error)]
pub enum ScorerError {
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The scorer itself failed.
    #[error("the scorer failed: {0}")]
    Failed(String),
    /// The scorer did not return a log-probability for every letter.
    #[error("the scorer returned {found} log-probabilities for {expected} letters; expected one for each")]
    Letters {
        /// The number of log-probabilities received.
        found: usize,
        /// The number of letters.
        expected: usize,
    },
}

/// Returns the training row of a user; `None` if there is no choice between two items, or the last choice alone is longer than
/// `settings.max_length`.
///
/// # Errors
/// Returns [`TokenizerError`] if the text cannot be tokenized.
pub fn training_row(
    history: &History,
    settings: ScorerSettings,
    tokenizer: &Tokenizer,
) -> Result<Option<ScorerRow>, TokenizerError> {
    let fitted = fitted(history, settings, tokenizer)?;
    Ok(fitted.map(|fitted| ScorerRow { text: fitted.text, indices: fitted.tokens.indices }))
}

/// Returns the text of a user's last interactions, without a limit of its length, for the training of a tokenizer.
pub fn training_text(history: &History, settings: ScorerSettings) -> String {
    let from = first_kept(history, settings);
    choices_text(&history.uid, &history.interactions, from, settings.seed).text
}

/// Scores every choice between two items by its letter: `logprob1` with the history so far, `logprob2` with nothing before the
/// choice, and their difference, the signal. Histories lose all but their last `max_interactions` interactions. Choices that
/// `max_length` leaves no room for have no record, and neither have the targets of histories of messages.
///
/// # Errors
/// Returns [`ScorerError`] if the tokenizer or the scorer fails.
pub fn score(
    histories: Vec<History>,
    settings: ScorerSettings,
    tokenizer: &Tokenizer,
    logprobs: LetterLogprobs<'_>,
) -> Result<Vec<ScoredHistory>, ScorerError> {
    let mut asked = Vec::new();
    // For each user, the positions of the scored choices.
    let mut positions = Vec::with_capacity(histories.len());
    for history in &histories {
        let Some(whole) = fitted(history, settings, tokenizer)? else {
            positions.push(Vec::new());
            continue;
        };
        for &position in &whole.positions {
            let alone = choices_text(&history.uid, &history.interactions[..=position], position, settings.seed);
            asked.push(ScorerTokens::new(&alone, tokenizer)?);
        }
        asked.push(whole.tokens);
        positions.push(whole.positions);
    }
    let found = logprobs(&asked).map_err(ScorerError::Failed)?;
    let letters = |lists: &[usize]| lists.iter().sum::<usize>();
    let expected: Vec<usize> = asked.iter().map(|tokens| tokens.indices.len()).collect();
    let received: Vec<usize> = found.iter().map(Vec::len).collect();
    if expected != received {
        return Err(ScorerError::Letters { found: letters(&received), expected: letters(&expected) });
    }
    let mut found = found.into_iter();
    let scored = histories.into_iter().zip(positions).map(|(history, positions)| {
        let mut records = vec![None; history.interactions.len()];
        // The texts of single choices come first, and then that of the history.
        let alone: Vec<f64> = found.by_ref().take(positions.len()).flatten().collect();
        let whole = if positions.is_empty() { Vec::new() } else { found.next().unwrap_or_default() };
        for ((position, logprob1), logprob2) in positions.into_iter().zip(whole).zip(alone) {
            records[position] = Some(SignalRecord { logprob1, logprob2, signal: logprob1 - logprob2 });
        }
        let from = first_kept(&history, settings);
        match history.messages.is_empty() {
            true => ScoredHistory::new(latest(history, settings.max_interactions), records.split_off(from)),
            false => {
                let targets = history.targets.len();
                ScoredHistory::new(history, vec![None; targets])
            }
        }
    });
    Ok(scored.collect())
}

/// Returns the index of the first interaction that is kept.
fn first_kept(history: &History, settings: ScorerSettings) -> usize {
    match settings.max_interactions {
        0 => 0,
        most => history.interactions.len().saturating_sub(most),
    }
}

#[cfg(test)]
mod tests;
