//! Errors of a training run.

use std::path::{Path, PathBuf};

use distributed::DistError;
use lm::LmError;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// An error of the model.
    #[error(transparent)]
    Model(#[from] lm::LmError),
    /// An error of the training rows.
    #[error(transparent)]
    Corpus(#[from] corpus::CorpusError),
    /// An error of a tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] chat::tokenizer::TokenizerError),
    /// An error of a prompt template.
    #[error(transparent)]
    Prompt(#[from] chat::prompts::PromptError),
    /// An error of the judge.
    #[error(transparent)]
    Judge(#[from] rewards::JudgeError),
    /// An error of the reward composition.
    #[error(transparent)]
    Reward(#[from] rewards::RewardError),
    /// An error of credit assignment across stages.
    #[error(transparent)]
    Credit(#[from] rewards::CreditError),
    /// An error of the job's ranks.
    #[error(transparent)]
    Ranks(#[from] distributed::DistError),
    /// An error of a file of the run.
    #[error("{}: {message}", path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong, and how to fix it.
        message: String,
    },
    /// Data that cannot be trained on.
    #[error("{0}")]
    Data(String),
    /// A machine that lacks what the configuration requires.
    #[error("{0}")]
    Environment(String),
    /// Training diverged.
    #[error("{0}")]
    Diverged(String),
    /// A reward hacking alarm ended the run.
    #[error("{reason}; {}", resumable(checkpoint.as_deref()))]
    Alarm {
        /// What was found.
        reason: String,
        /// The checkpoint that the run paused at, if any.
        checkpoint: Option<PathBuf>,
    },
    /// The user asked to stop.
    #[error("stopped after step {step} as requested; {}", kept(checkpoint.as_deref()))]
    Interrupted {
        /// The last finished step.
        step: u64,
        /// The checkpoint, if this phase keeps any.
        checkpoint: Option<PathBuf>,
    },
}

fn kept(checkpoint: Option<&Path>) -> String {
    checkpoint.map_or("this phase writes no checkpoints".into(), |path| format!("the checkpoint is {}", path.display()))
}

fn resumable(checkpoint: Option<&Path>) -> String {
    match checkpoint {
        Some(path) => {
            format!(
                "paused at {}; see the report; resume with --resume, or change the reward and start a new run",
                path.display()
            )
        }
        None => "the run ends; see the report, change the reward and start a new run".into(),
    }
}

impl From<tch::TchError> for TrainError {
    fn from(error: tch::TchError) -> Self {
        Self::Model(error.into())
    }
}

impl From<torch_ext::TorchError> for TrainError {
    fn from(error: torch_ext::TorchError) -> Self {
        Self::Model(error.into())
    }
}

/// Returns the error of a collective as one of the model, whose shards the lost rank holds.
pub(crate) fn rank_lost(error: &DistError) -> LmError {
    LmError::Lost(error.to_string())
}
