//! `xplore ablate`.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use configs::AblateConfig;
use xplore::ablate::{AblatePlan, Failure, Launch, report, results, runner, slurm};
use xplore::{Error, parts};

use crate::log::LogLevel;
use crate::progress::{self, Terminal};

/// Arguments of `xplore ablate`.
#[derive(clap::Args)]
pub struct AblateArgs {
    /// TOML configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Override a value of the configuration, e.g. steps=16; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// GPUs, e.g. 0,1,2: one run at a time on each (CUDA_VISIBLE_DEVICES). Default: one run at a time.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    devices: Vec<String>,
    /// Run only the variant of this index, as --dry-run prints it; writes no report.
    #[arg(long, value_name = "I")]
    variant: Option<usize>,
    /// Run only this seed; writes no report.
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Print the variants and check their configurations, without running them.
    #[arg(long, conflicts_with_all = ["devices", "variant", "seed", "into", "slurm"])]
    dry_run: bool,
    /// Write a batch script for a Slurm array job, one task per run, to this file, without running them.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["devices", "variant", "seed", "into"])]
    slurm: Option<PathBuf>,
    /// Write the report of the finished runs, without starting any.
    #[arg(long, conflicts_with_all = ["devices", "variant", "seed", "slurm", "dry_run"])]
    report: bool,
    /// Also write the report into this Markdown file, between the lines `<!-- ablation NAME -->` and `<!-- /ablation NAME -->`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["variant", "seed"])]
    into: Option<PathBuf>,
}

/// Runs the command. The processes of the runs log at `level`.
pub fn run(args: &AblateArgs, level: LogLevel) -> Result<(), Error> {
    let config: AblateConfig = configs::load(&args.config, &args.set)?;
    let plan = AblatePlan::new(&args.config, config)?;
    plan.check_rewards(&rewards::Registry::default())?;
    let selected = plan.selected(args.variant, args.seed)?;
    if args.dry_run {
        print!("{}", plan.describe());
        return Ok(());
    }
    let program = std::env::current_exe()
        .map_err(|e| Error::environment(format!("cannot locate the executable of xplore: {e}")))?;
    if let Some(file) = &args.slurm {
        parts::write(file, &slurm::script(&plan, &args.config, &program, &level.to_string(), &args.set))?;
        println!("{}", file.display());
        return Ok(());
    }
    if let Some(file) = &args.into {
        // Before the training, so that a missing marker is not found hours later.
        report::locate(file, &plan.config.name)?;
    }
    let launch = Launch { program, log_level: level.to_string(), devices: args.devices.clone() };
    let failures = if args.report { Vec::new() } else { runner::run_all(&selected, &launch, &Terminal)? };
    if args.variant.is_none() && args.seed.is_none() {
        let collected = results::collect(&plan)?;
        let (paths, section) = report::write(&plan, &collected, &failures)?;
        if let Some(file) = &args.into {
            report::insert(file, &plan.config.name, &section)?;
        }
        paths.iter().for_each(|path| println!("{}", path.display()));
    } else {
        progress::say(&format!("{} runs finished", selected.len() - failures.len()));
    }
    told(&failures, selected.len())
}

/// Returns an error if runs failed.
fn told(failures: &[Failure], runs: usize) -> Result<(), Error> {
    if failures.is_empty() {
        return Ok(());
    }
    let each: Vec<String> = failures.iter().map(|failure| format!("{}: {}", failure.run, failure.reason)).collect();
    Err(Error::runtime(format!(
        "{} of {runs} runs failed; the same command runs them again. {}",
        failures.len(),
        each.join("; ")
    )))
}
