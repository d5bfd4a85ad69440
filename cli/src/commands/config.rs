//! `xplore config`.

use std::path::Path;

use configs::{EvalConfig, QuickstartConfig, RlConfig, RunConfig, SftConfig};

use crate::Kind;
use crate::commands::{rl_plan, sft_plan};
use crate::failure::Failure;

fn resolved(file: &Path, kind: Kind, set: &[String]) -> Result<String, Failure> {
    Ok(match kind {
        Kind::Sft => configs::load::<SftConfig>(file, set)?.resolved()?,
        Kind::Rl => {
            let config: RlConfig = configs::load(file, set)?;
            crate::wiring::composition(&config.reward)?;
            config.resolved()?
        }
        Kind::Eval => configs::load::<EvalConfig>(file, set)?.resolved()?,
        Kind::Quickstart => configs::load::<QuickstartConfig>(file, set)?.resolved()?,
    })
}

/// Prints the configuration with every default written out.
pub fn show(file: &Path, kind: Kind, set: &[String]) -> Result<(), Failure> {
    print!("{}", resolved(file, kind, set)?);
    Ok(())
}

/// Says that the configuration is good; what is wrong with it is the failure. Of training also what it will do: batches and
/// memory of each of `ranks` ranks, without loading weights.
pub fn check(file: &Path, kind: Kind, set: &[String], ranks: usize) -> Result<(), Failure> {
    resolved(file, kind, set)?;
    println!("{}: good", file.display());
    match kind {
        Kind::Sft => print!("{}", sft_plan::describe(&configs::load(file, set)?, ranks)?),
        Kind::Rl => {
            let config: RlConfig = configs::load(file, set)?;
            let given = &config.data.train;
            if given.exists() || given.starts_with("hf:") {
                print!("{}", rl_plan::describe(&config, &crate::wiring::people(given)?, ranks)?);
            } else {
                println!("  {} is not there, so batches and memory cannot be told", given.display());
            }
        }
        Kind::Eval | Kind::Quickstart => {}
    }
    Ok(())
}
