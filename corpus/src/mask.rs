//! The tokens of a row, and which of them are trained.

use std::fmt;
use std::ops::Range;

use chat::chat_template::Marked;
use chat::tokenizer::{TokenizedRow, Tokenizer, TokenizerError};
use chat::{Message, Role};
use configs::sft::LossOn;

use crate::Row;

/// Tokens with a loss mask. Each trained token is predicted from the tokens before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaskedSequence {
    /// The token ids.
    pub ids: Vec<u32>,
    /// The loss mask: whether each token is trained. Never true for the first token, which nothing predicts.
    pub trained: Vec<bool>,
}

impl MaskedSequence {
    /// Returns the number of trained tokens.
    pub fn trained_tokens(&self) -> usize {
        self.trained.iter().filter(|&&t| t).count()
    }
}

/// The reason why a row cannot be trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The sequence is longer than `max_length`.
    TooLong {
        /// The number of tokens.
        length: usize,
        /// The maximum number of tokens.
        max_length: usize,
    },
    /// The row has no trained token.
    NoTrainedToken,
    /// Truncation to `max_length` leaves no trained token.
    CutAway {
        /// The number of tokens before truncation.
        length: usize,
        /// The maximum number of tokens.
        max_length: usize,
    },
    /// The tokens of the prompt are not a prefix of the tokens of prompt and completion.
    PromptNoPrefix,
    /// The chat template changes earlier turns when it renders later ones.
    TurnsRewritten,
    /// An index does not name a trainable token.
    BadIndex {
        /// The index.
        index: usize,
        /// The number of tokens of the text.
        length: usize,
    },
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let else_skip = "or skip such rows with data.unusable = \"skip\"";
        match *self {
            Self::TooLong { length, max_length } => write!(
                f,
                "has {length} tokens, more than data.max_length = {max_length}; raise it, or truncate or \
                 skip such rows with data.truncation"
            ),
            Self::NoTrainedToken => write!(
                f,
                "has no token to train on: data.loss_on = \"completion\" requires a conversation that ends with an \
                 assistant message, \"assistant\" requires at least one; fix the row, {else_skip}"
            ),
            Self::CutAway { length, max_length } => write!(
                f,
                "has {length} tokens, of which data.max_length = {max_length} leaves none to train on; raise it, set \
                 data.truncation, {else_skip}"
            ),
            Self::PromptNoPrefix => write!(f, "{}; fix the row, {else_skip}", TokenizerError::NoPrefix),
            Self::TurnsRewritten => write!(
                f,
                "the chat template changes earlier turns when it renders later ones (Qwen3's drops the reasoning of \
                 earlier turns), so the assistant's tokens cannot be located; use a template with \
                 {{% generation %}} blocks, set data.loss_on = \"completion\", {else_skip}"
            ),
            Self::BadIndex { index, length } => write!(
                f,
                "field `indices` has {index}, but its text has {length} tokens; expected 1 to {} (token 0 is \
                 never predicted); fix the row, {else_skip}",
                length.saturating_sub(1)
            ),
        }
    }
}

/// The reason why a row has no sequence.
#[derive(Debug)]
pub enum MaskError {
    /// The row cannot be trained on.
    Unfit(Unfit),
    /// The tokenizer or the chat template failed.
    Tokenizer(TokenizerError),
}

impl From<TokenizerError> for MaskError {
    fn from(error: TokenizerError) -> Self {
        match error {
            TokenizerError::NoPrefix => Self::Unfit(Unfit::PromptNoPrefix),
            other => Self::Tokenizer(other),
        }
    }
}

/// Tokenizes a whole row. Token 0 may be marked as trained here; the truncation step clears that mark.
///
/// # Errors
/// Returns [`MaskError`] for a row without trained tokens, or without a clear boundary of what is trained.
pub fn sequence(row: &Row, loss_on: LossOn, tokenizer: &Tokenizer) -> Result<MaskedSequence, MaskError> {
    match row {
        Row::Marked { text, indices } => marked(tokenizer.encode(text)?, indices),
        Row::Text { text } => match loss_on {
            LossOn::Assistant => Err(MaskError::Unfit(Unfit::NoTrainedToken)),
            _ => Ok(all(tokenizer.encode_text(&ended(text, tokenizer))?)),
        },
        Row::Continued { prompt, completion } => {
            let whole = format!("{prompt}{}", ended(completion, tokenizer));
            match loss_on {
                LossOn::Completion => Ok(behind(tokenizer.encode_text_after(prompt, &whole)?)),
                LossOn::Assistant => Err(MaskError::Unfit(Unfit::NoTrainedToken)),
                LossOn::All => Ok(all(tokenizer.encode_text(&whole)?)),
            }
        }
        Row::Turns { prompt, completion } => {
            let whole: Vec<Message> = prompt.iter().chain(completion).cloned().collect();
            conversation(&whole, prompt.len(), loss_on, tokenizer)
        }
        Row::Conversation { messages } => {
            let answered = messages.last().is_some_and(|m| m.role == Role::Assistant);
            if loss_on == LossOn::Completion && !answered {
                return Err(MaskError::Unfit(Unfit::NoTrainedToken));
            }
            conversation(messages, messages.len() - usize::from(answered), loss_on, tokenizer)
        }
    }
}

/// Tokenizes a conversation whose first `prompt` messages come before the completion.
fn conversation(
    messages: &[Message],
    prompt: usize,
    loss_on: LossOn,
    tokenizer: &Tokenizer,
) -> Result<MaskedSequence, MaskError> {
    let render = |part: &[Message], open| tokenizer.template().render(part, open, None).map_err(TokenizerError::from);
    match loss_on {
        LossOn::Completion => {
            Ok(behind(tokenizer.encode_after(&render(&messages[..prompt], true)?, &render(messages, false)?)?))
        }
        LossOn::All => Ok(all(tokenizer.encode(&render(messages, false)?)?)),
        LossOn::Assistant => {
            let marked = match tokenizer.template().render_marked(messages).map_err(TokenizerError::from)? {
                Some(marked) => marked,
                None => turns(messages, tokenizer)?,
            };
            within(&marked.text, &marked.turns, tokenizer)
        }
    }
}

/// Renders a conversation and locates the assistant's turns by rendering its prefixes. A turn spans from the end of the
/// messages before it, rendered with the turn opened, to the end of these messages rendered with the turn.
fn turns(messages: &[Message], tokenizer: &Tokenizer) -> Result<Marked, MaskError> {
    let template = tokenizer.template();
    let whole = template.render(messages, false, None).map_err(TokenizerError::from)?;
    let until = |part: &[Message], open| {
        let beginning = template.render(part, open, None).ok().filter(|text| whole.starts_with(text));
        beginning.map(|text| text.len()).ok_or(MaskError::Unfit(Unfit::TurnsRewritten))
    };
    let mut turns = Vec::new();
    for (i, _) in messages.iter().enumerate().filter(|(_, m)| m.role == Role::Assistant) {
        turns.push(until(&messages[..i], true)?..until(&messages[..=i], false)?);
    }
    Ok(Marked { text: whole, turns })
}

/// Marks as trained every token that has a byte inside a range. This matches transformers, which takes all tokens from
/// the first to the last of them.
fn within(text: &str, ranges: &[Range<usize>], tokenizer: &Tokenizer) -> Result<MaskedSequence, MaskError> {
    let (ids, offsets) = tokenizer.encode_with_offsets(text)?;
    let mut trained = vec![false; ids.len()];
    for range in ranges {
        let begin = offsets.partition_point(|token| token.end <= range.start);
        let inside = offsets[begin..].iter().take_while(|token| token.start < range.end && !range.is_empty()).count();
        trained[begin..begin + inside].fill(true);
    }
    Ok(MaskedSequence { ids, trained })
}

fn marked(ids: Vec<u32>, indices: &[usize]) -> Result<MaskedSequence, MaskError> {
    let mut trained = vec![false; ids.len()];
    for &index in indices {
        if index == 0 || index >= ids.len() {
            return Err(MaskError::Unfit(Unfit::BadIndex { index, length: ids.len() }));
        }
        trained[index] = true;
    }
    Ok(MaskedSequence { ids, trained })
}

fn all(ids: Vec<u32>) -> MaskedSequence {
    MaskedSequence { trained: vec![true; ids.len()], ids }
}

fn behind(row: TokenizedRow) -> MaskedSequence {
    let mut sequence = all(row.ids);
    sequence.trained[..row.prompt_len].fill(false);
    sequence
}

/// Appends the end-of-sequence token to the text unless it is already there, as TRL does.
fn ended(text: &str, tokenizer: &Tokenizer) -> String {
    let eos = tokenizer.eos_token().filter(|eos| !text.ends_with(eos.as_str())).unwrap_or_default();
    format!("{text}{eos}")
}
