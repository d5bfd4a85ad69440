//! `xplore config`.

use std::path::Path;

use configs::{EvalConfig, QuickstartConfig, RlConfig, RunConfig, SftConfig};

use crate::Kind;
use crate::commands::{checkpoints, data_free_plan, rl_plan, sft_plan, wording};
use xplore::model_paths::{of_eval, of_rl, of_sft};
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
/// memory of each of `ranks` ranks, without loading weights; with `rows`, the batches of this many rows or users, without reading any.
/// Warns of models that are prompted with another wording than that of their training.
pub fn check(file: &Path, kind: Kind, set: &[String], ranks: usize, rows: Option<usize>) -> Result<(), Error> {
    if rows.is_some() && matches!(kind, Kind::Eval | Kind::Quickstart) {
        return Err(Error::usage("--rows plans a training run; use it with --kind sft or --kind rl"));
    }
    resolved(file, kind, set)?;
    println!("{}: valid", file.display());
    match kind {
        Kind::Sft => {
            let config: SftConfig = configs::load(file, set)?;
            print!("{}", checkpoints::describe(&of_sft(&mut config.clone())));
            match rows {
                Some(rows) => print!("{}", data_free_plan::sft(&config, rows, ranks)?),
                None => print!("{}", sft_plan::describe(&config, ranks)?),
            }
            print!("{}", wording::describe(xplore::wording::of_sft(&config, None))?);
        }
        Kind::Rl => {
            let config: RlConfig = configs::load(file, set)?;
            print!("{}", checkpoints::describe(&of_rl(&mut config.clone())));
            let given = &config.data.train;
            if let Some(users) = rows {
                print!("{}", rl_plan::of_users(&config, users, ranks));
            } else if given.exists() || given.starts_with("hf:") {
                print!("{}", rl_plan::describe(&config, &parts::users(&config.data)?, ranks)?);
            } else {
                println!("  {} does not exist, so batches and memory are not estimated", given.display());
            }
            print!("{}", wording::describe(xplore::wording::of_rl(&config, None))?);
        }
        Kind::Eval => {
            let config: EvalConfig = configs::load(file, set)?;
            print!("{}", checkpoints::describe(&of_eval(&mut config.clone())));
            print!("{}", wording::describe(xplore::wording::of_eval(&config))?);
        }
        Kind::Quickstart => {}
    }
    Ok(())
}
