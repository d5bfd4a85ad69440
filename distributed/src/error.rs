//! Errors of distributed execution.

/// An error of the communication between ranks.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DistError {
    /// The ranks could not connect to each other.
    #[error(
        "rank {rank} of {size} could not join the other ranks at {at}: {message}; all ranks must start within \
             parallel.timeout_seconds and reach that address"
    )]
    Join {
        /// The rank that reports the error.
        rank: usize,
        /// Number of ranks.
        size: usize,
        /// Address of the store.
        at: String,
        /// Message of the backend.
        message: String,
    },
    /// A collective failed.
    #[error("rank {rank} failed in {place}: {reason}; resume from the newest complete checkpoint with --resume")]
    Collective {
        /// The rank that reports the error.
        rank: usize,
        /// The name of the collective.
        place: String,
        /// The rank that caused the failure, or the backend's message.
        reason: String,
    },
    /// The ranks computed different values where they must be equal.
    #[error("ranks diverged at {what}: {detail}; check that all machines run the same program on the same files")]
    Diverged {
        /// The compared quantity.
        what: String,
        /// The values of each rank.
        detail: String,
    },
}
