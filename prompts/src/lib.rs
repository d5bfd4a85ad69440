//! Template sets ([`chat::PromptSet`]) with wording that exists elsewhere.
//!
//! - [`import`]: reads templates from a clone of the repository that released the method.
//! - [`recover`]: derives templates from rows that were rendered with unknown ones.
//!
//! This crate does not depend on libtorch.

pub mod import;
pub mod recover;
mod source;
