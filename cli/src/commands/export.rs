//! `xplore export`.

use std::path::PathBuf;

use super::model::ModelArgs;
use xplore::Error;

/// Arguments of `xplore export`.
#[derive(clap::Args)]
pub struct Export {
    #[command(flatten)]
    source: ModelArgs,
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
                "--model is an adapter; pass --merge to write a model with the adapter merged into its weights",
            ));
        }
        (false, true) => {
            return Err(Error::usage(
                "--merge: --model is not an adapter; omit --merge to write the model in another dtype",
            ));
        }
        _ => {}
    }
    let model = export.source.load()?;
    lm::pretrained::save(&export.out, &model)?;
    println!("{}", export.out.display());
    Ok(())
}
