//! `xplore rl`.

use std::path::Path;

use configs::RlConfig;
use rewards::Registry;
use xplore::{Error, grpo, parts, runtime};

use super::rl_plan;
use crate::progress::{self, Terminal};

/// Options of `xplore rl` in addition to the configuration.
#[derive(clap::Args)]
pub struct Options {
    /// Resume from the newest checkpoint of this run.
    #[arg(long)]
    resume: bool,
    /// Print the plan, the batches, the memory, one prompt and one judged sample without training.
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
pub fn run(file: &Path, set: &[String], options: &Options) -> Result<(), Error> {
    let config: RlConfig = configs::load(file, set)?;
    let registry = Registry::default();
    if options.dry_run {
        runtime::init(config.threads)?;
        parts::composition(&config.reward, &registry)?;
        let rows = parts::users(&config.data.train)?;
        print!("{}", rl_plan::describe(&config, &rows, 1)?);
        return rl_plan::try_one(&config, &registry, &rows);
    }
    let context = runtime::init_distributed(config.threads, config.model.device, &config.parallel)?;
    let trained = grpo::run(&config, &registry, context, options.resume, &Terminal)?;
    if trained.context.world.is_rank_zero() {
        progress::say(&format!("done: {}", config.folder().display()));
    }
    Ok(())
}
