//! `xplore reward`: applies the format gate to responses, without a model.

use configs::rl::reward::FormatGate;
use xplore::Error;
use xplore::protocols::gate::responses;

use super::input::{self, RowFiles};

/// Arguments of `xplore reward`.
#[derive(clap::Args)]
pub struct RewardArgs {
    /// The format gate (reward.gate): JSON lines {text} to result and summary.
    #[arg(long, value_enum)]
    gate: Gate,
    #[command(flatten)]
    rows: RowFiles,
}

/// The value of `--gate`.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Gate {
    /// The gate of the released reward.
    Published,
    /// The default.
    Strict,
}

/// Runs the command.
pub fn run(args: &RewardArgs) -> Result<(), Error> {
    let gate = match args.gate {
        Gate::Published => FormatGate::Published,
        Gate::Strict => FormatGate::Strict,
    };
    input::write(args.rows.out.as_deref(), &responses(gate, args.rows.input.as_deref())?)
}
