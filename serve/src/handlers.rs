//! The handlers of the HTTP routes.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event as Sse, KeepAlive, Sse as SseResponse};
use axum::response::{IntoResponse, Response};
use chat::tokenizer::Tokenizer;
use lm::engine::Request;
use serde_json::{Value as JsonValue, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::ServerState;
use crate::api::{Ask, read};
use crate::error::ApiError;
use crate::reply::Spoken;
use crate::worker::{ReplyEvent, Worker};

type AppState = State<Arc<ServerState>>;

pub async fn health() -> StatusCode {
    StatusCode::OK
}

pub async fn unknown() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, None, "no such path; see /v1/chat/completions, /v1/models, /health")
}

pub async fn wrong_method() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, None, "this path does not support this method")
}

fn about(shared: &ServerState) -> JsonValue {
    json!({
        "id": shared.settings.model, "object": "model", "created": shared.started, "owned_by": "xplore",
        "max_model_len": shared.context,
    })
}

pub async fn models(State(shared): AppState, headers: HeaderMap) -> Result<Json<JsonValue>, ApiError> {
    authorize(&shared, &headers)?;
    Ok(Json(json!({ "object": "list", "data": [about(&shared)] })))
}

pub async fn model(
    State(shared): AppState,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<JsonValue>, ApiError> {
    authorize(&shared, &headers)?;
    if id == shared.settings.model {
        return Ok(Json(about(&shared)));
    }
    let message = format!("the model `{id}` does not exist; this server serves `{}`", shared.settings.model);
    Err(ApiError::new(StatusCode::NOT_FOUND, Some("model_not_found"), message))
}

fn authorize(shared: &ServerState, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(key) = &shared.settings.api_key else { return Ok(()) };
    let given =
        headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
    if given == Some(key) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::UNAUTHORIZED,
        Some("invalid_api_key"),
        "missing or invalid API key; send the server's key as a bearer token",
    ))
}

/// A request in the engine. Dropping it (the client disconnected) cancels it.
struct Conversation {
    shared: Arc<ServerState>,
    ask: Ask,
    ticket: u64,
    events: UnboundedReceiver<ReplyEvent>,
    finished: bool,
    _place: OwnedSemaphorePermit,
}

impl Drop for Conversation {
    fn drop(&mut self) {
        if !self.finished {
            self.shared.worker.cancel(self.ticket);
        }
    }
}

impl Conversation {
    fn worker(&self) -> &Worker {
        &self.shared.worker
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.shared.tokenizer
    }

    fn id(&self) -> String {
        format!("chatcmpl-{:x}-{}", self.shared.started, self.ticket)
    }

    fn usage(&self, completion_tokens: usize) -> JsonValue {
        let prompt = self.ask.prompt.len();
        json!({
            "prompt_tokens": prompt, "completion_tokens": completion_tokens,
            "total_tokens": prompt + completion_tokens,
        })
    }

    fn envelope(&self, object: &str) -> JsonValue {
        json!({
            "id": self.id(), "object": object, "created": now(), "model": self.shared.settings.model,
        })
    }
}

fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs())
}

pub async fn chat_completions(State(shared): AppState, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    authorize(&shared, &headers)?;
    let Ok(args) = Arc::clone(&shared.places).try_acquire_owned() else {
        let message = "the server is at its limit of running and waiting requests; try again later";
        return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, Some("rate_limit_exceeded"), message));
    };
    let ask = read(&body, &shared.tokenizer, &shared.settings.model, shared.context)?;
    let ticket = shared.next.fetch_add(1, Ordering::Relaxed);
    // Without a seed, every request gets a different one, also after a restart.
    let seed = ask.seed.unwrap_or_else(|| shared.started.rotate_left(32) ^ ticket.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let request = Request {
        prompt: ask.prompt.clone(),
        seeds: (0..ask.n as u64).map(|i| seed.wrapping_add(i.wrapping_mul(0x2545_f491_4f6c_dd1d))).collect(),
        sampling: ask.sampling.clone(),
        // The engine reports the sampled token's own log-probability only with at least one alternative.
        top_logprobs: ask.logprobs.map_or(0, |n| n.max(1)).min(shared.vocab),
    };
    let (reply, events) = unbounded_channel();
    shared.worker.submit(ticket, request, reply);
    let conversation = Conversation { shared, ask, ticket, events, finished: false, _place: args };
    match conversation.ask.stream {
        true => stream(conversation).await,
        false => whole(conversation).await,
    }
}

fn failed(event: ReplyEvent) -> ApiError {
    match event {
        ReplyEvent::Refused(message) => ApiError::field("messages", message),
        ReplyEvent::Failed(message) => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, None, message),
        ReplyEvent::Token(_) => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, None, "unexpected token event"),
    }
}

async fn whole(mut conversation: Conversation) -> Result<Response, ApiError> {
    let shared = Arc::clone(&conversation.shared);
    let ask = conversation.ask.clone();
    let new = || Spoken::new(&shared.tokenizer, &ask.stop, ask.keep_stop, ask.logprobs.is_some());
    let mut spoken: Vec<Spoken<'_>> = (0..ask.n).map(|_| new()).collect();
    let mut texts = vec![String::new(); ask.n];
    let mut logprobs: Vec<Vec<JsonValue>> = vec![Vec::new(); ask.n];
    while spoken.iter().any(|s| s.finish.is_none()) {
        let drawn = match conversation.events.recv().await {
            Some(ReplyEvent::Token(drawn)) => drawn,
            Some(other) => return Err(failed(other)),
            None => break,
        };
        let sample = &mut spoken[drawn.sample];
        let had_ended = sample.finish.is_some();
        let piece =
            sample.push(&drawn, conversation.tokenizer().stop_ids().contains(&drawn.id) && !ask.sampling.ignore_eos);
        texts[drawn.sample].push_str(&piece.text);
        logprobs[drawn.sample].extend(piece.logprob.map(|entry| cut(entry, ask.logprobs)));
        if sample.finish.is_some() && !had_ended && drawn.finish.is_none() {
            conversation.worker().stop(conversation.ticket, drawn.sample);
        }
    }
    conversation.finished = true;
    let choices: Vec<JsonValue> = (0..ask.n)
        .map(|i| {
            json!({
                "index": i,
                "message": { "role": "assistant", "content": texts[i], "refusal": null },
                "logprobs": ask.logprobs.map(|_| json!({ "content": logprobs[i], "refusal": null })),
                "finish_reason": spoken[i].finish.unwrap_or("length"),
            })
        })
        .collect();
    let mut answer = conversation.envelope("chat.completion");
    answer["choices"] = json!(choices);
    answer["usage"] = conversation.usage(spoken.iter().map(|s| s.tokens).sum());
    Ok(Json(answer).into_response())
}

/// Truncates the alternatives of an entry to the requested number.
fn cut(mut entry: JsonValue, wanted: Option<usize>) -> JsonValue {
    if let (Some(list), Some(wanted)) = (entry["top_logprobs"].as_array_mut(), wanted) {
        list.truncate(wanted);
    }
    entry
}

async fn stream(mut conversation: Conversation) -> Result<Response, ApiError> {
    // An error must be sent as an HTTP status, so the first event is awaited before the stream starts.
    let first = match conversation.events.recv().await {
        Some(ReplyEvent::Token(drawn)) => Some(drawn),
        Some(other) => return Err(failed(other)),
        None => None,
    };
    let (chunks, receiver) = unbounded_channel::<Result<Sse, Infallible>>();
    tokio::spawn(async move {
        let shared = Arc::clone(&conversation.shared);
        let ask = conversation.ask.clone();
        let send = |json: &JsonValue| chunks.send(Ok(Sse::default().data(json.to_string()))).is_ok();
        let chunk = |conversation: &Conversation,
                     sample: usize,
                     delta: JsonValue,
                     logprobs: JsonValue,
                     finish: Option<&str>| {
            let mut chunk = conversation.envelope("chat.completion.chunk");
            chunk["choices"] =
                json!([{ "index": sample, "delta": delta, "logprobs": logprobs, "finish_reason": finish }]);
            if ask.stream_usage {
                chunk["usage"] = JsonValue::Null;
            }
            chunk
        };
        for sample in 0..ask.n {
            send(&chunk(&conversation, sample, json!({ "role": "assistant", "content": "" }), JsonValue::Null, None));
        }
        let new = || Spoken::new(&shared.tokenizer, &ask.stop, ask.keep_stop, ask.logprobs.is_some());
        let mut spoken: Vec<Spoken<'_>> = (0..ask.n).map(|_| new()).collect();
        let mut next = first;
        while let Some(drawn) = next {
            let sample = &mut spoken[drawn.sample];
            if sample.finish.is_none() {
                let ends = shared.tokenizer.stop_ids().contains(&drawn.id) && !ask.sampling.ignore_eos;
                let piece = sample.push(&drawn, ends);
                let logprobs = piece.logprob.map_or(JsonValue::Null, |e| json!({ "content": [cut(e, ask.logprobs)] }));
                let open = piece.text.is_empty() && logprobs.is_null()
                    || send(&chunk(&conversation, drawn.sample, json!({ "content": piece.text }), logprobs, None));
                if !open {
                    return;
                }
                if let Some(finish) = sample.finish {
                    send(&chunk(&conversation, drawn.sample, json!({}), JsonValue::Null, Some(finish)));
                    if drawn.finish.is_none() {
                        conversation.worker().stop(conversation.ticket, drawn.sample);
                    }
                }
            }
            if spoken.iter().all(|s| s.finish.is_some()) {
                break;
            }
            next = match conversation.events.recv().await {
                Some(ReplyEvent::Token(drawn)) => Some(drawn),
                Some(ReplyEvent::Refused(message) | ReplyEvent::Failed(message)) => {
                    send(&json!({ "error": { "message": message, "type": "server_error" } }));
                    None
                }
                None => None,
            };
        }
        conversation.finished = true;
        if ask.stream_usage {
            let mut last = conversation.envelope("chat.completion.chunk");
            last["choices"] = json!([]);
            last["usage"] = conversation.usage(spoken.iter().map(|s| s.tokens).sum());
            send(&last);
        }
        let _ = chunks.send(Ok(Sse::default().data("[DONE]")));
    });
    let events = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|event| (event, receiver))
    });
    Ok(SseResponse::new(events).keep_alive(KeepAlive::default()).into_response())
}
