//! Cuts histories that exceed a model's prompt limit.

use chat::{HistoryItems, Message};

/// The maximum prompt length of a model.
#[derive(Clone, Copy)]
pub struct PromptLimit<'a> {
    /// The maximum number of tokens of a prompt; leave room for the response.
    pub tokens: usize,
    /// A function that returns the length of a conversation in tokens, chat template included.
    pub count: &'a dyn Fn(&[Message]) -> usize,
}

/// The part of a history that fits, and the prompt built from it.
pub(crate) struct Fitted<'h> {
    pub kept: HistoryItems<'h>,
    pub messages: Vec<Message>,
}

/// Keeps the later half (⌊n/2⌋, as published) until the prompt fits. Returns `None` if not even a single interaction or message
/// fits.
pub(crate) fn fit<'h, E>(
    history: HistoryItems<'h>,
    limit: Option<PromptLimit<'_>>,
    prompt: impl Fn(HistoryItems<'h>) -> Result<Vec<Message>, E>,
) -> Result<Option<Fitted<'h>>, E> {
    let mut kept = history;
    loop {
        let messages = prompt(kept)?;
        if limit.is_none_or(|l| (l.count)(&messages) <= l.tokens) {
            return Ok(Some(Fitted { kept, messages }));
        }
        if kept.len() <= 1 {
            return Ok(None);
        }
        kept = kept.latest(kept.len() / 2);
    }
}

#[cfg(test)]
mod tests {
    use chat::Interaction;

    use super::*;

    #[test]
    fn the_later_half_is_kept_until_it_fits() {
        let history: Vec<_> = (0..9).map(|i| Interaction { chosen: i.to_string(), ..Interaction::default() }).collect();
        halved(HistoryItems::from(&history));
        let messages: Vec<_> = (0..9).map(|i| Message::user(i.to_string())).collect();
        halved(HistoryItems::from(&messages));
    }

    fn halved(history: HistoryItems<'_>) {
        let prompt = |h: HistoryItems<'_>| -> Result<_, ()> { Ok(vec![Message::user(h.texts().collect::<String>())]) };
        let count = |m: &[Message]| m[0].content.len();
        let left = |tokens| {
            let fitted = fit(history, Some(PromptLimit { tokens, count: &count }), prompt).unwrap()?;
            assert_eq!(fitted.kept.len(), fitted.messages[0].content.len());
            Some(fitted.messages[0].content.clone())
        };
        assert_eq!(left(9).as_deref(), Some("012345678"));
        assert_eq!(left(8).as_deref(), Some("5678"));
        assert_eq!(left(3).as_deref(), Some("78"));
        assert_eq!(left(1).as_deref(), Some("8"));
        assert_eq!(left(0), None);
        assert_eq!(fit(history, None, prompt).unwrap().unwrap().kept.len(), 9);
    }
}
