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
//! - [`calibration`], [`reliability`]: a judge's accuracy with true, foreign and no summaries, its reliability curve, order bias and cost.
//! - [`panel`]: one model's summaries by several judges, wordings and item orders.
//! - [`attribution`]: what each sentence of a summary earns; [`judge_tables`]: these results as text.
//! - [`ablation`]: variants compared over seeds and users; [`crossed`]: their intervals, and Holm's correction.
//! - [`table`], [`files`]: the results as text and as JSON; [`error`]: the errors.
//!
//! Models and judges are [`chat::Completer`]s, so this crate does not depend on libtorch.

pub mod ablation;
mod asking;
pub mod attribution;
pub mod calibration;
pub mod contender;
pub mod crossed;
pub mod error;
pub mod evaluate;
pub mod evaluation;
pub mod files;
pub mod fit;
pub mod interval;
pub mod judge_tables;
mod judging;
pub mod panel;
pub mod plan;
pub mod preview;
pub mod reliability;
pub mod sample_size;
pub mod setting;
mod summarize;
pub mod table;
pub mod user;

pub use asking::{JudgeCost, MeteredJudge};
pub use attribution::{AttributionRow, ExplainedSentence, ExplainedSummary, SentenceGain, attribute};
pub use calibration::{CalibrationPlan, CalibrationRow, calibrate};
pub use configs::eval::Setting;
pub use contender::{Contender, SummarySource};
pub use error::EvalError;
pub use evaluate::evaluate;
pub use evaluation::{EvalRow, Evaluation, Gain, SummaryRecord, UserScore};
pub use fit::PromptLimit;
pub use judging::accuracy;
pub use panel::{PanelCell, PanelMember, PanelSpan, ShownOrder};
pub use plan::{EvalPlan, EvalProgress, NamedJudge};
pub use preview::{RoundPreview, TargetPreview, UserPreview, preview};
pub use setting::{HistorySplit, TargetKind};
pub use summarize::model_summaries;
pub use user::EvalUser;
