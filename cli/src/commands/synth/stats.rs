//! `xplore synth stats`.

use std::path::PathBuf;

use data_synth::stats::stats;
use xplore::{Error, parts};

/// Width of the histograms, in characters.
const WIDTH: usize = 100;

/// Arguments of `xplore synth stats`.
#[derive(clap::Args)]
pub struct StatsArgs {
    /// Folders of pipelines, or files of rows, also on the hub (hf://datasets/…).
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Also write the histograms as an HTML page to this file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &StatsArgs) -> Result<(), Error> {
    let paths: Vec<PathBuf> = args.paths.iter().map(|path| parts::local(path)).collect::<Result<_, _>>()?;
    let stats = stats(&paths)?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&stats).expect("numbers and texts always serialize")),
        false => print!("{}", stats.text(WIDTH)),
    }
    match &args.html {
        Some(file) => parts::write(file, &stats.html()?),
        None => Ok(()),
    }
}
