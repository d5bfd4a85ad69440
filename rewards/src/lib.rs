//! Rewards of summaries: judges, reward terms, their composition, and credit across streaming stages.
//!
//! A training step uses the modules in this order:
//!
//! - [`judge`]: a frozen model predicts which of two items the user described by a summary picks. [`panel`]: the judges of a run,
//!   and the rule that combines their verdicts; [`query`]: what they are asked.
//! - [`gate`]: responses that fail the format gate are not sent to the judges; all others become questions for them.
//! - [`batch`]: the inputs of reward terms.
//! - [`terms`]: each term scores responses by one criterion. [`registry`]: the terms that a config can name, including custom ones.
//!   [`external`]: terms that another program or an endpoint computes.
//! - [`composition`]: the weighted sum of a run's terms, with a breakdown per response.
//! - [`overlong`]: the penalty of a response that approaches the length limit.
//! - [`credit`]: the reward that a summary receives from later stages that are built on it.
//! - [`advantages`]: rewards relative to those of the other samples of the same user and stage (GRPO).
//!
//! Random choices are [`Draw`]s, so that a run is reproducible after a resume and with any number of ranks. Apart from [`external`],
//! everything here is a function of its arguments. The crate does not depend on libtorch.

pub mod advantages;
mod answer;
pub mod batch;
pub mod composition;
pub mod credit;
pub mod error;
pub mod external;
pub mod gate;
pub mod judge;
pub mod overlong;
pub mod panel;
pub mod query;
pub mod registry;
pub mod terms;
#[cfg(test)]
mod testing;
mod words;

pub use advantages::{Advantages, group_advantages};
pub use batch::{JudgeRequest, RewardBatch, RewardResponse};
pub use chat::Draw;
pub use composition::{
    Composition, CompositionState, Reward, Rewards, RowFacts, RunFacts, RunningStatistics, TermGate, TermSpec,
    TermState,
};
pub use credit::{CreditError, CreditGroup, CreditRule, Parent, carried};
pub use error::RewardError;
pub use external::{ExternalScores, ExternalTerm};
pub use judge::{Judge, JudgeError, JudgeSettings, Verdict};
pub use panel::{JudgeModel, JudgeStats, JudgeVerdict, Panel, PanelJudge, PanelVerdict, VerdictStore};
pub use query::{JudgeQuery, PanelRequest};
pub use registry::Registry;
pub use terms::{RewardTerm, TermInput};
