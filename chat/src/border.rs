//! The boundary between a prompt and its continuation, or between a prompt and two continuations, in tokens.
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
            && let Some((cut, mut ids)) = self.encode_to_anchor(prompt)?
        {
            let (opening, rest) = (self.encode(&prompt[cut..])?, self.encode(&whole[cut..])?);
            let prompt_len = ids.len() + opening.len();
            ids.extend_from_slice(&rest);
            return if rest.starts_with(&opening) {
                Ok(TokenizedRow { ids, prompt_len })
            } else {
                Err(TokenizerError::NoPrefix)
            };
        }
        prefixed(&self.encode(prompt)?, self.encode(whole)?)
    }

    /// Tokenizes `opening` with each of two continuations, and returns the token ids that both texts begin with, and the first
    /// token of each text after them. The texts are tokenized as a whole: `Item` continued by ` A` and ` B` differs in the tokens
    /// ` A` and ` B` of a byte-level tokenizer, and not in the letters after a space.
    ///
    /// # Errors
    /// [`TokenizerError::Alike`] if no token tells the texts apart.
    pub fn encode_choices(&self, opening: &str, choices: &[String; 2]) -> Result<(Vec<u32>, [u32; 2]), TokenizerError> {
        let (cut, mut shared) = self.encode_to_anchor(opening)?.unwrap_or_default();
        let encode = |choice: &str| self.encode(&format!("{}{choice}", &opening[cut..]));
        let (first, second) = (encode(&choices[0])?, encode(&choices[1])?);
        let common = first.iter().zip(&second).take_while(|(a, b)| a == b).count();
        shared.extend_from_slice(&first[..common]);
        match (first.get(common), second.get(common)) {
            // A token without any before it has no probability.
            (Some(&a), Some(&b)) if !shared.is_empty() => Ok((shared, [a, b])),
            _ => Err(TokenizerError::Alike(choices[0].clone(), choices[1].clone())),
        }
    }

    /// Returns the end of the last anchor near the end of `text`, and the token ids up to it; `None` if there is no such anchor.
    fn encode_to_anchor(&self, text: &str) -> Result<Option<(usize, Vec<u32>)>, TokenizerError> {
        let Some((cut, anchor)) = self.anchors().last(text) else { return Ok(None) };
        let ids = self.encode(&text[..cut])?;
        // The anchor is a token of the whole text only if it is tokenized as one here.
        Ok((ids.last() == Some(&anchor)).then_some((cut, ids)))
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
    fn two_continuations_differ_in_the_tokens_of_the_whole_texts() {
        let text = "answer A or B: Item A, Item B; Item A and B ".repeat(20);
        let t = Tokenizer::train([text.as_str()].into_iter(), 400).unwrap();
        let id = |text: &str| -> u32 {
            let ids = t.encode(text).unwrap();
            assert_eq!(ids.len(), 1, "{text:?}");
            ids[0]
        };
        let pair = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        let opened = "<|im_start|>assistant\n{\"selection\": \"Item";
        for opening in [opened, "Item", "no <|im_end|> token, Item"] {
            // The space belongs to the letter's token, so the shared tokens end before it.
            let (shared, next) = t.encode_choices(opening, &pair(" A", " B")).unwrap();
            assert_eq!((shared, next), (t.encode(opening).unwrap(), [id(" A"), id(" B")]));
            // It makes no difference on which side the space is given.
            let spaced = t.encode_choices(&format!("{opening} "), &pair("A", "B")).unwrap();
            assert_eq!(spaced, t.encode_choices(opening, &pair(" A", " B")).unwrap());
            assert!(t.encode(&format!("{opening} A")).unwrap().ends_with(&[id(" A")]));
        }
        // What the choices have in common is shared too.
        let (shared, next) = t.encode_choices(opened, &pair(" or A", " or B")).unwrap();
        assert_eq!((shared, next), (t.encode(&format!("{opened} or")).unwrap(), [id(" A"), id(" B")]));
        for (opening, a, b) in [(opened, "", " A"), (opened, " A", " A"), ("", "A", "B")] {
            let error = t.encode_choices(opening, &pair(a, b)).unwrap_err();
            assert!(matches!(error, TokenizerError::Alike(..)), "{error}");
        }
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
