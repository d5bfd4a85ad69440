//! `xplore sft`.

use std::path::Path;

use configs::SftConfig;
use trainer::start;
use xplore::{Error, Reporter, runtime, sft};

use crate::log;
use crate::progress::{self, Terminal};

/// Options of `xplore sft` in addition to the configuration.
#[derive(clap::Args)]
pub struct Options {
    /// Resume from the newest checkpoint of this run.
    #[arg(long)]
    resume: bool,
    /// Print N rows with their trained tokens in color, and counts of all rows, without training.
    #[arg(long, value_name = "N")]
    preview: Option<usize>,
}

/// Runs the command.
pub fn run(file: &Path, set: &[String], options: &Options) -> Result<(), Error> {
    let config: SftConfig = configs::load(file, set)?;
    if let Some(rows) = options.preview {
        runtime::init(config.threads)?;
        return preview(&config, rows);
    }
    let context = runtime::init_distributed(config.threads, config.model.device, &config.parallel)?;
    let trained = sft::run(&config, context, options.resume, &Terminal)?;
    if trained.context.world.is_rank_zero() {
        progress::say(&format!("done: {}", config.folder().display()));
    }
    Ok(())
}

fn preview(config: &SftConfig, rows: usize) -> Result<(), Error> {
    let tokenizer = start::tokenizer_of(&config.model, &config.data)?;
    let mut progress = Terminal.task("tokenize");
    let mut show = |words: &str, done, total| progress.at(done, total, words);
    let corpus = corpus::open(&config.data, &tokenizer, &config.cache(), config.seed, &mut show)?;
    let color = log::colored(&std::io::stdout());
    print!("{}", corpus::preview(&config.data, &tokenizer, Some(&corpus.report), rows, color)?);
    Ok(())
}
