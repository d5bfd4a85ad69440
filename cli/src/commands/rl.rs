//! `xplore rl`.

use std::path::Path;

use configs::RlConfig;
use rewards::Registry;
use xplore::model_paths::of_rl;
use xplore::protocols::batches;
use xplore::{Error, grpo, parts, reward_checks, runtime};

use super::input::{self, RowFiles};
use super::{checkpoints, rl_plan, wording};
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
    /// Print the rank, mini-batch, micro-batch and token weight of each response of one step, without a model. Reads groups as JSON
    /// lines {stage, prompt_tokens, response_tokens, advantages}.
    #[arg(long, conflicts_with_all = ["resume", "dry_run"])]
    batches: bool,
    #[command(flatten)]
    rows: RowFiles,
}

/// Runs the command.
pub fn run(file: &Path, set: &[String], options: &Options) -> Result<(), Error> {
    let config: RlConfig = configs::load(file, set)?;
    if options.batches {
        let places = batches::places(&config, options.rows.input.as_deref())?;
        return input::write(options.rows.out.as_deref(), &places);
    }
    options.rows.only_with("--batches")?;
    let registry = Registry::default();
    if options.dry_run {
        runtime::init(config.threads)?;
        let composition = parts::composition(&config.reward, &registry)?;
        reward_checks::check(&config, &composition)?;
        let users = parts::users(&config.data)?;
        print!("{}", checkpoints::describe(&of_rl(&mut config.clone())));
        print!("{}", rl_plan::describe(&config, &users, 1)?);
        print!("{}", rl_plan::reward_warnings(&config, &registry, Some(&users.rows))?);
        print!("{}", wording::describe(xplore::wording::of_rl(&config, None))?);
        return rl_plan::try_one(&config, &registry, &users.rows);
    }
    let context = runtime::init_distributed(config.threads, config.model.device, &config.parallel)?;
    let trained = grpo::run(&config, &registry, context, options.resume, &Terminal)?;
    if trained.context.world.is_rank_zero() {
        progress::say(&format!("done: {}", config.folder().display()));
    }
    Ok(())
}
