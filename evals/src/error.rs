//! Why an evaluation cannot be made.

use chat::completer::CompleterError;
use chat::prompts::PromptError;
use rewards::JudgeError;

/// Why an evaluation cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// Nothing to evaluate.
    #[error("nothing to evaluate: no {0} given")]
    Nothing(&'static str),
    /// A name that stands for two things.
    #[error("two {what} are called `{name}`; give each a name of its own")]
    Twice {
        /// People, models or judges.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A person that cannot be evaluated.
    #[error("person `{uid}`: field `{field}` {message}")]
    Person {
        /// The person.
        uid: String,
        /// The field at fault.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// `random` needs somebody else.
    #[error("the summary of a random other person needs at least two people, got one")]
    Alone,
    /// A history that does not fit even when cut to its last interaction.
    #[error(
        "person `{uid}`: the last interaction alone exceeds the {tokens} tokens that `{reader}` reads; raise its limit, \
         shorten the texts or remove the person"
    )]
    TooLong {
        /// The person.
        uid: String,
        /// The model or judge.
        reader: String,
        /// Its limit.
        tokens: usize,
    },
    /// A prompt that cannot be made.
    #[error("summary prompt: {0}")]
    Prompt(#[from] PromptError),
    /// A judge that fails.
    #[error(transparent)]
    Judge(#[from] JudgeError),
    /// A model that fails.
    #[error("model `{model}`: {source}")]
    Model {
        /// The model's name.
        model: String,
        /// What it said.
        source: CompleterError,
    },
    /// A model that answers a different number of requests than it was asked.
    #[error(
        "model `{model}` answered {answered} of {asked} requests; its completer must answer every request, in order"
    )]
    Answers {
        /// The model's name.
        model: String,
        /// Requests sent.
        asked: usize,
        /// Completions received.
        answered: usize,
    },
    /// A name that is in no result.
    #[error("no model called `{name}` was evaluated; there are: {known}")]
    UnknownModel {
        /// The name.
        name: String,
        /// Those evaluated.
        known: String,
    },
}
