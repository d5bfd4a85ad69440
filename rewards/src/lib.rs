//! What a summary is worth: judges, reward terms, their composition, and credit across streaming stages.
//!
//! A training step uses the modules in this order:
//!
//! - [`judge`]: a frozen model says how likely the person described by a summary is to take one item over another.
//! - [`gate`]: responses that fail the format gate never reach the judge; the others become questions for it.
//! - [`terms`]: each scores a response by one criterion. A new term is one file and one line in [`terms::TERMS`].
//! - [`composition`]: the weighted sum of the terms a run names, with the breakdown of every row.
//! - [`overlong`]: what a response loses as it nears the length limit.
//! - [`credit`]: what a summary earns through the summaries built on it at later stages.
//! - [`advantages`]: rewards relative to the other samples of the same person and stage (GRPO).
//!
//! Random choices are [`Draw`]s, so that a run resumed or split over more processes repeats itself. Everything here is a
//! function of its arguments; nothing knows libtorch.

pub mod advantages;
mod answer;
pub mod composition;
pub mod credit;
pub mod gate;
pub mod judge;
pub mod overlong;
pub mod terms;

pub use advantages::{Advantages, Scale, group_advantages};
pub use chat::Draw;
pub use composition::{Composition, CompositionError, Reward};
pub use credit::{Carried, CreditError, CreditGroup, CreditRule, Parent, carried};
pub use gate::{Judged, Response};
pub use judge::{Judge, JudgeError, JudgeMode, JudgeSettings, Orders, Verdict};
pub use terms::RewardTerm;
