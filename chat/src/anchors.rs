//! Added tokens at which a text may be split before it is tokenized.

use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, Tokenizer as Inner};

/// Maximum distance in bytes between the prompt's end and the added token to search for. The text that opens a turn in a template
/// is shorter.
const NEAR: usize = 256;

/// Added tokens at which a text may be split, with their ids. Empty for tokenizers that do not process the parts independently.
#[derive(Debug, Clone, Default)]
pub(crate) struct Anchors(pub(crate) Vec<(String, u32)>);

impl Anchors {
    /// Returns the added tokens of `inner` that no other added token contains. A token that contains one could replace it in a
    /// longer text.
    pub(crate) fn of(inner: &Inner) -> Self {
        let added = inner.get_added_tokens_decoder();
        let reaches_out = added.values().any(|t| t.lstrip || t.rstrip || t.single_word);
        if reaches_out || !part_by_part(inner) {
            return Self::default();
        }
        let raw: Vec<_> = added.iter().filter(|(_, t)| !t.normalized && !t.content.is_empty()).collect();
        let alone = |text: &str| raw.iter().filter(|(_, t)| t.content.contains(text)).count() == 1;
        Self(raw.iter().filter(|(_, t)| alone(&t.content)).map(|(id, t)| (t.content.clone(), **id)).collect())
    }

    /// Returns the end and the id of the last anchor in `text`, if it is near the end of the text.
    pub(crate) fn last(&self, text: &str) -> Option<(usize, u32)> {
        let ends = (text.len().saturating_sub(NEAR)..=text.len()).rev().filter(|&end| text.is_char_boundary(end));
        ends.into_iter().find_map(|end| {
            let found = self.0.iter().find(|(token, _)| text[..end].ends_with(token.as_str()));
            found.map(|(_, id)| (end, *id))
        })
    }
}

/// Returns whether the tokenizer normalizes and splits the parts between added tokens independently of each other and of their
/// position. Byte-level tokenizers do; tokenizers that mark the beginning of the text do not.
fn part_by_part(inner: &Inner) -> bool {
    let normalizer = matches!(inner.get_normalizer(), None | Some(NormalizerWrapper::NFC(_)));
    let splits = |p: &PreTokenizerWrapper| {
        matches!(p, PreTokenizerWrapper::ByteLevel(_) | PreTokenizerWrapper::Split(_) | PreTokenizerWrapper::Digits(_))
    };
    normalizer
        && match inner.get_pre_tokenizer() {
            Some(PreTokenizerWrapper::Sequence(steps)) => steps.as_ref().iter().all(splits),
            Some(one) => splits(one),
            None => false,
        }
}
