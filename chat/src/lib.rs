//! What every model call is made of.
//!
//! - [`message`]: one turn of a conversation.
//! - [`records`]: the rows that travel through the pipeline (histories, SFT rows, RL rows).
//! - [`jsonl`]: reading and writing those rows, with errors that name file, line and field.
//! - [`prompts`]: the wording of every question asked of a model.
//! - [`reasoning`]: the `<think>…</think>` convention and what counts as a well-formed summary.
//! - [`tokenizer`], [`template`]: text to token ids and back, conversations to text.
//! - [`completer`]: the contract between everything that asks a model and everything that answers.
//! - [`draw`]: random choices that depend on what is drawn and not on when or where, so that a run resumed or split over
//!   more processes repeats itself.
//!
//! Nothing here knows libtorch: synthesis, rewards and evals build on this crate alone.

mod border;
pub mod completer;
pub mod draw;
mod generation;
pub mod jsonl;
pub mod message;
pub mod prompts;
pub mod reasoning;
pub mod records;
pub mod template;
pub mod text_stream;
pub mod tokenizer;

pub use completer::{Completer, Completion, CompletionRequest, FinishReason, Sampling, TokenLogprob};
pub use draw::Draw;
pub use message::{Message, Role};
pub use prompts::PromptSet;
pub use records::{History, Interaction, Question, RlRow, SftRow};
