//! What can end a training run.

use std::path::{Path, PathBuf};

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The model.
    #[error(transparent)]
    Model(#[from] lm::LmError),
    /// A model that is nowhere to be had.
    #[error(transparent)]
    Hub(#[from] hub::HubError),
    /// The rows.
    #[error(transparent)]
    Corpus(#[from] corpus::CorpusError),
    /// A tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] chat::tokenizer::TokenizerError),
    /// A prompt template.
    #[error(transparent)]
    Prompt(#[from] chat::prompts::PromptError),
    /// The judge.
    #[error(transparent)]
    Judge(#[from] rewards::JudgeError),
    /// The reward's composition.
    #[error(transparent)]
    Reward(#[from] rewards::CompositionError),
    /// The credit across stages.
    #[error(transparent)]
    Credit(#[from] rewards::CreditError),
    /// The ranks of the job.
    #[error(transparent)]
    Ranks(#[from] dist::DistError),
    /// A file of the run.
    #[error("{}: {message}", path.display())]
    File {
        /// Where.
        path: PathBuf,
        /// What is wrong, and the mend.
        message: String,
    },
    /// Data that cannot be trained on.
    #[error("{0}")]
    Data(String),
    /// The machine lacks what the configuration asks for.
    #[error("{0}")]
    Environment(String),
    /// Training itself broke down.
    #[error("{0}")]
    Diverged(String),
    /// The user asked to stop.
    #[error("stopped after step {step}, as asked; {}", kept(checkpoint.as_deref()))]
    Interrupted {
        /// Last finished step.
        step: u64,
        /// The checkpoint, if this phase keeps any.
        checkpoint: Option<PathBuf>,
    },
}

fn kept(checkpoint: Option<&Path>) -> String {
    checkpoint.map_or("this phase keeps no checkpoints".into(), |path| format!("the checkpoint is {}", path.display()))
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
