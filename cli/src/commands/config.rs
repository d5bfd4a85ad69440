//! `xplore config`.

use std::path::Path;

use configs::{EvalConfig, QuickstartConfig, RlConfig, RunConfig, SftConfig};

use crate::Kind;
use crate::commands::{rl_plan, sft_plan};
use xplore::{Error, parts};

fn resolved(file: &Path, kind: Kind, set: &[String]) -> Result<String, Error> {
    Ok(match kind {
        Kind::Sft => configs::load::<SftConfig>(file, set)?.resolved()?,
        Kind::Rl => {
            let config: RlConfig = configs::load(file, set)?;
            parts::composition(&config.reward, &rewards::Registry::default())?;
            config.resolved()?
        }
        Kind::Eval => configs::load::<EvalConfig>(file, set)?.resolved()?,
        Kind::Quickstart => configs::load::<QuickstartConfig>(file, set)?.resolved()?,
    })
}

/// Prints the configuration with all defaults.
pub fn show(file: &Path, kind: Kind, set: &[String]) -> Result<(), Error> {
    print!("{}", resolved(file, kind, set)?);
    Ok(())
}

/// Checks a configuration and prints that it is valid; otherwise returns the error. For training, also prints the batches and the
/// memory of each of `ranks` ranks, without loading weights.
pub fn check(file: &Path, kind: Kind, set: &[String], ranks: usize) -> Result<(), Error> {
    resolved(file, kind, set)?;
    println!("{}: valid", file.display());
    match kind {
        Kind::Sft => print!("{}", sft_plan::describe(&configs::load(file, set)?, ranks)?),
        Kind::Rl => {
            let config: RlConfig = configs::load(file, set)?;
            let given = &config.data.train;
            if given.exists() || given.starts_with("hf:") {
                print!("{}", rl_plan::describe(&config, &parts::users(given)?, ranks)?);
            } else {
                println!("  {} does not exist, so batches and memory are not estimated", given.display());
            }
        }
        Kind::Eval | Kind::Quickstart => {}
    }
    Ok(())
}
