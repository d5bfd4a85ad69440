//! `xplore launch`.

use std::sync::atomic::{AtomicUsize, Ordering};

use distributed::launch::{LaunchError, launch};

use xplore::Error;

use crate::log::LogLevel;

/// Number of interrupts by the user. They are forwarded to the ranks: the first makes them finish their step, the second makes them
/// exit at once.
pub static INTERRUPTS: AtomicUsize = AtomicUsize::new(0);

/// Arguments of `xplore launch`.
#[derive(clap::Args)]
pub struct Launch {
    /// Number of ranks to start, one per GPU.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    nproc: u16,
    /// Command that each rank runs: sft or rl, with its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the command. The ranks log at `level`.
pub fn run(asked: &Launch, level: LogLevel) -> Result<(), Error> {
    let program = std::env::current_exe()
        .map_err(|e| Error::environment(format!("cannot locate the executable of xplore: {e}")))?;
    let interrupts = || INTERRUPTS.load(Ordering::Relaxed);
    let arguments = [vec!["--log-level".to_owned(), level.to_string()], asked.command.clone()].concat();
    launch(asked.nproc.into(), &program, &arguments, interrupts).map_err(|error| match &error {
        LaunchError::Rank { code, .. } => Error::rank(*code, error.to_string()),
        _ => Error::environment(error.to_string()),
    })
}
