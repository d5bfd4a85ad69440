//! `xplore synth`: from raw interaction logs to the rows of SFT and RL.

mod audit;
mod import;
mod inspect;
mod stats;
mod steps;

use clap::Subcommand;
use configs::SynthStep;
use xplore::Error;

/// Arguments of `xplore synth`.
#[derive(clap::Args)]
pub struct SynthArgs {
    #[command(subcommand)]
    command: SynthCommand,
}

#[derive(Subcommand)]
enum SynthCommand {
    /// Reads raw interaction logs and writes users' histories, split into training and test users, with a card of counts.
    Import(import::ImportArgs),
    /// Scores each choice with and without the user's history, by a scorer that it trains or by the verifier.
    Signal(steps::StepArgs),
    /// Selects hard but solvable choices as targets, and writes RL rows.
    Prune(steps::StepArgs),
    /// Lets a teacher write summaries, verifies, merges and re-tests them, and writes SFT rows.
    Teach(steps::StepArgs),
    /// Writes both sets as JSON lines and Parquet, split by user, with a dataset card.
    Export(steps::StepArgs),
    /// Runs the steps of the configuration that are not finished, in order.
    Run(steps::RunArgs),
    /// Prints counts and histograms of the rows of a pipeline or of files.
    Stats(stats::StatsArgs),
    /// Prints a user of a pipeline with all rows made of them.
    Inspect(inspect::InspectArgs),
    /// Checks the rows of a pipeline: leaked targets, position bias, near-duplicates, overlap with benchmarks.
    Audit(audit::AuditArgs),
}

/// Runs the command.
pub fn run(args: SynthArgs) -> Result<(), Error> {
    match args.command {
        SynthCommand::Import(args) => import::run(&args),
        SynthCommand::Signal(args) => steps::one(SynthStep::Signal, &args),
        SynthCommand::Prune(args) => steps::one(SynthStep::Prune, &args),
        SynthCommand::Teach(args) => steps::one(SynthStep::Teach, &args),
        SynthCommand::Export(args) => steps::one(SynthStep::Export, &args),
        SynthCommand::Run(args) => steps::all(&args),
        SynthCommand::Stats(args) => stats::run(&args),
        SynthCommand::Inspect(args) => inspect::run(&args),
        SynthCommand::Audit(args) => audit::run(&args),
    }
}
