//! Incremental detokenization.

use tokenizers::{
    DecodeStream, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
};

use crate::tokenizer::{Tokenizer, TokenizerError};

type Stream<'a> =
    DecodeStream<'a, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// A decoder that converts tokens to text one by one. Incomplete characters are buffered.
pub struct TextStream<'a> {
    stream: Stream<'a>,
    tokenizer: &'a Tokenizer,
    /// Tokens whose text is buffered.
    held: Vec<u32>,
}

impl std::fmt::Debug for TextStream<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TextStream")
    }
}

impl<'a> TextStream<'a> {
    /// Creates a stream at the beginning of a sequence; special tokens are skipped.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { stream: tokenizer.library().decode_stream(true), tokenizer, held: Vec::new() }
    }

    /// Adds a token and returns the text that it completes: often a word, sometimes nothing.
    ///
    /// # Errors
    /// [`TokenizerError::Library`].
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        let piece = self.stream.step(id).map_err(|e| TokenizerError::Library(e.to_string()))?.unwrap_or_default();
        if piece.is_empty() {
            self.held.push(id);
        } else {
            self.held.clear();
        }
        Ok(piece)
    }

    /// Returns the buffered text after the last token: usually nothing, otherwise an incomplete character (shown as �).
    ///
    /// # Errors
    /// [`TokenizerError::Library`].
    pub fn rest(&mut self) -> Result<String, TokenizerError> {
        self.tokenizer.decode(&std::mem::take(&mut self.held))
    }
}

/// A detector of stop strings in a sequence, including strings that span several tokens.
#[derive(Debug)]
pub struct StopText<'a> {
    text: TextStream<'a>,
    stops: &'a [String],
    /// The end of the text so far, in which a stop string may have begun.
    tail: String,
}

impl<'a> StopText<'a> {
    /// Creates a detector of the strings in `stops`.
    pub fn new(tokenizer: &'a Tokenizer, stops: &'a [String]) -> Self {
        Self { text: TextStream::new(tokenizer), stops, tail: String::new() }
    }

    /// Adds a token and returns whether a stop string has appeared.
    pub fn push(&mut self, id: u32) -> bool {
        if self.stops.is_empty() {
            return false;
        }
        // A token that does not decode has no text that could contain a stop string.
        self.tail.push_str(&self.text.push(id).unwrap_or_default());
        let seen = self.stops.iter().any(|stop| self.tail.contains(stop.as_str()));
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let mut keep = self.tail.len().saturating_sub(longest);
        while !self.tail.is_char_boundary(keep) {
            keep -= 1;
        }
        self.tail.drain(..keep);
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        let text = "likes warm stories about space and avoids long dry reports about finance ".repeat(20);
        Tokenizer::train([text.as_str()].into_iter(), 400).unwrap()
    }

    #[test]
    fn pieces_are_the_text_and_whole_characters() {
        let t = tokenizer();
        let text = "likes space, 日本語 naïve ☕ finance";
        let ids = t.encode(text).unwrap();
        let mut stream = TextStream::new(&t);
        let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        assert_eq!(pieces.concat(), text);
        assert!(pieces.iter().any(String::is_empty), "characters of several tokens come at once");
    }

    #[test]
    fn a_character_that_was_cut_off_comes_at_the_end() {
        let t = tokenizer();
        let ids = t.encode("space ☕").unwrap();
        let cut = &ids[..ids.len() - 1];
        let mut stream = TextStream::new(&t);
        let text: String = cut.iter().map(|&id| stream.push(id).unwrap()).collect();
        assert_eq!(text.trim_end(), "space");
        assert_eq!(text + &stream.rest().unwrap(), t.decode(cut).unwrap());
        assert_eq!(stream.rest().unwrap(), "");
    }

    #[test]
    fn a_stop_string_is_seen_across_tokens_and_only_when_whole() {
        let t = tokenizer();
        let ids = t.encode("likes space and avoids finance").unwrap();
        let stops = ["ace and av".to_owned(), "never".to_owned()];
        let mut watch = StopText::new(&t, &stops);
        let at = ids.iter().position(|&id| watch.push(id)).unwrap();
        let before = t.decode(&ids[..=at]).unwrap();
        assert!(before.contains("ace and av"), "{before}");
        assert!(!t.decode(&ids[..at]).unwrap().contains("ace and av"));
        let mut blind = StopText::new(&t, &[]);
        assert!(!ids.iter().any(|&id| blind.push(id)));
    }
}
