//! What a failure says and which exit code it has: 2 usage or configuration, 3 input data, 4 environment, 130 stopped by
//! the user, 1 anything else.

use std::fmt;

use chat::jsonl::JsonlError;
use hub::HubError;
use lm::LmError;
use trainer::TrainError;

/// The end of a command that did not succeed.
#[derive(Debug)]
pub struct Failure {
    /// Exit code.
    pub code: u8,
    message: String,
}

const CONFIG: u8 = 2;
const DATA: u8 = 3;
const ENVIRONMENT: u8 = 4;
const INTERRUPTED: u8 = 130;

impl Failure {
    /// Bad usage.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: CONFIG, message: message.into() }
    }

    /// Bad input data.
    pub fn data(message: impl Into<String>) -> Self {
        Self { code: DATA, message: message.into() }
    }

    /// What is around the program does not let it work.
    pub fn environment(message: impl Into<String>) -> Self {
        Self { code: ENVIRONMENT, message: message.into() }
    }

    /// Of ranks that were started, with the code of the first that failed.
    pub fn ranked(code: u8, message: String) -> Self {
        Self { code, message }
    }

    fn with(code: u8, error: &dyn fmt::Display) -> Self {
        Self { code, message: error.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<configs::ConfigError> for Failure {
    fn from(error: configs::ConfigError) -> Self {
        Self::with(CONFIG, &error)
    }
}

impl From<chat::prompts::PromptError> for Failure {
    fn from(error: chat::prompts::PromptError) -> Self {
        Self::with(CONFIG, &error)
    }
}

impl From<rewards::CompositionError> for Failure {
    fn from(error: rewards::CompositionError) -> Self {
        Self::with(CONFIG, &error)
    }
}

impl From<JsonlError> for Failure {
    fn from(error: JsonlError) -> Self {
        let writing = matches!(error, JsonlError::Io { action: "write", .. });
        Self::with(if writing { ENVIRONMENT } else { DATA }, &error)
    }
}

impl From<dist::DistError> for Failure {
    fn from(error: dist::DistError) -> Self {
        TrainError::Ranks(error).into()
    }
}

impl From<LmError> for Failure {
    fn from(error: LmError) -> Self {
        let code = match error {
            LmError::File { .. } | LmError::Tokenizer(_) | LmError::Request(_) => DATA,
            LmError::Write { .. } => ENVIRONMENT,
            LmError::Torch(_) | LmError::Lost(_) => 1,
        };
        Self::with(code, &error)
    }
}

impl From<TrainError> for Failure {
    fn from(error: TrainError) -> Self {
        let code = match error {
            TrainError::Model(error) => return error.into(),
            TrainError::Hub(
                HubError::NoSuchPlace { .. }
                | HubError::NotAFile { .. }
                | HubError::NotAModel { .. }
                | HubError::NoRows { .. },
            ) => DATA,
            TrainError::Hub(HubError::NotCached { .. } | HubError::Network { .. }) => ENVIRONMENT,
            TrainError::Corpus(error) => return error.into(),
            TrainError::Tokenizer(_) | TrainError::Data(_) | TrainError::Credit(_) => DATA,
            TrainError::Prompt(_) | TrainError::Reward(_) => CONFIG,
            TrainError::File { .. } | TrainError::Environment(_) => ENVIRONMENT,
            TrainError::Interrupted { .. } => INTERRUPTED,
            TrainError::Ranks(dist::DistError::Join { .. }) => ENVIRONMENT,
            TrainError::Judge(_) | TrainError::Diverged(_) | TrainError::Ranks(_) => 1,
        };
        Self::with(code, &error)
    }
}

impl From<corpus::CorpusError> for Failure {
    fn from(error: corpus::CorpusError) -> Self {
        match error {
            corpus::CorpusError::Source(error) => TrainError::Hub(error).into(),
            corpus::CorpusError::Io { action: "write", .. } => Self::with(ENVIRONMENT, &error),
            _ => Self::with(DATA, &error),
        }
    }
}

impl From<serve::ServeError> for Failure {
    fn from(error: serve::ServeError) -> Self {
        Self::with(ENVIRONMENT, &error)
    }
}

impl From<rewards::JudgeError> for Failure {
    fn from(error: rewards::JudgeError) -> Self {
        Self::with(1, &error)
    }
}

impl From<chat::completer::CompleterError> for Failure {
    fn from(error: chat::completer::CompleterError) -> Self {
        Self::with(1, &error)
    }
}

impl From<evals::EvalError> for Failure {
    fn from(error: evals::EvalError) -> Self {
        Self::with(if matches!(error, evals::EvalError::Person { .. }) { DATA } else { 1 }, &error)
    }
}

impl From<evals::files::WriteError> for Failure {
    fn from(error: evals::files::WriteError) -> Self {
        Self::with(ENVIRONMENT, &error)
    }
}

impl From<report::ReportError> for Failure {
    fn from(error: report::ReportError) -> Self {
        let code = match error {
            report::ReportError::Malformed { .. } | report::ReportError::Nothing { .. } => DATA,
            report::ReportError::Io { .. } => ENVIRONMENT,
            _ => 1,
        };
        Self::with(code, &error)
    }
}

impl From<data_synth::signal::JudgeError> for Failure {
    fn from(error: data_synth::signal::JudgeError) -> Self {
        Self::with(1, &error)
    }
}

impl From<data_synth::synthesis::SynthesisError> for Failure {
    fn from(error: data_synth::synthesis::SynthesisError) -> Self {
        Self::with(1, &error)
    }
}
