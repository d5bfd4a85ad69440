//! `xplore eval`.

use std::path::Path;

use configs::EvalConfig;
use xplore::{Error, eval, runtime};

use crate::progress::Terminal;

/// Runs the command.
pub fn run(file: &Path, set: &[String]) -> Result<(), Error> {
    let config: EvalConfig = configs::load(file, set)?;
    runtime::init(config.threads)?;
    let evaluation = eval::run(&config, &Terminal)?;
    println!("{}", eval::tables(&evaluation)?);
    Ok(())
}
