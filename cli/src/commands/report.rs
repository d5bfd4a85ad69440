//! `xplore report`.

use std::path::PathBuf;

use xplore::Error;

/// Writes the report, and the figure if requested.
pub fn run(runs: &[PathBuf], out: Option<PathBuf>, figure: Option<PathBuf>) -> Result<(), Error> {
    let out = out.unwrap_or_else(|| runs[0].join("report.html"));
    report::write(runs, &out)?;
    println!("{}", out.display());
    if let Some(figure) = figure {
        report::figure(&runs[0], &figure)?;
        println!("{}", figure.display());
    }
    Ok(())
}
