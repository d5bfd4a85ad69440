//! The steps of a pipeline, one at a time or all of them.

use std::path::PathBuf;

use configs::{SynthConfig, SynthStep};
use xplore::synth::import::load;
use xplore::synth::{self, RunOptions};
use xplore::{Error, runtime};

use crate::Config;
use crate::progress::Terminal;

/// Arguments of one step.
#[derive(clap::Args)]
pub struct StepArgs {
    #[command(flatten)]
    config: Config,
    /// File to read in place of the output of the step before.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Run the step even if it is finished. Answers in the journals of `teach` are kept.
    #[arg(long)]
    force: bool,
}

/// Arguments of `xplore synth run`.
#[derive(clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    config: Config,
    /// Run all steps, even those that are finished. Answers in the journals of `teach` are kept.
    #[arg(long)]
    force: bool,
}

/// Runs one step.
pub fn one(step: SynthStep, args: &StepArgs) -> Result<(), Error> {
    let config = load(&args.config.config, &args.config.set)?;
    let options = RunOptions { force: args.force, input: args.input.clone() };
    run(&config, &[step], &options)
}

/// Runs the steps of the configuration.
pub fn all(args: &RunArgs) -> Result<(), Error> {
    let config = load(&args.config.config, &args.config.set)?;
    run(&config, &config.steps, &RunOptions { force: args.force, input: None })
}

/// Runs steps, and prints the folder of the last one.
pub fn run(config: &SynthConfig, steps: &[SynthStep], options: &RunOptions) -> Result<(), Error> {
    runtime::init(config.threads)?;
    synth::run(config, steps, options, &Terminal)?;
    if let Some(last) = steps.iter().max() {
        println!("{}", config.folder().join(last.name()).display());
    }
    Ok(())
}
