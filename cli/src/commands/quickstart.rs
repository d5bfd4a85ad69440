//! `xplore quickstart`.

use std::path::PathBuf;
use std::time::Instant;

use xplore::{Error, eval, quickstart, runtime};

use crate::progress::Terminal;

/// Runs the command.
pub fn run(out: Option<PathBuf>, tiny: bool, seed: Option<u64>, set: Vec<String>) -> Result<(), Error> {
    let begin = Instant::now();
    let config = quickstart::configured(out, tiny, seed, set)?;
    runtime::init(config.threads)?;
    let evaluation = quickstart::run(&config, &Terminal)?;
    println!("{}", eval::tables(&evaluation)?);
    let folder = config.folder();
    println!("{:.0} s in total. Models, data, metrics: {}", begin.elapsed().as_secs_f64(), folder.display());
    println!("Open {} in a browser.", folder.join("report.html").display());
    Ok(())
}
