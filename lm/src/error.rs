//! What can go wrong with a model.

use std::path::PathBuf;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum LmError {
    /// A file or folder of a model.
    #[error("{}: {message}", path.display())]
    File {
        /// Where.
        path: PathBuf,
        /// What is wrong, and the mend.
        message: String,
    },
    /// A model folder that cannot be written.
    #[error("{}: {message}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// What is wrong, and the mend.
        message: String,
    },
    /// The tokenizer beside the weights.
    #[error(transparent)]
    Tokenizer(#[from] chat::tokenizer::TokenizerError),
    /// libtorch refused an operation: out of memory, most often.
    #[error("libtorch: {0}")]
    Torch(String),
    /// Another process that holds a part of the model is gone.
    #[error("{0}")]
    Lost(String),
    /// A request that the model cannot serve.
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
