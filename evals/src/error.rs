//! Errors of an evaluation.

use chat::completer::CompleterError;
use chat::prompts::PromptError;
use rewards::JudgeError;

/// The error of an evaluation.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// There is nothing to evaluate.
    #[error("nothing to evaluate: no {0} given")]
    Nothing(&'static str),
    /// A duplicate name.
    #[error("two {what} are called `{name}`; give each a unique name")]
    Twice {
        /// Users, models or judges.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A user that cannot be evaluated.
    #[error("user `{uid}`: field `{field}` {message}")]
    User {
        /// The id of the user.
        uid: String,
        /// The invalid field.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// `random` with a single user; it needs at least two.
    #[error("the bound `random` uses the summary of another user, so it needs at least two users; got one")]
    Alone,
    /// A history that does not fit even when cut to its last interaction or message.
    #[error(
        "user `{uid}`: the last interaction or message alone exceeds the limit of {tokens} tokens of `{reader}`; raise the \
         limit, shorten the texts or remove the user"
    )]
    TooLong {
        /// The id of the user.
        uid: String,
        /// The model or judge.
        reader: String,
        /// Its limit, in tokens.
        tokens: usize,
    },
    /// A prompt that does not render.
    #[error("summary prompt: {0}")]
    Prompt(#[from] PromptError),
    /// A judge that fails.
    #[error(transparent)]
    Judge(#[from] JudgeError),
    /// A model that fails.
    #[error("model `{model}`: {source}")]
    Model {
        /// The name of the model.
        model: String,
        /// The error of the model.
        source: CompleterError,
    },
    /// A model that returns a different number of completions than it received requests.
    #[error(
        "model `{model}` answered {answered} of {asked} requests; its completer must answer every request, in order"
    )]
    Answers {
        /// The name of the model.
        model: String,
        /// The number of requests sent.
        asked: usize,
        /// The number of completions received.
        answered: usize,
    },
    /// A number of summaries that differs from the number of users.
    #[error("{summaries} summaries of {users} users; give one for each user, in order")]
    Summaries {
        /// The number of users.
        users: usize,
        /// The number of summaries.
        summaries: usize,
    },
    /// A name without results.
    #[error("model `{name}` was not evaluated; evaluated models: {known}")]
    UnknownModel {
        /// The name.
        name: String,
        /// The names of the evaluated models.
        known: String,
    },
}
