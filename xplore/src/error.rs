//! The error of this crate and its kind, from which a program decides what to do.

use std::fmt;

use chat::completer::CompleterError;
use chat::jsonl::JsonlError;
use hub::HubError;
use lm::LmError;
use rewards::JudgeError;
use trainer::TrainError;

/// The kind of an error: who has to act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Usage or configuration: the caller has to change it.
    Config,
    /// Input data or a model folder: the caller has to correct it.
    Data,
    /// The environment of the process: files, memory, network or ranks.
    Environment,
    /// A reward hacking alarm ended the run.
    Alarm,
    /// The user interrupted the process.
    Interrupted,
    /// A launched rank failed with this exit code.
    Rank(u8),
    /// Any other failure at run time.
    Runtime,
}

impl ErrorKind {
    /// Returns the exit code of the `xplore` program: 2 for usage or configuration, 3 for input data, 4 for the environment, 5
    /// for a reward hacking alarm, 130 for an interrupt by the user, a rank's own exit code, and 1 for anything else.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Config => 2,
            Self::Data => 3,
            Self::Environment => 4,
            Self::Alarm => 5,
            Self::Interrupted => 130,
            Self::Rank(code) => code,
            Self::Runtime => 1,
        }
    }
}

/// An error with its kind. The message states the file, line or key, what was expected, and how to fix it.
#[derive(Clone, Debug)]
pub struct Error {
    /// Kind of the error.
    pub kind: ErrorKind,
    message: String,
}

impl Error {
    /// Returns an error of kind [`ErrorKind::Config`].
    pub fn usage(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Config, message: message.into() }
    }

    /// Returns an error of kind [`ErrorKind::Data`].
    pub fn data(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Data, message: message.into() }
    }

    /// Returns an error of kind [`ErrorKind::Environment`].
    pub fn environment(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Environment, message: message.into() }
    }

    /// Returns an error of kind [`ErrorKind::Runtime`].
    pub fn runtime(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Runtime, message: message.into() }
    }

    /// Returns an error of kind [`ErrorKind::Interrupted`].
    pub fn interrupted(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Interrupted, message: message.into() }
    }

    /// Returns the error of a launched rank that ended with exit code `code`.
    pub fn rank(code: u8, message: String) -> Self {
        Self { kind: ErrorKind::Rank(code), message }
    }

    /// Returns the error with a further fix at the end of its message.
    pub(crate) fn with_fix(self, fix: &str) -> Self {
        Self { message: format!("{}; {fix}", self.message), ..self }
    }

    fn with(kind: ErrorKind, error: &dyn fmt::Display) -> Self {
        Self { kind, message: error.to_string() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<configs::ConfigError> for Error {
    fn from(error: configs::ConfigError) -> Self {
        Self::with(ErrorKind::Config, &error)
    }
}

impl From<chat::prompts::PromptError> for Error {
    fn from(error: chat::prompts::PromptError) -> Self {
        Self::with(ErrorKind::Config, &error)
    }
}

fn of_reward(error: &rewards::RewardError) -> ErrorKind {
    match error {
        rewards::RewardError::External { .. } => ErrorKind::Environment,
        _ => ErrorKind::Config,
    }
}

impl From<rewards::RewardError> for Error {
    fn from(error: rewards::RewardError) -> Self {
        Self::with(of_reward(&error), &error)
    }
}

impl From<JsonlError> for Error {
    fn from(error: JsonlError) -> Self {
        let writing = matches!(error, JsonlError::Io { action: "write", .. });
        Self::with(if writing { ErrorKind::Environment } else { ErrorKind::Data }, &error)
    }
}

impl From<distributed::DistError> for Error {
    fn from(error: distributed::DistError) -> Self {
        TrainError::Ranks(error).into()
    }
}

impl From<HubError> for Error {
    fn from(error: HubError) -> Self {
        let kind = match error {
            HubError::NoSuchPlace { .. }
            | HubError::NoCheckpoint { .. }
            | HubError::NotAFile { .. }
            | HubError::NotAModel { .. }
            | HubError::NoRows { .. } => ErrorKind::Data,
            HubError::NotCached { .. } | HubError::Network { .. } => ErrorKind::Environment,
        };
        let known = Self::with(kind, &error);
        if error.is_offline() { known.with_fix("examples/offline needs no network") } else { known }
    }
}

impl From<LmError> for Error {
    fn from(error: LmError) -> Self {
        let kind = match error {
            LmError::File { .. } | LmError::Tokenizer(_) | LmError::Request(_) => ErrorKind::Data,
            LmError::Write { .. } | LmError::OutOfMemory(_) | LmError::Environment(_) => ErrorKind::Environment,
            LmError::Hub(error) => return error.into(),
            LmError::Torch(_) | LmError::Lost(_) => ErrorKind::Runtime,
        };
        Self::with(kind, &error)
    }
}

impl From<TrainError> for Error {
    fn from(error: TrainError) -> Self {
        let kind = match error {
            TrainError::Model(error) => return error.into(),
            TrainError::Corpus(error) => return error.into(),
            TrainError::Tokenizer(_) | TrainError::Data(_) | TrainError::Credit(_) => ErrorKind::Data,
            TrainError::Prompt(_) => ErrorKind::Config,
            TrainError::Reward(ref reward) => of_reward(reward),
            TrainError::File { .. } | TrainError::Environment(_) => ErrorKind::Environment,
            TrainError::Interrupted { .. } => ErrorKind::Interrupted,
            TrainError::Alarm { .. } => ErrorKind::Alarm,
            TrainError::Ranks(distributed::DistError::Join { .. }) => ErrorKind::Environment,
            TrainError::Judge(ref judge) => of_judge(judge),
            TrainError::Diverged(_) | TrainError::Ranks(_) => ErrorKind::Runtime,
        };
        Self::with(kind, &error)
    }
}

impl From<corpus::CorpusError> for Error {
    fn from(error: corpus::CorpusError) -> Self {
        match error {
            corpus::CorpusError::Source(error) => error.into(),
            corpus::CorpusError::Io { action: "write", .. } => Self::with(ErrorKind::Environment, &error),
            _ => Self::with(ErrorKind::Data, &error),
        }
    }
}

impl From<serve::ServeError> for Error {
    fn from(error: serve::ServeError) -> Self {
        Self::with(ErrorKind::Environment, &error)
    }
}

fn of_completer(error: &CompleterError) -> ErrorKind {
    match error {
        CompleterError::OutOfMemory(_) => ErrorKind::Environment,
        CompleterError::Request { .. } | CompleterError::Model(_) => ErrorKind::Runtime,
    }
}

fn of_judge(error: &JudgeError) -> ErrorKind {
    match error {
        JudgeError::Model { source, .. } => of_completer(source),
        JudgeError::Cache { .. } => ErrorKind::Environment,
        JudgeError::Unknown { .. } | JudgeError::NoJudge { .. } => ErrorKind::Config,
        _ => ErrorKind::Runtime,
    }
}

impl From<JudgeError> for Error {
    fn from(error: JudgeError) -> Self {
        Self::with(of_judge(&error), &error)
    }
}

impl From<CompleterError> for Error {
    fn from(error: CompleterError) -> Self {
        Self::with(of_completer(&error), &error)
    }
}

impl From<evals::EvalError> for Error {
    fn from(error: evals::EvalError) -> Self {
        let kind = match &error {
            evals::EvalError::User { .. } => ErrorKind::Data,
            evals::EvalError::Model { source, .. } => of_completer(source),
            evals::EvalError::Judge(judge) => of_judge(judge),
            _ => ErrorKind::Runtime,
        };
        Self::with(kind, &error)
    }
}

impl From<evals::files::WriteError> for Error {
    fn from(error: evals::files::WriteError) -> Self {
        Self::with(ErrorKind::Environment, &error)
    }
}

impl From<report::ReportError> for Error {
    fn from(error: report::ReportError) -> Self {
        let kind = match error {
            report::ReportError::Malformed { .. } | report::ReportError::Nothing { .. } => ErrorKind::Data,
            report::ReportError::Io { .. } => ErrorKind::Environment,
            _ => ErrorKind::Runtime,
        };
        Self::with(kind, &error)
    }
}

impl From<data_synth::signal::VerifyError> for Error {
    fn from(error: data_synth::signal::VerifyError) -> Self {
        Self::with(ErrorKind::Runtime, &error)
    }
}

impl From<data_synth::synthesis::SynthesisError> for Error {
    fn from(error: data_synth::synthesis::SynthesisError) -> Self {
        let kind = match &error {
            data_synth::synthesis::SynthesisError::Teacher(model)
            | data_synth::synthesis::SynthesisError::Verifier(model) => of_completer(model),
            _ => ErrorKind::Runtime,
        };
        Self::with(kind, &error)
    }
}

impl From<data_synth::scorer::ScorerError> for Error {
    fn from(error: data_synth::scorer::ScorerError) -> Self {
        let kind = match error {
            data_synth::scorer::ScorerError::Tokenizer(_) => ErrorKind::Data,
            data_synth::scorer::ScorerError::Failed(_) | data_synth::scorer::ScorerError::Letters { .. } => {
                ErrorKind::Runtime
            }
        };
        Self::with(kind, &error)
    }
}

impl From<data_synth::prune::PruneError> for Error {
    fn from(error: data_synth::prune::PruneError) -> Self {
        match error {
            data_synth::prune::PruneError::Rows(error) => error.into(),
            data_synth::prune::PruneError::Verify(error) => error.into(),
            data_synth::prune::PruneError::Policy(ref policy) => Self::with(of_completer(policy), &error),
            data_synth::prune::PruneError::Prompt(error) => error.into(),
            data_synth::prune::PruneError::NoSignals { .. } | data_synth::prune::PruneError::Unknown { .. } => {
                Self::with(ErrorKind::Data, &error)
            }
        }
    }
}

impl From<data_synth::import::ImportError> for Error {
    fn from(error: data_synth::import::ImportError) -> Self {
        use data_synth::import::ImportError;
        let kind = match &error {
            ImportError::Io { action: "write", .. } => ErrorKind::Environment,
            ImportError::UnknownFormat { .. } | ImportError::Unused { .. } => ErrorKind::Config,
            ImportError::Interrupted => ErrorKind::Interrupted,
            _ => ErrorKind::Data,
        };
        Self::with(kind, &error)
    }
}

impl From<data_synth::teach::TeachRunError> for Error {
    fn from(error: data_synth::teach::TeachRunError) -> Self {
        let kind = match error {
            data_synth::teach::TeachRunError::Rows(error) => return error.into(),
            data_synth::teach::TeachRunError::Synthesis(error) => return error.into(),
            data_synth::teach::TeachRunError::Write { .. } => ErrorKind::Environment,
        };
        Self::with(kind, &error)
    }
}

impl From<data_synth::any_row::AnyRowError> for Error {
    fn from(error: data_synth::any_row::AnyRowError) -> Self {
        match error {
            data_synth::any_row::AnyRowError::File(error) => error.into(),
            data_synth::any_row::AnyRowError::Row { .. } => Self::with(ErrorKind::Data, &error),
        }
    }
}

impl From<data_synth::export::ExportError> for Error {
    fn from(error: data_synth::export::ExportError) -> Self {
        use data_synth::export::ExportError;
        let kind = match error {
            ExportError::Rows(error) => return error.into(),
            ExportError::Row(error) => return error.into(),
            ExportError::Nothing { .. } | ExportError::Counts { .. } => ErrorKind::Data,
            ExportError::Share { .. } => ErrorKind::Config,
            ExportError::Write { .. } => ErrorKind::Environment,
            ExportError::Parquet { .. } => ErrorKind::Runtime,
        };
        Self::with(kind, &error)
    }
}

impl From<data_synth::stats::StatsError> for Error {
    fn from(error: data_synth::stats::StatsError) -> Self {
        match error {
            data_synth::stats::StatsError::Row(error) => error.into(),
            _ => Self::with(ErrorKind::Data, &error),
        }
    }
}

impl From<data_synth::inspect::InspectError> for Error {
    fn from(error: data_synth::inspect::InspectError) -> Self {
        match error {
            data_synth::inspect::InspectError::Rows(error) => error.into(),
            _ => Self::with(ErrorKind::Data, &error),
        }
    }
}

impl From<data_synth::audit::AuditError> for Error {
    fn from(error: data_synth::audit::AuditError) -> Self {
        use data_synth::audit::AuditError;
        let kind = match error {
            AuditError::Rows(error) => return error.into(),
            AuditError::Row(error) => return error.into(),
            AuditError::Option { .. } => ErrorKind::Config,
            AuditError::Nothing { .. } | AuditError::NoTrainingData { .. } => ErrorKind::Data,
        };
        Self::with(kind, &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_follows_from_the_error_below() {
        let full: LmError = torch_ext::TorchError::OutOfMemory("out of memory: 9 bytes were asked for".into()).into();
        assert_eq!(Error::from(TrainError::from(full)).kind, ErrorKind::Environment);
        let alarm = TrainError::Alarm { reason: "hacked".into(), checkpoint: None };
        assert_eq!(Error::from(alarm).kind.exit_code(), 5);
        let judge = JudgeError::Model { judge: "j".into(), source: CompleterError::OutOfMemory("j: full".into()) };
        assert_eq!(Error::from(evals::EvalError::from(judge)).kind, ErrorKind::Environment);
        let gone = LmError::from(HubError::NotCached { given: "a/b".into(), cache: "cache".into() });
        let gone = Error::from(TrainError::from(gone));
        assert!(gone.to_string().ends_with("use a local folder; examples/offline needs no network"), "{gone}");
        let shape: LmError = torch_ext::TorchError::Argument("linear: x is [2, 3]".into()).into();
        assert_eq!(Error::from(shape).kind, ErrorKind::Runtime);
    }
}
