//! `xplore synth inspect`.

use std::path::PathBuf;

use data_synth::inspect::{Which, inspect};
use xplore::Error;

/// Arguments of `xplore synth inspect`.
#[derive(clap::Args)]
pub struct InspectArgs {
    /// Folder of a pipeline.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Number of the user, from 1, or their ID; `uid:17` is an ID that is a number.
    #[arg(value_name = "N|UID")]
    which: String,
}

/// Runs the command.
pub fn run(args: &InspectArgs) -> Result<(), Error> {
    print!("{}", inspect(&args.folder, &Which::parse(&args.which))?);
    Ok(())
}
