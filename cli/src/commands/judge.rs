//! `xplore judge`: reads judges' answers by the rules of training and evaluation, without a model.

use xplore::Error;
use xplore::protocols::judge::{JudgeProtocol, answers};

use super::input::{self, RowFiles};

/// Arguments of `xplore judge`.
#[derive(clap::Args)]
pub struct JudgeArgs {
    /// Read answers: JSON lines {text} or {tokens} to selection and confidence.
    #[arg(long)]
    parse: bool,
    /// The rules: those of the released reward, or the defaults.
    #[arg(long, value_enum, default_value = "published")]
    protocol: Protocol,
    #[command(flatten)]
    rows: RowFiles,
}

/// The value of `--protocol`.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Protocol {
    /// Mode sampled; a missing answer has confidence 0.
    Published,
    /// Mode forced or reasoned; a missing answer has confidence 0.5.
    Ours,
}

/// Runs the command.
pub fn run(args: &JudgeArgs) -> Result<(), Error> {
    if !args.parse {
        return Err(Error::usage("xplore judge: give --parse, which reads answers from JSON lines"));
    }
    let protocol = match args.protocol {
        Protocol::Published => JudgeProtocol::Published,
        Protocol::Ours => JudgeProtocol::Ours,
    };
    input::write(args.rows.out.as_deref(), &answers(protocol, args.rows.input.as_deref())?)
}
