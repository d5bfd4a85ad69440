//! Errors of models.

use std::path::PathBuf;

use chat::completer::CompleterError;

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
    /// A model that is not available locally or on the hub.
    #[error(transparent)]
    Hub(#[from] hub::HubError),
    /// The machine lacks what is asked for.
    #[error("{0}")]
    Environment(String),
    /// The tokenizer of the model failed.
    #[error(transparent)]
    Tokenizer(#[from] chat::tokenizer::TokenizerError),
    /// Memory could not be allocated, on the CPU or on a GPU.
    #[error("{0}; use smaller micro-batches, fewer concurrent sequences, a smaller KV cache, or a smaller model")]
    OutOfMemory(String),
    /// A libtorch operation failed.
    #[error("libtorch: {0}")]
    Torch(String),
    /// Another rank, which holds a shard of the model, is lost.
    #[error("{0}")]
    Lost(String),
    /// A request is invalid for the model.
    #[error("{0}")]
    Request(String),
}

impl LmError {
    /// Returns the error of the model `name` as one of a completer.
    pub(crate) fn into_completer_error(self, name: &str) -> CompleterError {
        let message = format!("{name}: {self}");
        match self {
            Self::OutOfMemory(_) => CompleterError::OutOfMemory(message),
            _ => CompleterError::Model(message),
        }
    }
}

impl From<tch::TchError> for LmError {
    fn from(error: tch::TchError) -> Self {
        torch_ext::TorchError::from(error).into()
    }
}

impl From<torch_ext::TorchError> for LmError {
    fn from(error: torch_ext::TorchError) -> Self {
        match error {
            torch_ext::TorchError::OutOfMemory(message) => Self::OutOfMemory(message),
            other => Self::Torch(other.to_string()),
        }
    }
}
