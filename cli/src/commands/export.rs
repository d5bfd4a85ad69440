//! `xplore export`.

use std::path::PathBuf;

use trainer::run;

use super::model::Source;
use crate::failure::Failure;

/// What is written, and where.
#[derive(clap::Args)]
pub struct Export {
    #[command(flatten)]
    source: Source,
    /// Merge the adapter into the weights of the model it stands on.
    #[arg(long)]
    merge: bool,
    /// The folder to write.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Writes a model folder that transformers loads: an adapter merged, or a model in another number format.
pub fn run(export: &Export) -> Result<(), Failure> {
    match (export.source.is_adapter()?, export.merge) {
        (true, false) => {
            return Err(Failure::usage(
                "this is an adapter, which other tools read as it is; --merge writes a model with the adapter in it",
            ));
        }
        (false, true) => {
            return Err(Failure::usage("--merge: this is a whole model already; there is nothing to merge"));
        }
        _ => {}
    }
    let model = export.source.load()?;
    run::save(&export.out, &model)?;
    println!("{}", export.out.display());
    Ok(())
}
