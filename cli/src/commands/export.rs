//! `xplore export`.

use std::path::PathBuf;

use trainer::run;

use super::model::Source;
use xplore::Error;

/// Arguments of `xplore export`.
#[derive(clap::Args)]
pub struct Export {
    #[command(flatten)]
    source: Source,
    /// Merge the adapter into the weights of its base model.
    #[arg(long)]
    merge: bool,
    /// Folder to write.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Writes a model folder that transformers loads: a merged adapter, or a model in another dtype.
pub fn run(export: &Export) -> Result<(), Error> {
    match (export.source.is_adapter()?, export.merge) {
        (true, false) => {
            return Err(Error::usage(
                "this is an adapter, which other tools read as it is; --merge writes a model with the adapter in it",
            ));
        }
        (false, true) => {
            return Err(Error::usage("--merge: this is a whole model already; there is nothing to merge"));
        }
        _ => {}
    }
    let model = export.source.load()?;
    run::save(&export.out, &model)?;
    println!("{}", export.out.display());
    Ok(())
}
