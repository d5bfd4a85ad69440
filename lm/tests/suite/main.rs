//! The model beside outside witnesses: transformers, plain autograd, and its own forward pass without a cache.

mod checkpoints;
mod completer;
mod engine;
mod fixtures;
mod generation;
mod gradients;
mod head;
mod parity;
mod prefixes;
mod texts;
mod transformers_models;
mod witness;
