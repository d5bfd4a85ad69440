//! The body of a chat-completions request: field-by-field validation, and conversion to an engine request.

use axum::http::StatusCode;
use chat::tokenizer::Tokenizer;
use chat::{Message, Role, Sampling};
use serde_json::{Map, Value as Json};

use crate::error::ApiError;

/// A valid request.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The prompt tokens.
    pub prompt: Vec<u32>,
    /// The sampling parameters.
    pub sampling: Sampling,
    /// The number of samples.
    pub n: usize,
    /// The seed of the first sample; the seeds of the other samples are derived from it.
    pub seed: Option<u64>,
    /// The strings that end a sample.
    pub stop: Vec<String>,
    /// Whether the stop string stays in the text (as in vLLM).
    pub keep_stop: bool,
    /// The number of alternatives per token; `None` if no log-probabilities are requested.
    pub logprobs: Option<usize>,
    /// Whether to stream the answer token by token.
    pub stream: bool,
    /// Whether a stream ends with a chunk that contains the usage.
    pub stream_usage: bool,
}

/// Fields that are accepted and ignored: bookkeeping of OpenAI's own service.
const HARMLESS: [&str; 6] = ["user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier"];
/// Fields that are rejected unless they have their neutral value, with that value.
const NEUTRAL: [(&str, f64); 2] = [("presence_penalty", 0.0), ("frequency_penalty", 0.0)];
/// The maximum number of alternatives per token, as in OpenAI's API.
const MOST_ALTERNATIVES: u64 = 20;
/// The maximum number of samples per request.
const MOST_SAMPLES: u64 = 128;

/// The fields of a body. Each is removed when read; fields left at the end are unknown.
struct Fields(Map<String, Json>);

impl Fields {
    fn take(&mut self, key: &str) -> Option<Json> {
        self.0.shift_remove(key).filter(|value| !value.is_null())
    }

    fn number(&mut self, key: &str, default: f64) -> Result<f64, ApiError> {
        match self.take(key) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| wrong(key, &value, "a number")),
        }
    }

    fn count(&mut self, key: &str) -> Result<Option<u64>, ApiError> {
        self.take(key).map(|v| v.as_u64().ok_or_else(|| wrong(key, &v, "a whole number, 0 or more"))).transpose()
    }

    fn switch(&mut self, key: &str) -> Result<Option<bool>, ApiError> {
        self.take(key).map(|v| v.as_bool().ok_or_else(|| wrong(key, &v, "true or false"))).transpose()
    }
}

fn wrong(key: &str, value: &Json, expected: &str) -> ApiError {
    let mut shown = value.to_string();
    if shown.chars().count() > 60 {
        shown = shown.chars().take(60).chain(['…']).collect();
    }
    ApiError::field(key, format!("`{key}` is {shown}; expected {expected}"))
}

/// Parses and validates a body. `model` is the name of the served model, `context` its maximum sequence length.
///
/// # Errors
/// Returns [`ApiError`], which names the field.
pub fn read(body: &[u8], tokenizer: &Tokenizer, model: &str, context: usize) -> Result<Ask, ApiError> {
    let body: Json = serde_json::from_slice(body)
        .map_err(|e| ApiError::new(StatusCode::BAD_REQUEST, None, format!("the body is not JSON: {e}")))?;
    let Json::Object(body) = body else {
        return Err(ApiError::new(StatusCode::BAD_REQUEST, None, "the body is not a JSON object"));
    };
    let mut fields = Fields(body);
    match fields.take("model") {
        Some(Json::String(name)) if name == model => {}
        None => return Err(ApiError::field("model", format!("`model` is missing; this server serves `{model}`"))),
        Some(other) => {
            let message = format!("the model {other} does not exist; this server serves `{model}`");
            let param = Some("model".into());
            let code = Some("model_not_found");
            return Err(ApiError { status: StatusCode::NOT_FOUND, message, param, code });
        }
    }
    let messages = messages(fields.take("messages"))?;
    let prompt = prompt(&mut fields, tokenizer, &messages)?;
    let sampling = sampling(&mut fields, tokenizer, context.saturating_sub(prompt.len()))?;
    if prompt.len() >= context {
        let message = format!("the conversation has {} tokens; the model's context holds {context}", prompt.len());
        let code = Some("context_length_exceeded");
        return Err(ApiError { code, ..ApiError::field("messages", message) });
    }
    let n = fields.count("n")?.unwrap_or(1);
    if !(1..=MOST_SAMPLES).contains(&n) {
        return Err(ApiError::field("n", format!("`n` is {n}; expected 1 to {MOST_SAMPLES}")));
    }
    let seed = match fields.take("seed") {
        None => None,
        Some(value) => {
            let bits = value.as_u64().or(value.as_i64().map(i64::cast_unsigned));
            Some(bits.ok_or_else(|| wrong("seed", &value, "a whole number"))?)
        }
    };
    let ask = Ask {
        prompt,
        sampling,
        n: n as usize,
        seed,
        stop: stop(fields.take("stop"))?,
        keep_stop: fields.switch("include_stop_str_in_output")?.unwrap_or(false),
        logprobs: logprobs(&mut fields)?,
        stream: fields.switch("stream")?.unwrap_or(false),
        stream_usage: match fields.take("stream_options") {
            None => false,
            Some(options) => options["include_usage"].as_bool().unwrap_or(false),
        },
    };
    for (key, neutral) in NEUTRAL {
        if fields.number(key, neutral)? != neutral {
            return Err(ApiError::field(key, format!("`{key}` is not supported; omit it")));
        }
    }
    fields.0.retain(|key, value| !HARMLESS.contains(&key.as_str()) && !value.is_null());
    match fields.0.keys().next() {
        Some(key) => Err(ApiError::field(key, format!("`{key}` is not a supported field; omit it"))),
        None => Ok(ask),
    }
}

fn messages(value: Option<Json>) -> Result<Vec<Message>, ApiError> {
    let expected = "a list of {role, content}";
    let list = match value {
        Some(Json::Array(list)) if !list.is_empty() => list,
        Some(other) => return Err(wrong("messages", &other, expected)),
        None => return Err(ApiError::field("messages", format!("`messages` is missing; expected {expected}"))),
    };
    list.into_iter().enumerate().map(|(i, message)| one_message(i, &message)).collect()
}

fn one_message(i: usize, message: &Json) -> Result<Message, ApiError> {
    let at = |what: &str| format!("messages[{i}].{what}");
    let role = match message["role"].as_str() {
        Some("system" | "developer") => Role::System,
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        _ => return Err(wrong(&at("role"), &message["role"], "system, developer, user or assistant")),
    };
    let content = match &message["content"] {
        Json::String(text) => text.clone(),
        // For content in parts, only text is supported.
        Json::Array(parts) => parts
            .iter()
            .map(|part| match (part["type"].as_str(), part["text"].as_str()) {
                (Some("text"), Some(text)) => Ok(text),
                _ => Err(wrong(&at("content"), part, "a content part of type text")),
            })
            .collect::<Result<String, _>>()?,
        other => return Err(wrong(&at("content"), other, "a string")),
    };
    Ok(Message { role, content })
}

fn prompt(fields: &mut Fields, tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>, ApiError> {
    let thinking = match fields.take("chat_template_kwargs") {
        None => None,
        Some(Json::Object(mut given)) => {
            let thinking = given.shift_remove("enable_thinking");
            if let Some(key) = given.keys().next() {
                let message = format!("`chat_template_kwargs.{key}` is not supported; known: enable_thinking");
                return Err(ApiError::field("chat_template_kwargs", message));
            }
            thinking
                .as_ref()
                .map(|v| v.as_bool().ok_or_else(|| wrong("enable_thinking", v, "true or false")))
                .transpose()?
        }
        Some(other) => return Err(wrong("chat_template_kwargs", &other, "an object")),
    };
    let continues = fields.switch("continue_final_message")?.unwrap_or(false);
    let opens = fields.switch("add_generation_prompt")?.unwrap_or(!continues);
    if continues && opens {
        let message =
            "`continue_final_message` and `add_generation_prompt` are mutually exclusive; set the latter to false";
        return Err(ApiError::field("continue_final_message", message));
    }
    if continues && messages.last().is_none_or(|m| m.role != Role::Assistant) {
        let message = "`continue_final_message` requires that the last message is from the assistant";
        return Err(ApiError::field("continue_final_message", message));
    }
    let text = match continues {
        true => tokenizer.template().open(messages, thinking),
        false => tokenizer.template().render(messages, opens, thinking),
    };
    let ids = text
        .map_err(|e| ApiError::field("messages", e.to_string()))
        .and_then(|text| tokenizer.encode(&text).map_err(|e| ApiError::field("messages", e.to_string())))?;
    if ids.is_empty() {
        return Err(ApiError::field("messages", "the conversation has no tokens"));
    }
    Ok(ids)
}

fn sampling(fields: &mut Fields, tokenizer: &Tokenizer, room: usize) -> Result<Sampling, ApiError> {
    let default = tokenizer.generation_defaults();
    let newer = fields.count("max_completion_tokens")?;
    let most = newer.or(fields.count("max_tokens")?);
    if most == Some(0) {
        return Err(ApiError::field("max_tokens", "`max_tokens` is 0; expected at least 1"));
    }
    let sampling = Sampling {
        temperature: fields.number("temperature", default.temperature)?,
        top_p: fields.number("top_p", default.top_p)?,
        min_p: fields.number("min_p", default.min_p)?,
        repetition_penalty: fields.number("repetition_penalty", default.repetition_penalty)?,
        // vLLM also writes "all" as -1.
        top_k: match fields.number("top_k", default.top_k as f64)? {
            -1.0 => 0,
            k if k >= 0.0 && k.fract() == 0.0 => k as usize,
            k => return Err(ApiError::field("top_k", format!("`top_k` is {k}; expected 0 (all) or more"))),
        },
        ignore_eos: fields.switch("ignore_eos")?.unwrap_or(false),
        // Without a limit, the answer may fill the context, as in OpenAI's API.
        max_tokens: most.map_or(room, |n| (n as usize).min(room)),
    };
    sampling.check().map_err(|message| {
        let field = message.split('`').nth(1).unwrap_or_default().to_owned();
        ApiError::field(&field, message)
    })?;
    Ok(sampling)
}

fn stop(value: Option<Json>) -> Result<Vec<String>, ApiError> {
    let expected = "a string or a list of strings, none of them empty";
    let texts = match value {
        None => return Ok(Vec::new()),
        Some(Json::String(text)) => vec![Json::String(text)],
        Some(Json::Array(texts)) => texts,
        Some(other) => return Err(wrong("stop", &other, expected)),
    };
    let text = |value: &Json| value.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
    texts.iter().map(|v| text(v).ok_or_else(|| wrong("stop", v, expected))).collect()
}

fn logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let wanted = fields.switch("logprobs")?.unwrap_or(false);
    let top = fields.count("top_logprobs")?;
    match top {
        Some(_) if !wanted => Err(ApiError::field("top_logprobs", "`top_logprobs` requires `logprobs`: true")),
        Some(n) if n > MOST_ALTERNATIVES => {
            Err(ApiError::field("top_logprobs", format!("`top_logprobs` is {n}; expected 0 to {MOST_ALTERNATIVES}")))
        }
        top => Ok(wanted.then_some(top.unwrap_or(0) as usize)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tokenizer() -> Tokenizer {
        Tokenizer::train(["likes warm stories about space"].into_iter().cycle().take(20), 300).unwrap()
    }

    fn asked(extra: Json) -> Result<Ask, ApiError> {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        for (key, value) in extra.as_object().unwrap() {
            body[key] = value.clone();
        }
        read(body.to_string().as_bytes(), &tokenizer(), "m", 100)
    }

    #[test]
    fn every_field_has_its_effect() {
        let plain = asked(json!({})).unwrap();
        assert_eq!(plain.sampling, Sampling { max_tokens: 100 - plain.prompt.len(), ..Sampling::all(0) });
        let ask = asked(json!({
            "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.2, "max_tokens": 5,
            "ignore_eos": true, "n": 3, "seed": -1, "stop": ["a", "b"], "include_stop_str_in_output": true,
            "logprobs": true, "top_logprobs": 4, "stream": true, "stream_options": {"include_usage": true},
            "user": "u", "presence_penalty": 0, "tools": null,
        }))
        .unwrap();
        let sampling = Sampling {
            temperature: 0.5,
            top_p: 0.9,
            top_k: 7,
            min_p: 0.1,
            repetition_penalty: 1.2,
            max_tokens: 5,
            ignore_eos: true,
        };
        assert_eq!(ask.sampling, sampling);
        assert_eq!((ask.n, ask.seed, ask.keep_stop, ask.logprobs), (3, Some(u64::MAX), true, Some(4)));
        assert_eq!((ask.stop, ask.stream, ask.stream_usage), (vec!["a".to_owned(), "b".to_owned()], true, true));
        assert_eq!(asked(json!({"max_tokens": 5, "max_completion_tokens": 6})).unwrap().sampling.max_tokens, 6);
        assert_eq!(asked(json!({"top_k": -1})).unwrap().sampling.top_k, 0);
        assert_eq!(asked(json!({"stop": "x"})).unwrap().stop, ["x"]);
        assert_eq!(asked(json!({"logprobs": true})).unwrap().logprobs, Some(0));
        let parts = json!([{"role": "user", "content": [{"type": "text", "text": "hi"}]}]);
        assert_eq!(asked(json!({"messages": parts})).unwrap().prompt, plain.prompt);
    }

    #[test]
    fn the_conversation_is_opened_continued_or_left() {
        let t = tokenizer();
        let chat = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "warm"}]);
        let text = |extra: Json| {
            let mut all = json!({"messages": chat});
            for (key, value) in extra.as_object().unwrap() {
                all[key] = value.clone();
            }
            asked(all).unwrap().prompt
        };
        let turns = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nwarm";
        let ids = |text: &str| t.encode(text).unwrap();
        assert_eq!(text(json!({})), ids(&format!("{turns}<|im_end|>\n<|im_start|>assistant\n")));
        assert_eq!(text(json!({"add_generation_prompt": false})), ids(&format!("{turns}<|im_end|>\n")));
        assert_eq!(text(json!({"continue_final_message": true, "add_generation_prompt": false})), ids(turns));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (extra, param) in [
            (json!({"messages": []}), "messages"),
            (json!({"messages": [{"role": "robot", "content": ""}]}), "messages[0].role"),
            (json!({"messages": [{"role": "user", "content": 3}]}), "messages[0].content"),
            (json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), "messages[0].content"),
            (json!({"messages": [{"role": "user", "content": "x ".repeat(200)}]}), "messages"),
            (json!({"model": "other"}), "model"),
            (json!({"temperature": -1}), "temperature"),
            (json!({"temperature": "hot"}), "temperature"),
            (json!({"top_p": 0}), "top_p"),
            (json!({"top_k": 1.5}), "top_k"),
            (json!({"max_tokens": 0}), "max_tokens"),
            (json!({"n": 0}), "n"),
            (json!({"seed": "x"}), "seed"),
            (json!({"stop": [""]}), "stop"),
            (json!({"top_logprobs": 2}), "top_logprobs"),
            (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
            (json!({"presence_penalty": 0.5}), "presence_penalty"),
            (json!({"tools": [{}]}), "tools"),
            (json!({"temprature": 1}), "temprature"),
            (json!({"continue_final_message": true}), "continue_final_message"),
            (json!({"chat_template_kwargs": {"x": 1}}), "chat_template_kwargs"),
        ] {
            let error = asked(extra.clone()).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{extra}: {error:?}");
            let status = if param == "model" { 404 } else { 400 };
            assert_eq!(error.status.as_u16(), status, "{error:?}");
        }
        assert_eq!(read(b"{", &tokenizer(), "m", 100).unwrap_err().status.as_u16(), 400);
    }
}
