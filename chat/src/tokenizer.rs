//! Text to token ids and back, with the special tokens and the chat template of a Hugging Face model folder.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, DecoderWrapper, ModelWrapper, PreTokenizerWrapper, Tokenizer as Inner};

use crate::border::Anchors;
use crate::template::{ChatTemplate, TemplateError};
use crate::{Message, Sampling, SftRow};

/// Ends a turn in the models we train ourselves.
const END_OF_TURN: &str = "<|im_end|>";
const START_OF_TURN: &str = "<|im_start|>";
/// Fills nothing here (batches are packed), but transformers wants one.
const PADDING: &str = "<|endoftext|>";
/// ChatML, the layout of Qwen's templates, without their tools and system defaults.
const CHATML: &str = "{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
";

/// Why a tokenizer could not be had or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file of the folder is missing or not what it should be.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// The tokenizers library failed.
    #[error("tokenizer: {0}")]
    Library(String),
    /// The chat template.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A prompt whose tokens do not begin those of prompt and completion.
    #[error(
        "the tokens of the prompt are no prefix of those of prompt + completion, so there is no clear border between \
         what is read and what is trained; the chat template must render the prompt alone as the beginning of the whole"
    )]
    NoPrefix,
}

/// Token ids of a training row: the first `prompt_len` are read, the rest are trained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizedRow {
    /// Prompt and completion.
    pub ids: Vec<u32>,
    /// Where the completion begins.
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
    /// Reads tokenizer.json, tokenizer_config.json, chat_template.jinja and generation_config.json from a model folder.
    /// The last two are optional (the template may stand in tokenizer_config.json).
    ///
    /// # Errors
    /// [`TokenizerError::File`] naming the file at fault.
    pub fn load(folder: &Path) -> Result<Self, TokenizerError> {
        let at = |name: &str, message: String| TokenizerError::File { path: folder.join(name), message };
        let path = folder.join("tokenizer.json");
        let text = std::fs::read(&path)
            .map_err(|e| at("tokenizer.json", format!("{e}; a model folder needs its tokenizer beside the weights")))?;
        let inner = Inner::from_bytes(&text).map_err(|e| at("tokenizer.json", format!("not a tokenizer: {e}")))?;
        let config = read_json(&folder.join("tokenizer_config.json"))?
            .ok_or_else(|| at("tokenizer_config.json", "no such file; it names the special tokens".into()))?;
        let template = match std::fs::read_to_string(folder.join("chat_template.jinja")) {
            Ok(text) => text,
            Err(_) => template_in(&config).ok_or_else(|| {
                at(
                    "tokenizer_config.json",
                    "no `chat_template` here and no chat_template.jinja beside it; take the instruct or chat version \
                     of the model"
                        .into(),
                )
            })?,
        };
        let generation = read_json(&folder.join("generation_config.json"))?.unwrap_or_default();
        Self::assemble(inner, &template, config, generation)
    }

    fn assemble(mut inner: Inner, template: &str, config: Json, generation: Json) -> Result<Self, TokenizerError> {
        // A file may carry the cutting and padding of whoever saved it; transformers drops both as well.
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

    /// Trains a byte-level BPE tokenizer on `texts`, with the ChatML template. Equal texts give an equal tokenizer.
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
        // Owned chunks: the library wants items it may send between threads.
        inner.train(&mut trainer, texts.map(str::to_owned)).map_err(library)?;
        // The reasoning tags are ordinary text to a reader of the output, so they are added but not special.
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
        // The template is written into the config whichever way it came in, so that one file says it.
        let mut config = self.config.clone();
        config["chat_template"] = Json::from(self.template.source());
        write("tokenizer_config.json", format!("{config:#}\n"))
    }

    /// The library's tokenizer behind this one.
    pub(crate) fn library(&self) -> &Inner {
        &self.inner
    }

    /// Where texts may be cut.
    pub(crate) fn anchors(&self) -> &Anchors {
        &self.anchors
    }

    /// tokenizer.json: equal texts stand for equal tokenizers.
    ///
    /// # Errors
    /// [`TokenizerError::Library`].
    pub fn to_json(&self) -> Result<String, TokenizerError> {
        self.inner.to_string(false).map_err(library)
    }

    /// The text that ends a sequence (`eos_token`), if the tokenizer names one.
    pub fn eos_token(&self) -> Option<String> {
        token_text(&self.config["eos_token"])
    }

    /// Size of the vocabulary, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Tokens that end the model's turn.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// The id of the padding token, if the tokenizer names one.
    pub fn pad_id(&self) -> Option<u32> {
        token_text(&self.config["pad_token"]).and_then(|text| self.inner.token_to_id(&text))
    }

    /// generation_config.json: what was read, with our stop and padding tokens.
    pub fn generation_config(&self) -> Json {
        let mut json = self.generation.clone();
        if !json.is_object() {
            json = json!({});
        }
        json["eos_token_id"] = json!(self.stop_ids);
        json["pad_token_id"] = json!(self.pad_id());
        json
    }

    /// How the model's makers want it sampled: the values of generation_config.json. Where it says nothing, tokens are
    /// drawn from the whole distribution, at most 1024 of them; `do_sample: false` is greedy.
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

    /// The chat template.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// Token ids of `text`; special tokens written in it are recognised, none are added.
    ///
    /// # Errors
    /// [`TokenizerError::Library`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        Ok(self.inner.encode_fast(text, false).map_err(library)?.get_ids().to_vec())
    }

    /// Token ids of a plain text, with the tokens the tokenizer adds to it, such as one for its beginning.
    ///
    /// # Errors
    /// [`TokenizerError::Library`].
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        Ok(self.inner.encode_fast(text, true).map_err(library)?.get_ids().to_vec())
    }

    /// As [`Self::encode`], with the bytes of `text` that each token stands for.
    ///
    /// # Errors
    /// [`TokenizerError::Library`].
    pub fn encode_with_offsets(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), TokenizerError> {
        let encoding = self.inner.encode(text, false).map_err(library)?;
        let offsets = encoding.get_offsets().iter().map(|&(begin, end)| begin..end).collect();
        Ok((encoding.get_ids().to_vec(), offsets))
    }

    /// Text of `ids`, special tokens as they are written.
    ///
    /// # Errors
    /// [`TokenizerError::Library`].
    pub fn decode_all(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.inner.decode(ids, false).map_err(library)
    }

    /// Text of `ids`, special tokens left out.
    ///
    /// # Errors
    /// [`TokenizerError::Library`].
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.inner.decode(ids, true).map_err(library)
    }

    /// Token ids of a conversation with the assistant's turn opened (see [`ChatTemplate::open`]).
    ///
    /// # Errors
    /// If the template refuses the conversation.
    pub fn encode_chat(&self, messages: &[Message], thinking: Option<bool>) -> Result<Vec<u32>, TokenizerError> {
        self.encode(&self.template.open(messages, thinking)?)
    }

    /// Token ids of a training row, as TRL makes them: prompt with the assistant's turn opened, and the whole
    /// conversation, of which the former must be the beginning.
    ///
    /// # Errors
    /// [`TokenizerError::NoPrefix`] if it is not; template errors.
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

/// `chat_template` as a string, or the one named "default" of a list.
fn template_in(config: &Json) -> Option<String> {
    match &config["chat_template"] {
        Json::String(text) => Some(text.clone()),
        Json::Array(named) => {
            named.iter().find(|t| t["name"] == "default").and_then(|t| t["template"].as_str()).map(str::to_owned)
        }
        _ => None,
    }
}

/// A special token is written as its text, or as an object with `content`.
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
mod tests {
    use super::*;

    fn tiny() -> Tokenizer {
        let text = "likes warm stories about space and avoids long dry reports about finance ".repeat(20);
        Tokenizer::train([text.as_str()].into_iter(), 400).unwrap()
    }

    #[test]
    fn text_survives_the_round_trip() {
        let t = tiny();
        for text in ["likes space", "ünseen wörds & 日本", "<think>\nwarm\n</think>\n\nlikes"] {
            assert_eq!(t.decode(&t.encode(text).unwrap()).unwrap(), text);
        }
        assert_eq!(t.encode(" space").unwrap().len(), 1, "a frequent word is one token");
    }

    #[test]
    fn a_saved_tokenizer_is_the_same_tokenizer() {
        let (t, folder) = (tiny(), tempfile::tempdir().unwrap());
        t.save(folder.path()).unwrap();
        let again = Tokenizer::load(folder.path()).unwrap();
        let chat = [Message::user("likes space?")];
        assert_eq!(t.encode_chat(&chat, None).unwrap(), again.encode_chat(&chat, None).unwrap());
        assert_eq!(t.stop_ids(), again.stop_ids());
        assert_eq!(t.stop_ids().len(), 1);
    }

    #[test]
    fn generation_defaults_are_those_of_the_file_and_survive_a_save() {
        let (t, folder) = (tiny(), tempfile::tempdir().unwrap());
        assert_eq!(t.generation_defaults(), Sampling::all(1024));
        t.save(folder.path()).unwrap();
        let path = folder.path().join("generation_config.json");
        let file = json!({"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.1, "repetition_penalty": 1.1,
            "max_new_tokens": 7, "do_sample": true, "eos_token_id": [2, 5]});
        std::fs::write(&path, file.to_string()).unwrap();
        let read = Tokenizer::load(folder.path()).unwrap();
        let expected = Sampling {
            temperature: 0.6,
            top_k: 20,
            top_p: 0.95,
            min_p: 0.1,
            repetition_penalty: 1.1,
            ..Sampling::all(7)
        };
        assert_eq!(read.generation_defaults(), expected);
        assert_eq!(read.stop_ids(), [2, 5]);
        assert_eq!(read.generation_config()["top_k"], 20);
        std::fs::write(&path, r#"{"do_sample": false, "temperature": 0.6}"#).unwrap();
        assert_eq!(Tokenizer::load(folder.path()).unwrap().generation_defaults().temperature, 0.0);
    }

    #[test]
    fn a_row_is_split_where_the_completion_begins() {
        let t = tiny();
        let row = SftRow { prompt: vec![Message::user("space?")], completion: vec![Message::assistant("likes space")] };
        let tokens = t.encode_row(&row).unwrap();
        assert_eq!(t.decode(&tokens.ids[tokens.prompt_len..]).unwrap(), "likes space\n");
        assert!(tokens.ids[tokens.prompt_len..].contains(&t.stop_ids()[0]));
    }

    #[test]
    fn offsets_are_bytes_and_special_tokens_are_written() {
        let t = tiny();
        let text = "日 space<|im_end|>";
        let (ids, offsets) = t.encode_with_offsets(text).unwrap();
        assert_eq!(ids, t.encode(text).unwrap());
        assert_eq!(&text[offsets.last().unwrap().clone()], "<|im_end|>");
        assert_eq!(t.decode_all(&ids).unwrap(), text);
        assert_eq!(t.eos_token().as_deref(), Some("<|im_end|>"));
    }

    #[test]
    fn a_file_with_truncation_cuts_nothing() {
        let (t, folder) = (tiny(), tempfile::tempdir().unwrap());
        t.save(folder.path()).unwrap();
        let path = folder.path().join("tokenizer.json");
        let mut json: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        json["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
        std::fs::write(&path, json.to_string()).unwrap();
        let text = "likes warm stories about space";
        let again = Tokenizer::load(folder.path()).unwrap();
        assert_eq!(again.encode(text).unwrap(), t.encode(text).unwrap());
        assert!(t.encode(text).unwrap().len() > 2);
    }

    #[test]
    fn a_missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = Tokenizer::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json"), "{error}");
    }
}
