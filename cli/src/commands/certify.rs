//! `xplore certify`.

use std::path::PathBuf;

use xplore::Error;
use xplore::certify::{CertifyRequest, certify, write};

/// Arguments of `xplore certify`.
#[derive(clap::Args)]
pub struct Certify {
    /// Folders of SFT, RL and evaluation runs.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Folder of an evaluation, to compare its scores with the published ones; may be repeated. The benchmark follows from the name of
    /// the users file, or is given as BENCHMARK=FOLDER (mind, amazon, alignx, movielens, personamem, info, style, expertise).
    #[arg(long = "eval", value_name = "[BENCHMARK=]FOLDER")]
    evaluations: Vec<String>,
    /// Reason why a setting differs from the published one, e.g. train.epochs=shortened; may be repeated.
    #[arg(long = "explain", value_name = "KEY=REASON")]
    reasons: Vec<String>,
    /// Folder for certificate.json and certificate.md. Default: the folder of the last run.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub fn run(asked: Certify) -> Result<(), Error> {
    let Certify { runs, evaluations, reasons, out } = asked;
    let folder = out.unwrap_or_else(|| runs.last().cloned().unwrap_or_default());
    let certificate = certify(&CertifyRequest { runs, evaluations, reasons })?;
    for path in write(&certificate, &folder)? {
        println!("{}", path.display());
    }
    let counts = certificate.counts;
    println!(
        "published settings: {} same, {} at another location, {} different with a reason, {} different without one",
        counts.same, counts.other_location, counts.explained, counts.unexplained
    );
    for run in &certificate.runs {
        for setting in run.settings.iter().filter(|setting| setting.is_unexplained()) {
            let (key, ours, published) = (&setting.key, &setting.ours, &setting.published);
            println!("  {}: {key} = {ours}; published: {published}. {}", run.folder, setting.why);
        }
    }
    Ok(())
}
