//! The JSON of requests and responses.

use chat::completer::Usage;
use chat::{Completion, CompletionRequest, FinishReason, Role, TokenLogprob};
use serde_json::{Value as Json, json};

/// Returns the body of a request. Fields beyond OpenAI's own (as in vLLM and `xplore serve`) are sent only if they
/// differ from the default, so that a plain request works with any endpoint.
///
/// # Errors
/// Returns an error if the endpoint does not support the request.
pub fn body(request: &CompletionRequest, model: &str) -> Result<Json, String> {
    let s = &request.sampling;
    if request.top_logprobs > 20 {
        return Err(format!("top_logprobs is {}; expected at most 20 (the API limit)", request.top_logprobs));
    }
    if request.continuation.is_some() {
        return Err("an endpoint does not return the likelihood of a given text; use a model in this process".into());
    }
    let mut body = json!({
        "model": model,
        "messages": request.messages,
        "temperature": s.temperature,
        "top_p": s.top_p,
        "max_tokens": s.max_tokens,
        "seed": request.seed.cast_signed(),
    });
    if request.top_logprobs > 0 {
        body["logprobs"] = json!(true);
        body["top_logprobs"] = json!(request.top_logprobs);
    }
    if !request.stop.is_empty() {
        body["stop"] = json!(request.stop);
        body["include_stop_str_in_output"] = json!(true);
    }
    if let Some(thinking) = request.thinking {
        body["chat_template_kwargs"] = json!({ "enable_thinking": thinking });
    }
    if request.messages.last().is_some_and(|m| m.role == Role::Assistant) {
        body["continue_final_message"] = json!(true);
        body["add_generation_prompt"] = json!(false);
    }
    for (key, value, neutral) in [("min_p", s.min_p, 0.0), ("repetition_penalty", s.repetition_penalty, 1.0)] {
        if value != neutral {
            body[key] = json!(value);
        }
    }
    if s.top_k > 0 {
        body["top_k"] = json!(s.top_k);
    }
    if s.ignore_eos {
        body["ignore_eos"] = json!(true);
    }
    Ok(body)
}

/// Parses a response.
///
/// # Errors
/// Returns the name of the missing field.
pub fn completion(answer: &Json, request: &CompletionRequest) -> Result<Completion, String> {
    let choice = &answer["choices"][0];
    let missing = |field: &str| format!("the endpoint's response has no `{field}`: {answer}");
    let message = &choice["message"];
    let mut text = message["content"].as_str().unwrap_or_default().to_owned();
    // Servers with a reasoning parser move the reasoning to a separate field.
    let thought = message["reasoning_content"].as_str().or(message["reasoning"].as_str());
    if let Some(thought) = thought.filter(|t| !t.is_empty()) {
        text = format!("<think>\n{}\n</think>\n\n{text}", thought.trim_matches('\n'));
    } else if !message["content"].is_string() {
        return Err(missing("choices[0].message.content"));
    }
    let finish = match choice["finish_reason"].as_str() {
        Some("length") => FinishReason::Length,
        Some(_) => FinishReason::Stop,
        None => return Err(missing("choices[0].finish_reason")),
    };
    let mut tokens = Vec::new();
    if request.top_logprobs > 0 {
        let content = choice["logprobs"]["content"].as_array().ok_or_else(|| missing("choices[0].logprobs.content"))?;
        for token in content {
            tokens.push(token_logprob(token).ok_or_else(|| missing("choices[0].logprobs.content[].logprob"))?);
        }
    }
    Ok(Completion { text, tokens, finish })
}

/// Returns the numbers of tokens in a response; 0 where the endpoint does not report them.
pub fn usage(answer: &Json) -> Usage {
    let count = |field: &str| answer["usage"][field].as_u64().unwrap_or(0);
    Usage { prompt_tokens: count("prompt_tokens"), completion_tokens: count("completion_tokens") }
}

fn token_logprob(token: &Json) -> Option<TokenLogprob> {
    let pair = |json: &Json| Some((json["token"].as_str()?.to_owned(), json["logprob"].as_f64()? as f32));
    let (text, logprob) = pair(token)?;
    let top = token["top_logprobs"].as_array()?.iter().map(pair).collect::<Option<Vec<_>>>()?;
    Some(TokenLogprob { text, logprob, top })
}
