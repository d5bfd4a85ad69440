//! The boundary between a prompt and its continuation, in tokens.
//!
//! The rule is TRL's: the tokens of the prompt alone must be a prefix of the tokens of the whole text. A literal implementation
//! tokenizes the prompt twice. This is usually unnecessary: an added token, such as `<|im_start|>`, splits the text into parts that
//! common tokenizers process independently. The text up to the prompt's last added token is therefore tokenized once, and only the
//! few characters after it twice.

use crate::tokenizer::{TokenizedRow, Tokenizer, TokenizerError};

impl Tokenizer {
    /// Returns the token ids of `whole`, which starts with `prompt`, and the number of ids that belong to the prompt.
    ///
    /// # Errors
    /// [`TokenizerError::NoPrefix`] if the tokens of `prompt` are not a prefix of the tokens of `whole`.
    pub fn encode_after(&self, prompt: &str, whole: &str) -> Result<TokenizedRow, TokenizerError> {
        if whole.starts_with(prompt)
            && let Some((cut, anchor)) = self.anchors().last(prompt)
        {
            let mut ids = self.encode(&whole[..cut])?;
            // The anchor is a token of the whole text only if it is tokenized as one here.
            if ids.last() == Some(&anchor) {
                let (opening, rest) = (self.encode(&prompt[cut..])?, self.encode(&whole[cut..])?);
                let prompt_len = ids.len() + opening.len();
                ids.extend_from_slice(&rest);
                return if rest.starts_with(&opening) {
                    Ok(TokenizedRow { ids, prompt_len })
                } else {
                    Err(TokenizerError::NoPrefix)
                };
            }
        }
        prefixed(&self.encode(prompt)?, self.encode(whole)?)
    }

    /// Tokenizes texts without a chat template, otherwise like [`Self::encode_after`]. The tokenizer adds the tokens that it adds
    /// to plain text, such as a beginning-of-sequence token.
    ///
    /// # Errors
    /// Same as [`Self::encode_after`].
    pub fn encode_text_after(&self, prompt: &str, whole: &str) -> Result<TokenizedRow, TokenizerError> {
        prefixed(&self.encode_text(prompt)?, self.encode_text(whole)?)
    }
}

fn prefixed(prompt: &[u32], ids: Vec<u32>) -> Result<TokenizedRow, TokenizerError> {
    if !ids.starts_with(prompt) {
        return Err(TokenizerError::NoPrefix);
    }
    Ok(TokenizedRow { ids, prompt_len: prompt.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> Tokenizer {
        let text = "likes warm stories about space\n\nand avoids\n long dry reports ".repeat(20);
        Tokenizer::train([text.as_str()].into_iter(), 400).unwrap()
    }

    /// Applies the rule literally.
    fn twice(t: &Tokenizer, prompt: &str, whole: &str) -> Option<TokenizedRow> {
        prefixed(&t.encode(prompt).unwrap(), t.encode(whole).unwrap()).ok()
    }

    #[test]
    fn the_short_way_is_the_long_way() {
        let t = tiny();
        assert_eq!(t.anchors().0.len(), 3, "the special tokens; the reasoning tags are normalized");
        let prompts = [
            "",
            "space",
            "<|im_start|>user\nspace<|im_end|>\n<|im_start|>assistant\n",
            "<|im_start|>",
            "a <|im_start|>\n",
            "<|im_end|> warm <|im_start",
            "<|endoftext|><|im_start|>",
            "日<|im_end|>本<think>",
        ];
        let ends = ["", "likes", "\n\nlikes", " ", "|>", "<think>\nwarm</think>", "ies", "é", "<|im_end|>\n"];
        let mut borders = 0;
        for prompt in prompts {
            for end in ends {
                let whole = format!("{prompt}{end}");
                let expected = twice(&t, prompt, &whole);
                borders += usize::from(expected.is_some());
                assert_eq!(t.encode_after(prompt, &whole).ok(), expected, "{prompt:?} + {end:?}");
            }
        }
        assert!((20..prompts.len() * ends.len()).contains(&borders), "some have a border and some have none");
        assert_eq!(t.encode_after("x<|im_end|>", "y<|im_end|>").ok(), None, "another text is no beginning");
    }

    #[test]
    fn tokens_that_other_tokens_contain_are_no_place_to_cut() {
        let folder = tempfile::tempdir().unwrap();
        tiny().save(folder.path()).unwrap();
        let path = folder.path().join("tokenizer.json");
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let mut longer = json["added_tokens"][1].clone();
        longer["id"] = 405.into();
        longer["content"] = "<|im_start|>assistant".into();
        json["added_tokens"].as_array_mut().unwrap().push(longer);
        std::fs::write(&path, json.to_string()).unwrap();
        let t = Tokenizer::load(folder.path()).unwrap();
        assert_eq!(t.anchors().0.len(), 3);
        assert_eq!(t.encode_after("a<|im_start|>", "a<|im_start|>assistant").ok(), None);
        assert_eq!(twice(&t, "a<|im_start|>", "a<|im_start|>assistant"), None);
    }
}
