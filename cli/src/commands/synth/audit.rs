//! `xplore synth audit`.

use std::path::PathBuf;

use data_synth::audit::{AuditOptions, audit};
use xplore::{Error, parts};

/// Arguments of `xplore synth audit`.
#[derive(clap::Args)]
pub struct AuditArgs {
    /// Folder of a pipeline.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// File of users of a benchmark, which must share no user with the rows, also on the hub (hf://datasets/…); may be repeated.
    #[arg(long, value_name = "FILE")]
    against: Vec<PathBuf>,
    /// Number of consecutive words that count as leaked from a target into a summary.
    #[arg(long, value_name = "N", default_value_t = AuditOptions::default().ngram)]
    ngram: usize,
    /// Similarity from which two summaries are near-duplicates, from 0 to 1.
    #[arg(long, value_name = "X", default_value_t = AuditOptions::default().similarity)]
    similarity: f64,
    /// Significance level of the tests for position bias.
    #[arg(long, value_name = "P", default_value_t = AuditOptions::default().alpha)]
    alpha: f64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Fail with exit code 3 if there are findings.
    #[arg(long)]
    strict: bool,
}

/// Runs the command.
pub fn run(args: &AuditArgs) -> Result<(), Error> {
    let options = AuditOptions {
        against: args.against.iter().map(|path| parts::local(path)).collect::<Result<_, _>>()?,
        ngram: args.ngram,
        similarity: args.similarity,
        alpha: args.alpha,
    };
    let audit = audit(&args.folder, &options)?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&audit).expect("numbers and texts always serialize")),
        false => print!("{}", audit.text()),
    }
    if args.strict && !audit.is_clean() {
        let folder = args.folder.display();
        return Err(Error::data(format!(
            "{folder}: the audit has findings; they come first, and docs/data.md explains each"
        )));
    }
    Ok(())
}
