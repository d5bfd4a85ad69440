//! A rank that is lost, as an error of the model whose shards it holds.

use distributed::DistError;
use lm::LmError;

/// Converts the error of a collective to one of the model.
pub(crate) fn rank_lost(error: &DistError) -> LmError {
    LmError::Lost(error.to_string())
}
