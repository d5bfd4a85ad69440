//! `xplore explain`: what each sentence of a summary earns.

use std::path::PathBuf;

use xplore::judge_tools::summaries;
use xplore::{Error, explain};

use super::judge::print;
use super::judging::{JudgesArgs, SummaryArgs};
use crate::progress::Terminal;

/// Arguments of `xplore explain`.
#[derive(clap::Args)]
pub struct Explain {
    #[command(flatten)]
    judges: JudgesArgs,
    #[command(flatten)]
    read: SummaryArgs,
    /// File of the users, as JSON lines {uid, history, targets}, transfer. Default: the users of the configuration.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Number of users whose sentences are printed.
    #[arg(long, value_name = "N", default_value_t = 5)]
    show: usize,
    /// Print JSON instead of tables: every sentence with its gains.
    #[arg(long, conflicts_with = "show")]
    json: bool,
    /// File to write the JSON to. `xplore report` shades the examples of a run with RUN/explain.json.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Page (HTML) to write, with every summary shaded by what its sentences earn.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &Explain) -> Result<(), Error> {
    let setup = args.judges.load()?;
    let given = args.read.source()?;
    let users = setup.users(args.input.as_deref())?;
    let summaries = summaries::of_users(&setup, &users, &given, &Terminal)?;
    let explained = explain::explain(&setup, &users, &summaries, &Terminal)?;
    if let Some(path) = &args.out {
        explain::write(path, &explained)?;
    }
    if let Some(path) = &args.html {
        report::explained(&explained, path)?;
    }
    print(args.json, &explained, || explain::tables(&explained, args.show))
}
