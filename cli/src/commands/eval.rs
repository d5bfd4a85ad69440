//! `xplore eval`.

use std::path::PathBuf;

use chat::tokenizer::Tokenizer;
use configs::EvalConfig;
use xplore::protocols::plan::{HistorySplit, PlanSettings, users};
use xplore::{Error, eval, parts, runtime};

use super::input::{self, RowFiles};
use crate::progress::Terminal;

/// Arguments of `xplore eval`.
#[derive(clap::Args)]
pub struct EvalArgs {
    /// TOML configuration file.
    #[arg(long, value_name = "FILE", required_unless_present = "plan")]
    config: Option<PathBuf>,
    /// Override a value of the configuration, e.g. seed=1; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print what is read in each round, what truncation drops, and the targets, without a model. Reads users as JSON lines {uid,
    /// history, targets}, past.
    #[arg(long, conflicts_with_all = ["config", "set"])]
    plan: bool,
    #[command(flatten)]
    how: PlanArgs,
    #[command(flatten)]
    rows: RowFiles,
}

/// Options of `--plan`.
#[derive(clap::Args)]
struct PlanArgs {
    /// How histories are split: halves, or thirds as published for recommendation. Default: halves, as `xplore eval` does.
    #[arg(long, value_enum)]
    split: Option<Split>,
    /// Prompt set: built in (compact, plain) or a folder. Default: plain.
    #[arg(long, value_name = "SET")]
    prompts: Option<String>,
    /// Maximum length of a prompt; longer histories lose their older half. Default: no limit, as in `xplore eval`.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Folder with the tokenizer that measures prompts, in tokens. Default: none, which counts words.
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
}

impl PlanArgs {
    /// Checks that no option of `--plan` is given without it.
    fn check_absent(&self) -> Result<(), Error> {
        let given = [
            ("--split", self.split.is_some()),
            ("--prompts", self.prompts.is_some()),
            ("--limit", self.limit.is_some()),
            ("--tokenizer", self.tokenizer.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((option, _)) => Err(Error::usage(format!("{option} is only for --plan; add it, or remove {option}"))),
        }
    }
}

/// The value of `--split`.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Split {
    Halves,
    Thirds,
}

/// Runs the command.
pub fn run(args: &EvalArgs) -> Result<(), Error> {
    if args.plan {
        return plan(&args.how, &args.rows);
    }
    args.how.check_absent()?;
    args.rows.only_with("--plan")?;
    let Some(file) = &args.config else { return Err(Error::usage("xplore eval: --config FILE is missing")) };
    let config: EvalConfig = configs::load(file, &args.set)?;
    runtime::init(config.threads)?;
    let evaluation = eval::run(&config, &Terminal)?;
    println!("{}", eval::tables(&evaluation)?);
    Ok(())
}

fn plan(how: &PlanArgs, rows: &RowFiles) -> Result<(), Error> {
    let prompts = parts::prompts(how.prompts.as_deref().unwrap_or(configs::prompts::DEFAULT))?;
    let tokenizer = how.tokenizer.as_deref().map(Tokenizer::load).transpose().map_err(lm::LmError::from)?;
    let settings = PlanSettings {
        split: match how.split {
            None | Some(Split::Halves) => HistorySplit::Halves,
            Some(Split::Thirds) => HistorySplit::Thirds,
        },
        prompts: &prompts,
        limit: how.limit,
        tokenizer: tokenizer.as_ref(),
    };
    input::write(rows.out.as_deref(), &users(settings, rows.input.as_deref())?)
}
