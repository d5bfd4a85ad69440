//! The tokenizer of a Hugging Face model folder, with its special tokens and chat template.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, DecoderWrapper, ModelWrapper, PreTokenizerWrapper, Tokenizer as Inner};

use crate::anchors::Anchors;
use crate::chat_template::{ChatTemplate, TemplateError};
use crate::{Message, Sampling, SftRow};

/// The token that ends a turn in models that Xplore trains from scratch.
const END_OF_TURN: &str = "<|im_end|>";
const START_OF_TURN: &str = "<|im_start|>";
/// The padding token. Batches are packed and do not use it, but transformers requires one.
const PADDING: &str = "<|endoftext|>";
/// ChatML, the format of Qwen's templates, without tools and default system prompts.
const CHATML: &str = "{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
";

/// An error of loading or using a tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file of the folder is missing or invalid.
    #[error("{}: {message}", path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong, and the fix.
        message: String,
    },
    /// An error of the tokenizers library.
    #[error("tokenizer: {0}")]
    Library(String),
    /// An error of the chat template.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The tokens of a prompt are not a prefix of the tokens of prompt and completion.
    #[error(
        "the tokens of the prompt are not a prefix of the tokens of prompt + completion, so the loss mask has no clear \
         boundary; the chat template must render the prompt alone as the beginning of the full conversation"
    )]
    NoPrefix,
    /// Two continuations of a text cannot be compared by a token.
    #[error(
        "no token tells the answers {0:?} and {1:?} apart: the tokens of one begin those of the other, or nothing precedes \
         them; use answers that do not begin alike, after a conversation"
    )]
    Alike(String, String),
}

/// Token ids of a training row. The first `prompt_len` ids are context; the loss is computed on the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizedRow {
    /// Token ids of prompt and completion.
    pub ids: Vec<u32>,
    /// Number of prompt tokens, and thus the index at which the completion begins.
    pub prompt_len: usize,
}

/// A tokenizer with its chat template and end-of-turn tokens.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Inner,
    template: ChatTemplate,
    config: Json,
    generation: Json,
    stop_ids: Vec<u32>,
    anchors: Anchors,
}

fn library(error: impl std::fmt::Display) -> TokenizerError {
    TokenizerError::Library(error.to_string())
}

impl Tokenizer {
    /// Loads tokenizer.json, tokenizer_config.json, chat_template.jinja, and generation_config.json from a model folder. The last
    /// two are optional (tokenizer_config.json may contain the template).
    ///
    /// # Errors
    /// [`TokenizerError::File`] with the path of the invalid file.
    pub fn load(folder: &Path) -> Result<Self, TokenizerError> {
        let at = |name: &str, message: String| TokenizerError::File { path: folder.join(name), message };
        let path = folder.join("tokenizer.json");
        let text = std::fs::read(&path)
            .map_err(|e| at("tokenizer.json", format!("{e}; a model folder must contain its tokenizer")))?;
        let inner =
            Inner::from_bytes(&text).map_err(|e| at("tokenizer.json", format!("not a valid tokenizer: {e}")))?;
        let config = read_json(&folder.join("tokenizer_config.json"))?
            .ok_or_else(|| at("tokenizer_config.json", "no such file; it defines the special tokens".into()))?;
        let template = match std::fs::read_to_string(folder.join("chat_template.jinja")) {
            Ok(text) => text,
            Err(_) => template_in(&config).ok_or_else(|| {
                at(
                    "tokenizer_config.json",
                    "no `chat_template` here and no chat_template.jinja in the folder; use the instruct or chat \
                     version of the model"
                        .into(),
                )
            })?,
        };
        let generation = read_json(&folder.join("generation_config.json"))?.unwrap_or_default();
        Self::assemble(inner, &template, config, generation)
    }

    fn assemble(mut inner: Inner, template: &str, config: Json, generation: Json) -> Result<Self, TokenizerError> {
        // The file may contain the truncation and padding settings of whoever saved it; transformers drops both as well.
        inner.with_truncation(None).map_err(library)?;
        inner.with_padding(None);
        let template = ChatTemplate::new(template, named_tokens(&config))?;
        let mut stop_ids: Vec<u32> = match &generation["eos_token_id"] {
            Json::Number(id) => id.as_u64().into_iter().map(|id| id as u32).collect(),
            Json::Array(ids) => ids.iter().filter_map(Json::as_u64).map(|id| id as u32).collect(),
            _ => Vec::new(),
        };
        let eos = token_text(&config["eos_token"]).and_then(|text| inner.token_to_id(&text));
        stop_ids.extend(eos.filter(|id| !stop_ids.contains(id)));
        let anchors = Anchors::of(&inner);
        Ok(Self { inner, template, config, generation, stop_ids, anchors })
    }

    /// Trains a byte-level BPE tokenizer on `texts`, with the ChatML template. Equal texts produce equal tokenizers.
    ///
    /// # Errors
    /// [`TokenizerError::Library`] if training fails.
    pub fn train<'a>(texts: impl Iterator<Item = &'a str> + Send, vocab_size: usize) -> Result<Self, TokenizerError> {
        let special = [PADDING, START_OF_TURN, END_OF_TURN, crate::reasoning::OPEN, crate::reasoning::CLOSE];
        let mut inner = Inner::new(ModelWrapper::BPE(BPE::default()));
        let bytes = ByteLevel::new(false, true, true);
        inner.with_pre_tokenizer(Some(PreTokenizerWrapper::ByteLevel(bytes)));
        inner.with_decoder(Some(DecoderWrapper::ByteLevel(bytes)));
        let mut trainer: TrainerWrapper = BpeTrainerBuilder::new()
            .vocab_size(vocab_size)
            .show_progress(false)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(special[..3].iter().map(|t| AddedToken::from(*t, true)).collect())
            .build()
            .into();
        // The library requires items that are `Send`, so the chunks are owned.
        inner.train(&mut trainer, texts.map(str::to_owned)).map_err(library)?;
        // The reasoning tags must be visible in decoded text, so they are added tokens but not special ones.
        inner.add_tokens(&special[3..].iter().map(|t| AddedToken::from(*t, false)).collect::<Vec<_>>());
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END_OF_TURN,
            "pad_token": PADDING,
            "clean_up_tokenization_spaces": false,
            "model_max_length": 32768,
            "chat_template": CHATML,
        });
        Self::assemble(inner, CHATML, config, json!({}))
    }

    /// Writes tokenizer.json and tokenizer_config.json.
    ///
    /// # Errors
    /// [`TokenizerError::File`] if the folder cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), TokenizerError> {
        let write = |name: &str, text: String| {
            std::fs::write(folder.join(name), text)
                .map_err(|e| TokenizerError::File { path: folder.join(name), message: e.to_string() })
        };
        write("tokenizer.json", self.inner.to_string(true).map_err(library)?)?;
        // The config always receives the template, whichever file it was loaded from, so that there is one copy.
        let mut config = self.config.clone();
        config["chat_template"] = Json::from(self.template.source());
        write("tokenizer_config.json", format!("{config:#}\n"))
    }

    /// Returns the underlying tokenizer of the library.
    pub(crate) fn library(&self) -> &Inner {
        &self.inner
    }

    /// Returns the tokens at which texts may be split.
    pub(crate) fn anchors(&self) -> &Anchors {
        &self.anchors
    }

    /// Returns the content of tokenizer.json. Equal texts mean equal tokenizers.
    ///
    /// # Errors
    /// [`TokenizerError::Library`].
    pub fn to_json(&self) -> Result<String, TokenizerError> {
        self.inner.to_string(false).map_err(library)
    }

    /// Returns the end-of-sequence token (`eos_token`), if the tokenizer defines one.
    pub fn eos_token(&self) -> Option<String> {
        token_text(&self.config["eos_token"])
    }

    /// Returns the size of the vocabulary, including added tokens.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Returns the ids of the tokens that end the model's turn.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// Returns the id of the padding token, if the tokenizer defines one.
    pub fn pad_id(&self) -> Option<u32> {
        token_text(&self.config["pad_token"]).and_then(|text| self.inner.token_to_id(&text))
    }

    /// Returns the content of generation_config.json as loaded, with the stop and padding tokens of this tokenizer.
    pub fn generation_config(&self) -> Json {
        let mut json = self.generation.clone();
        if !json.is_object() {
            json = json!({});
        }
        json["eos_token_id"] = json!(self.stop_ids);
        json["pad_token_id"] = json!(self.pad_id());
        json
    }

    /// Returns the sampling parameters that the model's authors recommend: the values of generation_config.json. Missing values
    /// default to the full distribution and at most 1024 tokens; `do_sample: false` is greedy decoding.
    pub fn generation_defaults(&self) -> Sampling {
        let json = &self.generation;
        let number = |key: &str, default: f64| json[key].as_f64().unwrap_or(default);
        let all = Sampling::all(json["max_new_tokens"].as_u64().map_or(1024, |n| n as usize));
        let greedy = json["do_sample"].as_bool() == Some(false);
        Sampling {
            temperature: if greedy { 0.0 } else { number("temperature", all.temperature) },
            top_k: json["top_k"].as_u64().map_or(all.top_k, |k| k as usize),
            top_p: number("top_p", all.top_p),
            min_p: number("min_p", all.min_p),
            repetition_penalty: number("repetition_penalty", all.repetition_penalty),
            ..all
        }
    }

    /// Returns the chat template.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// Returns the token ids of `text`. Special tokens in the text are recognized; none are added.
    ///
    /// # Errors
    /// [`TokenizerError::Library`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        Ok(self.inner.encode_fast(text, false).map_err(library)?.get_ids().to_vec())
    }

    /// Returns the token ids of a plain text, including the tokens that the tokenizer adds, such as a beginning-of-sequence token.
    ///
    /// # Errors
    /// [`TokenizerError::Library`].
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        Ok(self.inner.encode_fast(text, true).map_err(library)?.get_ids().to_vec())
    }

    /// Returns token ids like [`Self::encode`], and the byte range in `text` of each token.
    ///
    /// # Errors
    /// [`TokenizerError::Library`].
    pub fn encode_with_offsets(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), TokenizerError> {
        let encoding = self.inner.encode(text, false).map_err(library)?;
        let offsets = encoding.get_offsets().iter().map(|&(begin, end)| begin..end).collect();
        Ok((encoding.get_ids().to_vec(), offsets))
    }

    /// Returns the text of `ids`, including special tokens.
    ///
    /// # Errors
    /// [`TokenizerError::Library`].
    pub fn decode_all(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.inner.decode(ids, false).map_err(library)
    }

    /// Returns the text of `ids` without special tokens.
    ///
    /// # Errors
    /// [`TokenizerError::Library`].
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.inner.decode(ids, true).map_err(library)
    }

    /// Returns the token ids of a conversation with an opened assistant turn (see [`ChatTemplate::open`]).
    ///
    /// # Errors
    /// [`TokenizerError`] if the template rejects the conversation.
    pub fn encode_chat(&self, messages: &[Message], thinking: Option<bool>) -> Result<Vec<u32>, TokenizerError> {
        self.encode(&self.template.open(messages, thinking)?)
    }

    /// Returns the token ids of a training row, like TRL: those of the prompt with an opened assistant turn must be a prefix of
    /// those of the whole conversation.
    ///
    /// # Errors
    /// [`TokenizerError::NoPrefix`] if they are not; template errors.
    pub fn encode_row(&self, row: &SftRow) -> Result<TokenizedRow, TokenizerError> {
        let whole: Vec<Message> = row.prompt.iter().chain(&row.completion).cloned().collect();
        let (prompt, whole) =
            (self.template.render(&row.prompt, true, None)?, self.template.render(&whole, false, None)?);
        self.encode_after(&prompt, &whole)
    }
}

fn read_json(path: &Path) -> Result<Option<Json>, TokenizerError> {
    let file = |message: String| TokenizerError::File { path: path.into(), message };
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| file(format!("not JSON: {e}"))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(file(e.to_string())),
    }
}

/// Returns `chat_template`: a string, or the entry named "default" of a list.
fn template_in(config: &Json) -> Option<String> {
    match &config["chat_template"] {
        Json::String(text) => Some(text.clone()),
        Json::Array(named) => {
            named.iter().find(|t| t["name"] == "default").and_then(|t| t["template"].as_str()).map(str::to_owned)
        }
        _ => None,
    }
}

/// Returns the text of a special token, which is a string or an object with `content`.
fn token_text(token: &Json) -> Option<String> {
    token.as_str().or_else(|| token["content"].as_str()).map(str::to_owned)
}

fn named_tokens(config: &Json) -> Vec<(String, String)> {
    ["bos_token", "eos_token", "pad_token", "unk_token"]
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), token_text(&config[*name])?)))
        .collect()
}

#[cfg(test)]
mod tests;
