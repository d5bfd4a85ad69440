//! `xplore launch`.

use std::sync::atomic::{AtomicUsize, Ordering};

use dist::launch::{LaunchError, launch};

use crate::failure::Failure;

/// How often the user asked to stop: passed on to the ranks, the first time to finish their step, the second to leave at once.
pub static INTERRUPTS: AtomicUsize = AtomicUsize::new(0);

/// Which ranks.
#[derive(clap::Args)]
pub struct Launch {
    /// Ranks to start, one a GPU.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    nproc: u16,
    /// The command each of them runs: sft or rl, with its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the command.
pub fn run(asked: &Launch) -> Result<(), Failure> {
    let program =
        std::env::current_exe().map_err(|e| Failure::environment(format!("cannot find this program: {e}")))?;
    let interrupts = || INTERRUPTS.load(Ordering::Relaxed);
    launch(asked.nproc.into(), &program, &asked.command, interrupts).map_err(|error| match &error {
        LaunchError::Rank { code, .. } => Failure::ranked(*code, error.to_string()),
        _ => Failure::environment(error.to_string()),
    })
}
