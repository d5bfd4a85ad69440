//! The model compared with references: transformers, ordinary autograd, and its own forward pass without a cache.

mod checkpoints;
mod completer;
mod engine;
mod engine_requests;
mod fixtures;
mod generation;
mod gradients;
mod head;
mod parity;
mod prefixes;
mod reference;
mod texts;
mod transformers_models;
