//! Converts tokens to the text of a reply: stop strings, log-probabilities, and the JSON of choices and chunks.

use chat::FinishReason;
use chat::text_stream::TextStream;
use chat::tokenizer::Tokenizer;
use lm::engine::{Alternative, SampledToken};
use serde_json::{Value as Json, json};

/// The text of one sample as it is generated. Text that might be the start of a stop string is held back.
pub struct Spoken<'a> {
    stream: TextStream<'a>,
    tokenizer: &'a Tokenizer,
    stop: &'a [String],
    keep_stop: bool,
    logprobs: bool,
    held: String,
    /// The number of tokens, for the usage.
    pub tokens: usize,
    /// The finish reason, once the sample has ended.
    pub finish: Option<&'static str>,
}

/// The output that one token adds.
#[derive(Debug, Default, PartialEq)]
pub struct ReplyDelta {
    /// The text.
    pub text: String,
    /// OpenAI's log-probability entry for the token, if requested.
    pub logprob: Option<Json>,
}

impl<'a> Spoken<'a> {
    /// Creates an empty reply.
    pub fn new(tokenizer: &'a Tokenizer, stop: &'a [String], keep_stop: bool, logprobs: bool) -> Self {
        let stream = TextStream::new(tokenizer);
        Self { stream, tokenizer, stop, keep_stop, logprobs, held: String::new(), tokens: 0, finish: None }
    }

    /// Appends a token. `ends_turn` marks a token that ends the model's turn and has no text.
    pub fn push(&mut self, drawn: &SampledToken, ends_turn: bool) -> ReplyDelta {
        if self.finish.is_some() {
            return ReplyDelta::default();
        }
        self.tokens += 1;
        let mut piece = ReplyDelta::default();
        if !ends_turn {
            // A token that does not decode adds no text.
            self.held.push_str(&self.stream.push(drawn.id).unwrap_or_default());
            piece.logprob = self.logprobs.then(|| self.entry(drawn));
        }
        if drawn.finish.is_some() {
            self.held.push_str(&self.stream.rest().unwrap_or_default());
        }
        if let Some((begin, stop)) = self.first_stop() {
            self.held.truncate(begin + if self.keep_stop { stop } else { 0 });
            self.finish = Some("stop");
        } else if let Some(reason) = drawn.finish {
            self.finish = Some(if reason == FinishReason::Stop { "stop" } else { "length" });
        }
        let ready = if self.finish.is_some() { self.held.len() } else { self.held.len() - self.might_begin_a_stop() };
        piece.text = self.held.drain(..ready).collect();
        piece
    }

    /// Returns the start of the earliest stop string in the held text, and its length.
    fn first_stop(&self) -> Option<(usize, usize)> {
        self.stop.iter().filter_map(|stop| Some((self.held.find(stop.as_str())?, stop.len()))).min()
    }

    /// Returns the length of the longest suffix of the held text that is a prefix of a stop string.
    fn might_begin_a_stop(&self) -> usize {
        let longest = |stop: &String| {
            (1..stop.len()).rev().find(|&n| stop.is_char_boundary(n) && self.held.ends_with(&stop[..n])).unwrap_or(0)
        };
        self.stop.iter().map(longest).max().unwrap_or(0)
    }

    fn entry(&self, drawn: &SampledToken) -> Json {
        let one = |&(id, logprob): &Alternative| {
            let token = self.tokenizer.decode(&[id]).unwrap_or_default();
            json!({ "token": token, "logprob": logprob, "bytes": token.as_bytes() })
        };
        // The engine lists the sampled token first, then the most likely ones.
        let Some((first, likeliest)) = drawn.top.split_first() else { return Json::Null };
        let mut entry = one(first);
        entry["top_logprobs"] = likeliest.iter().map(one).collect();
        entry
    }
}

#[cfg(test)]
mod tests {
    use lm::engine::RequestId;

    use super::*;

    fn tokenizer() -> Tokenizer {
        Tokenizer::train(["likes warm stories about space"].into_iter().cycle().take(20), 300).unwrap()
    }

    fn say(text: &str, stop: &[&str], keep_stop: bool) -> (Vec<String>, Option<&'static str>) {
        let t = tokenizer();
        let stop: Vec<String> = stop.iter().map(|s| (*s).to_owned()).collect();
        let mut spoken = Spoken::new(&t, &stop, keep_stop, false);
        let pieces = t.encode(text).unwrap().into_iter().map(|id| {
            let drawn = SampledToken { request: RequestId(0), sample: 0, id, logprob: 0.0, top: vec![], finish: None };
            spoken.push(&drawn, false).text
        });
        (pieces.collect(), spoken.finish)
    }

    #[test]
    fn a_stop_string_is_left_out_or_kept_and_ends_the_text() {
        let text = "likes warm stories about space";
        assert_eq!(say(text, &[], false).0.concat(), text);
        let (pieces, finish) = say(text, &["stories ab", "space"], false);
        assert_eq!((pieces.concat().as_str(), finish), ("likes warm ", Some("stop")));
        assert_eq!(say(text, &["stories ab"], true).0.concat(), "likes warm stories ab");
    }

    #[test]
    fn what_might_begin_a_stop_string_waits() {
        let (pieces, finish) = say("aab aac x", &["aac"], false);
        assert_eq!((pieces.concat().as_str(), finish), ("aab ", Some("stop")));
        let (pieces, finish) = say("warm sto", &["stories"], false);
        assert_eq!((pieces.concat().as_str(), finish), ("warm ", None), "held back until more comes");
    }
}
