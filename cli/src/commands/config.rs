//! `xplore config`.

use std::path::Path;

use configs::{AblateConfig, EvalConfig, QuickstartConfig, RlConfig, RunConfig, SftConfig};

use crate::Kind;
use crate::commands::{checkpoints, data_free_plan, rl_plan, sft_plan, wording};
use xplore::ablate::AblatePlan;
use xplore::model_paths::{of_eval, of_rl, of_sft};
use xplore::{Error, parts, reward_checks};

fn resolved(file: &Path, kind: Kind, set: &[String]) -> Result<String, Error> {
    Ok(match kind {
        Kind::Sft => configs::load::<SftConfig>(file, set)?.resolved()?,
        Kind::Rl => {
            let config: RlConfig = configs::load(file, set)?;
            let composition = parts::composition(&config.reward, &rewards::Registry::default())?;
            reward_checks::check(&config, &composition)?;
            config.resolved()?
        }
        Kind::Eval => configs::load::<EvalConfig>(file, set)?.resolved()?,
        Kind::Ablate => {
            let config: AblateConfig = configs::load(file, set)?;
            ablation(file, set)?;
            config.resolved()?
        }
        Kind::Synth => xplore::synth::import::load(file, set)?.resolved()?,
        Kind::Quickstart => configs::load::<QuickstartConfig>(file, set)?.resolved()?,
    })
}

/// Returns the plan of an ablation, whose runs are all valid.
fn ablation(file: &Path, set: &[String]) -> Result<AblatePlan, Error> {
    let plan = AblatePlan::new(file, configs::load(file, set)?)?;
    plan.check_rewards(&rewards::Registry::default())?;
    Ok(plan)
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
    if rows.is_some() && matches!(kind, Kind::Eval | Kind::Ablate | Kind::Synth | Kind::Quickstart) {
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
            let mut read = None;
            if let Some(users) = rows {
                print!("{}", rl_plan::of_users(&config, users, ranks));
            } else if given.exists() || given.starts_with("hf:") {
                let users = parts::users(&config.data)?;
                print!("{}", rl_plan::describe(&config, &users, ranks)?);
                read = Some(users.rows);
            } else {
                println!("  {} does not exist, so batches and memory are not estimated", given.display());
            }
            print!("{}", rl_plan::reward_warnings(&config, &rewards::Registry::default(), read.as_deref())?);
            print!("{}", wording::describe(xplore::wording::of_rl(&config, None))?);
        }
        Kind::Eval => {
            let config: EvalConfig = configs::load(file, set)?;
            print!("{}", checkpoints::describe(&of_eval(&mut config.clone())));
            print!("{}", wording::describe(xplore::wording::of_eval(&config))?);
        }
        Kind::Ablate => print!("{}", ablation(file, set)?.describe()),
        Kind::Synth | Kind::Quickstart => {}
    }
    Ok(())
}
