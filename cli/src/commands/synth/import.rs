//! `xplore synth import`.

use std::path::{Path, PathBuf};

use clap::builder::{PossibleValue, PossibleValuesParser};
use configs::{SynthConfig, SynthStep};
use data_synth::import::FORMATS;
use xplore::synth::RunOptions;
use xplore::synth::import::{histories, load, summary};
use xplore::{Error, runtime};

use super::steps;
use crate::progress::{Terminal, say};

/// Arguments of `xplore synth import`.
#[derive(clap::Args)]
pub struct ImportArgs {
    /// TOML configuration file of a pipeline, whose folder then holds the histories.
    #[arg(long, value_name = "FILE", required_unless_present = "format", conflicts_with = "format")]
    config: Option<PathBuf>,
    /// Override a value of the configuration, or of the defaults with --format, e.g. import.min_history=5; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Import without a configuration file: format of the input.
    #[arg(long, value_name = "FORMAT", requires = "out", value_parser = formats())]
    format: Option<String>,
    /// Files, or folders with the original files.
    #[arg(long, value_name = "PATH", num_args = 1.., requires = "format")]
    input: Vec<PathBuf>,
    /// Folder to write train.jsonl, test.jsonl and card.json to.
    #[arg(long, value_name = "DIR", requires = "format")]
    out: Option<PathBuf>,
    /// Seed of the split and of negatives. Default: 42.
    #[arg(long, requires = "format")]
    seed: Option<u64>,
    /// Skip and count malformed rows. Default: the first one is an error.
    #[arg(long, requires = "format")]
    skip_bad: bool,
    /// Run the step even if it is finished.
    #[arg(long, requires = "config")]
    force: bool,
}

fn formats() -> PossibleValuesParser {
    PossibleValuesParser::new(FORMATS.iter().map(|format| PossibleValue::new(format.name).help(format.about)))
}

/// Runs the command.
pub fn run(args: &ImportArgs) -> Result<(), Error> {
    if let Some(file) = &args.config {
        let config = load(file, &args.set)?;
        return steps::run(&config, &[SynthStep::Import], &RunOptions { force: args.force, input: None });
    }
    let (Some(format), Some(folder)) = (&args.format, &args.out) else {
        return Err(Error::usage(
            "xplore synth import: give --config FILE, or --format FORMAT, --input PATH and --out DIR",
        ));
    };
    let config = configured(format, args)?;
    runtime::init(config.threads)?;
    say(&summary(&histories(&config.import, config.seed, folder, &Terminal)?));
    println!("{}", folder.display());
    Ok(())
}

/// Returns the configuration that the options stand for.
fn configured(format: &str, args: &ImportArgs) -> Result<SynthConfig, Error> {
    // A JSON string or list of strings is also valid TOML.
    let quoted = |value: serde_json::Value| value.to_string();
    let input: Vec<String> = args.input.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    let text = format!(
        "steps = [\"import\"]\nseed = {}\n[import]\nformat = {}\ninput = {}\nskip_bad = {}\n",
        args.seed.unwrap_or_else(|| SynthConfig::default().seed),
        quoted(format.into()),
        quoted(input.into()),
        args.skip_bad
    );
    let config: SynthConfig = configs::parse(Path::new("xplore synth import"), &text, &args.set)?;
    let SynthConfig { ref import, seed, threads, ref steps, .. } = config;
    let used = SynthConfig { import: import.clone(), seed, threads, steps: steps.clone(), ..SynthConfig::default() };
    if used != config {
        return Err(Error::usage(
            "xplore synth import --format: --set has an effect on import.*, seed and threads only; give the other keys with --config \
             FILE",
        ));
    }
    Ok(config)
}
