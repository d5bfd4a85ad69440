//! Arguments of the commands that examine the judges of a configuration.

use std::path::PathBuf;

use configs::{EvalConfig, RlConfig};
use xplore::judge_tools::{GivenSummaries, JudgeSetup};
use xplore::{Error, runtime};

/// A configuration with judges.
#[derive(clap::Args)]
pub struct JudgesArgs {
    /// TOML configuration file with the judges.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override a value of the configuration, e.g. seed=1; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The kind of the configuration. Default: eval.
    #[arg(long, value_enum)]
    kind: Option<JudgesKind>,
}

/// The value of `--kind`.
#[derive(Clone, Copy, clap::ValueEnum)]
enum JudgesKind {
    /// An evaluation: its judges, users and models.
    Eval,
    /// RL training: its judges, and the users of its validation.
    Rl,
}

impl JudgesArgs {
    /// Returns the options, and whether each is given.
    pub fn given(&self) -> [(&'static str, bool); 3] {
        [("--config", self.config.is_some()), ("--set", !self.set.is_empty()), ("--kind", self.kind.is_some())]
    }

    /// Loads the configuration, and initializes the process with its number of threads.
    pub fn load(&self) -> Result<JudgeSetup, Error> {
        let Some(file) = &self.config else {
            return Err(Error::usage("--config FILE is missing; it names a configuration with judges"));
        };
        match self.kind.unwrap_or(JudgesKind::Eval) {
            JudgesKind::Eval => {
                let config: EvalConfig = configs::load(file, &self.set)?;
                runtime::init(config.threads)?;
                Ok(JudgeSetup::of_eval(&config))
            }
            JudgesKind::Rl => {
                let config: RlConfig = configs::load(file, &self.set)?;
                runtime::init(config.threads)?;
                Ok(JudgeSetup::of_rl(&config))
            }
        }
    }
}

/// The summaries that the judges read.
#[derive(clap::Args)]
pub struct SummaryArgs {
    /// The model that writes the summaries: the name of a model of the configuration, or a folder, run or hub ID.
    #[arg(long, value_name = "NAME|DIR|RUN|ID", conflicts_with = "summaries")]
    model: Option<String>,
    /// File of JSON lines {uid, summary}, such as the output of `xplore summarize`, in place of a model.
    #[arg(long, value_name = "FILE")]
    summaries: Option<PathBuf>,
}

impl SummaryArgs {
    /// Returns the options, and whether each is given.
    pub fn given(&self) -> [(&'static str, bool); 2] {
        [("--model", self.model.is_some()), ("--summaries", self.summaries.is_some())]
    }

    /// Returns the source of the summaries.
    pub fn source(&self) -> Result<GivenSummaries, Error> {
        match (&self.model, &self.summaries) {
            (Some(model), _) => Ok(GivenSummaries::Model(model.clone())),
            (None, Some(path)) => Ok(GivenSummaries::File(path.clone())),
            (None, None) => Err(Error::usage("no summaries: give --model M, which writes them, or --summaries FILE")),
        }
    }
}
