//! How well a judge predicts what people choose once it has read a summary of them, with intervals over people.
//!
//! - [`person`]: who is evaluated: a history, held-out choices of the same domain, and of another one (transfer).
//! - [`setting`]: what is read of the history: all of it by the judge, all of it by the model, or piece by piece.
//! - [`contender`]: where the summaries come from: models, and the bounds they are held against.
//! - [`fit`]: cutting histories that do not fit a model.
//! - [`mod@evaluate`]: every contender in every setting, before every judge.
//! - [`evaluation`]: the results: a row for each combination, paired differences between contenders, and the summaries.
//! - [`interval`]: 95 % intervals over people.
//! - [`table`], [`files`]: the results as text and as JSON; [`error`]: what can go wrong.
//!
//! Models and judges are [`chat::Completer`]s, so nothing here knows libtorch.

pub mod contender;
pub mod error;
pub mod evaluate;
pub mod evaluation;
pub mod files;
pub mod fit;
pub mod interval;
mod judging;
pub mod person;
pub mod setting;
mod summarize;
pub mod table;

pub use contender::{Contender, Source};
pub use error::EvalError;
pub use evaluate::{EvalJudge, Plan, evaluate};
pub use evaluation::{EvalRow, Evaluation, Gain, PersonScore, Summary};
pub use fit::PromptLimit;
pub use person::Person;
pub use setting::{Setting, Split, Targets};
