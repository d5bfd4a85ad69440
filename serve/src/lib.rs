//! An OpenAI-compatible server on the generation engine: a judge or teacher on another node, or a trained model for any
//! client.
//!
//! One thread owns the model and steps the engine ([`worker`]); the HTTP side turns requests into tokens ([`api`]) and
//! tokens into replies ([`reply`]).

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

/// How the server behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name clients ask for.
    pub model: String,
    /// Requests accepted beyond those that the engine can run at once; more are answered 429.
    pub max_queue: usize,
    /// If given, clients must send it as bearer token.
    pub api_key: Option<String>,
}

/// Why the server could not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {source}; choose another --host or --port")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system refused something else.
    #[error("the server failed: {0}")]
    Io(#[from] std::io::Error),
}

/// What every handler shares.
struct Shared {
    settings: Settings,
    tokenizer: Tokenizer,
    context: usize,
    vocab: usize,
    worker: Worker,
    /// One permit an open request.
    places: Arc<Semaphore>,
    next: AtomicU64,
    started: u64,
}

/// Serves until `stop` resolves; requests that are open then are answered first. `ready` learns the address.
///
/// # Errors
/// If the address cannot be bound.
pub async fn run(
    model: LocalModel,
    settings: Settings,
    address: SocketAddr,
    ready: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let listener = TcpListener::bind(address).await.map_err(|source| ServeError::Bind { address, source })?;
    let places = model.limits.max_rows + settings.max_queue;
    let spec = model.decoder.spec();
    let shared = Arc::new(Shared {
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
