//! How accurately a judge predicts users' choices from summaries of their preferences, with intervals over users.
//!
//! - [`user`]: the users: a history, held-out choices of the same domain, and of another one (transfer).
//! - [`setting`]: how the history is read: all of it by the judge, all of it by the model, or in stages.
//! - [`contender`]: the sources of summaries: models, and the bounds they are compared with.
//! - [`fit`]: cuts histories that exceed a model's prompt limit.
//! - [`mod@evaluate`]: evaluates every contender in every setting with every judge.
//! - [`mod@preview`]: what each round of an evaluation reads, without a model.
//! - [`evaluation`]: the results: a row for each combination, paired differences between contenders, and the summaries.
//! - [`interval`]: 95 % intervals over users; [`sample_size`]: the number of users that tells two accuracies apart.
//! - [`table`], [`files`]: the results as text and as JSON; [`error`]: the errors.
//!
//! Models and judges are [`chat::Completer`]s, so this crate does not depend on libtorch.

pub mod contender;
pub mod error;
pub mod evaluate;
pub mod evaluation;
pub mod files;
pub mod fit;
pub mod interval;
mod judging;
pub mod plan;
pub mod preview;
pub mod sample_size;
pub mod setting;
mod summarize;
pub mod table;
pub mod user;

pub use configs::eval::Setting;
pub use contender::{Contender, SummarySource};
pub use error::EvalError;
pub use evaluate::evaluate;
pub use evaluation::{EvalRow, Evaluation, Gain, SummaryRecord, UserScore};
pub use fit::PromptLimit;
pub use judging::accuracy;
pub use plan::{EvalPlan, EvalProgress, NamedJudge};
pub use preview::{RoundPreview, TargetPreview, UserPreview, preview};
pub use setting::{HistorySplit, TargetKind};
pub use user::EvalUser;
