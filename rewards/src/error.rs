//! Errors of reward terms and their composition.

/// An error of a reward term or of the composition.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RewardError {
    /// The term is not registered.
    #[error("unknown reward term `{name}`{}; known terms: {}", suggestion(name, known), known.join(", "))]
    Unknown {
        /// The requested name.
        name: String,
        /// The registered names.
        known: Vec<String>,
    },
    /// A term of this name is registered already.
    #[error("reward term `{0}` is already registered; choose another name")]
    Registered(String),
    /// The composition names a term twice.
    #[error(
        "reward term `{0}` is listed twice; list it once, with the sum of its weights, or give it another name and set `term`"
    )]
    Twice(String),
    /// The gate of a term names a term that is not listed, or the term itself.
    #[error("reward term `{term}` requires `{required}`; expected another listed term: {}", known.join(", "))]
    Requires {
        /// Name of the term.
        term: String,
        /// The required term.
        required: String,
        /// Names of the listed terms.
        known: Vec<String>,
    },
    /// The weight is not finite.
    #[error("reward term `{term}` has weight {weight}; expected a finite number")]
    Weight {
        /// Name of the term.
        term: String,
        /// Weight of the term.
        weight: f64,
    },
    /// The term does not accept its parameters.
    #[error("reward term `{term}`: params: {message}")]
    Params {
        /// Name of the term.
        term: String,
        /// Description of the problem.
        message: String,
    },
    /// The term failed.
    #[error("reward term `{term}`: {message}")]
    Failed {
        /// Name of the term.
        term: String,
        /// Reason of the failure.
        message: String,
    },
    /// A program or an endpoint that computes a term failed.
    #[error("reward term `{term}` ({origin}): {message}")]
    External {
        /// Name of the term.
        term: String,
        /// The command, or the URL.
        origin: String,
        /// Reason of the failure.
        message: String,
    },
    /// The number of scores differs from the number of responses.
    #[error(
        "reward term `{term}` returned {got} scores for {expected} responses; it must return one for each, in order"
    )]
    Count {
        /// Name of the term.
        term: String,
        /// Number of responses.
        expected: usize,
        /// Number of scores.
        got: usize,
    },
    /// A score is not finite.
    #[error("reward term `{term}` scored response {response} of user {uid} with {score}; expected a finite number")]
    NotFinite {
        /// Name of the term.
        term: String,
        /// Index of the response in the batch.
        response: usize,
        /// ID of the user.
        uid: String,
        /// The score.
        score: f64,
    },
    /// The composition has no terms.
    #[error("no reward terms; set at least one, such as judge = 1.0")]
    Empty,
}

fn suggestion(name: &str, known: &[String]) -> String {
    let likeness = |term: &&String| strsim::jaro_winkler(term, name);
    let nearest = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    nearest.filter(|t| likeness(t) > 0.7).map_or(String::new(), |t| format!(" (did you mean `{t}`?)"))
}
