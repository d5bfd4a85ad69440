//! An OpenAI-compatible server on top of the inference engine: for a judge or teacher on another node, or to serve a
//! trained model to any client.
//!
//! One thread owns the model and steps the engine ([`worker`]); the HTTP side converts requests to tokens ([`api`]) and
//! tokens to replies (`reply`).

pub mod api;
pub mod error;
mod handlers;
mod reply;
pub mod worker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use axum::Router;
use axum::routing::{get, post};
use chat::tokenizer::Tokenizer;
use lm::LocalModel;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use worker::Worker;

/// The configuration of the server.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// The model name that clients request.
    pub model: String,
    /// The maximum number of queued requests, beyond those that the engine can run at once; further requests are
    /// answered with 429.
    pub max_queue: usize,
    /// The bearer token that clients must send, if set.
    pub api_key: Option<String>,
}

/// The error of a server that cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {source}; choose another --host or --port")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// Another error of the operating system.
    #[error("the server failed: {0}")]
    Io(#[from] std::io::Error),
}

/// The state that all handlers share.
struct ServerState {
    settings: ServerSettings,
    tokenizer: Tokenizer,
    context: usize,
    vocab: usize,
    worker: Worker,
    /// One permit per open request.
    places: Arc<Semaphore>,
    next: AtomicU64,
    started: u64,
}

/// Serves until `stop` resolves, then answers the open requests and returns. `ready` receives the bound address.
///
/// # Errors
/// Returns an error if the address cannot be bound.
pub async fn run(
    model: LocalModel,
    settings: ServerSettings,
    address: SocketAddr,
    ready: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let listener = TcpListener::bind(address).await.map_err(|source| ServeError::Bind { address, source })?;
    let places = model.limits.max_num_seqs + settings.max_queue;
    let spec = model.decoder.spec();
    let shared = Arc::new(ServerState {
        tokenizer: model.tokenizer.clone(),
        context: spec.context(),
        vocab: spec.vocab_size as usize,
        worker: Worker::start(model)?,
        places: Arc::new(Semaphore::new(places)),
        next: AtomicU64::new(0),
        started: std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs()),
        settings,
    });
    let router = Router::new()
        .route("/v1/chat/completions", post(handlers::chat_completions))
        .route("/v1/models", get(handlers::models))
        .route("/v1/models/{*id}", get(handlers::model))
        .route("/health", get(handlers::health))
        .fallback(handlers::unknown)
        .method_not_allowed_fallback(handlers::wrong_method)
        .with_state(shared);
    ready(listener.local_addr()?);
    axum::serve(listener, router).with_graceful_shutdown(stop).await?;
    Ok(())
}
