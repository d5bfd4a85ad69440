//! The building blocks of every model call.
//!
//! - [`message`]: one turn of a conversation.
//! - [`records`]: the rows of the pipeline (histories, SFT rows, RL rows). [`history_items`]: what a history consists of;
//!   [`history_list`]: the field that holds it.
//! - [`fields`]: fields that other programs write in more than one way.
//! - [`jsonl`]: reading and writing of these rows, with errors that report file, line, and field.
//! - [`prompts`]: the wording of every prompt. [`prompt_manifest`]: the hashes that identify it.
//! - [`reasoning`]: the `<think>…</think>` convention, and the definition of a well-formed summary.
//! - [`tokenizer`], [`chat_template`]: tokenization and rendering of conversations.
//! - [`completer`]: the interface between the code that queries a model and the implementations that answer. [`journal`]: answers on
//!   disk; [`journaled`]: a model with such a journal.
//! - [`digest`]: digests as text.
//! - [`draw`]: random choices that depend on their purpose and not on time or place, so that a run that resumes, or is split over
//!   more processes, reproduces its choices.
//!
//! This crate does not depend on libtorch: synthesis, rewards, and evals build on it alone.

mod anchors;
mod border;
pub mod chat_template;
pub mod completer;
pub mod digest;
pub mod draw;
pub mod fields;
mod generation;
pub mod history_items;
pub mod history_list;
pub mod journal;
pub mod journaled;
pub mod jsonl;
pub mod message;
pub mod prompt_manifest;
pub mod prompts;
pub mod reasoning;
pub mod records;
pub mod text_stream;
pub mod tokenizer;

pub use completer::{Completer, Completion, CompletionRequest, FinishReason, Sampling, TokenLogprob};
pub use draw::Draw;
pub use history_items::HistoryItems;
pub use message::{Message, Role};
pub use prompts::PromptSet;
pub use records::{History, Interaction, Question, RlRow, SftRow};
