//! Errors of models.

use std::path::PathBuf;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum LmError {
    /// A file or folder of a model is invalid.
    #[error("{}: {message}", path.display())]
    File {
        /// Path of the file or folder.
        path: PathBuf,
        /// What is wrong, and how to fix it.
        message: String,
    },
    /// A model folder cannot be written.
    #[error("{}: {message}", path.display())]
    Write {
        /// Path that cannot be written.
        path: PathBuf,
        /// What is wrong, and how to fix it.
        message: String,
    },
    /// The tokenizer of the model failed.
    #[error(transparent)]
    Tokenizer(#[from] chat::tokenizer::TokenizerError),
    /// A libtorch operation failed, usually because memory could not be allocated.
    #[error("libtorch: {0}")]
    Torch(String),
    /// Another rank, which holds a shard of the model, is lost.
    #[error("{0}")]
    Lost(String),
    /// A request is invalid for the model.
    #[error("{0}")]
    Request(String),
}

impl From<tch::TchError> for LmError {
    fn from(error: tch::TchError) -> Self {
        Self::Torch(error.to_string())
    }
}

impl From<torch_ext::TorchError> for LmError {
    fn from(error: torch_ext::TorchError) -> Self {
        Self::Torch(error.to_string())
    }
}
