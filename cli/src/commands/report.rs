//! `xplore report`.

use std::path::PathBuf;

use crate::failure::Failure;

/// Writes the page, and the picture if asked for.
pub fn run(runs: &[PathBuf], out: Option<PathBuf>, figure: Option<PathBuf>) -> Result<(), Failure> {
    let out = out.unwrap_or_else(|| runs[0].join("report.html"));
    report::write(runs, &out)?;
    println!("{}", out.display());
    if let Some(figure) = figure {
        report::figure(&runs[0], &figure)?;
        println!("{}", figure.display());
    }
    Ok(())
}
