//! `xplore reward`: scores recorded or given responses offline, or applies the format gate to responses.

use std::path::{Path, PathBuf};

use configs::RlConfig;
use configs::rl::reward::FormatGate;
use rewards::Registry;
use serde_json::{Value, json};
use xplore::protocols::gate::responses;
use xplore::reward::gradients::gradients;
use xplore::reward::rollouts::{self, Batch};
use xplore::reward::{self, OfflineRewards, tables};
use xplore::{Error, runtime};

use super::input::{self, RowFiles};

/// Number of responses in the table by default.
const LISTED: usize = 20;

/// Arguments of `xplore reward`.
#[derive(clap::Args)]
pub struct RewardArgs {
    #[command(flatten)]
    form: Form,
    /// For --config and --compare: the responses: a run, a recorded step (step-N.safetensors), or JSON lines {text, targets}, uid,
    /// stage, group, tokens, history or messages, past_summary, transfer, past_targets, reference.
    #[arg(long, value_name = "DIR|FILE")]
    rollouts: Option<PathBuf>,
    /// For --config and --compare: the recorded step. Default: all recorded steps.
    #[arg(long, value_name = "N")]
    step: Option<u64>,
    /// For --config and --compare: override a value of the configuration, or of both; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// For --config: number of responses in the table; 0 omits it. Default: 20.
    #[arg(long, value_name = "N")]
    list: Option<usize>,
    /// For --config: also draw a histogram of each term.
    #[arg(long)]
    histograms: bool,
    /// For --config: also compute the gradients of the terms on one recorded step under the configuration's model, and the cosines
    /// between them. With n terms, this takes 1 + n(n + 1)/2 forward and backward passes over the step.
    #[arg(long)]
    gradients: bool,
    /// For --config and --compare: print a JSON object instead of tables.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    rows: RowFiles,
}

/// What the command does.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Form {
    /// Apply the format gate (reward.gate), without a model: JSON lines {text} to result and summary.
    #[arg(long, value_enum)]
    gate: Option<Gate>,
    /// Score responses with the reward of an `rl` configuration: terms, totals, advantages, rank correlations.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Compare the rewards of two `rl` configurations on the same responses: rank flips, and groups that lose their signal.
    #[arg(long, num_args = 2, value_names = ["FILE", "FILE"])]
    compare: Vec<PathBuf>,
}

/// The value of `--gate`.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Gate {
    /// The gate of the released reward.
    Published,
    /// The default.
    Strict,
}

impl RewardArgs {
    /// Checks that no option is given to a form that does not use it.
    fn check(&self) -> Result<(), Error> {
        let (gate, config) = (self.form.gate.is_some(), self.form.config.is_some());
        let offline = "--config and --compare";
        let options = [
            ("--rollouts", self.rollouts.is_some(), !gate, offline),
            ("--step", self.step.is_some(), !gate, offline),
            ("--set", !self.set.is_empty(), !gate, offline),
            ("--json", self.json, !gate, offline),
            ("--list", self.list.is_some(), config, "--config"),
            ("--histograms", self.histograms, config, "--config"),
            ("--gradients", self.gradients, config, "--config"),
        ];
        match options.into_iter().find(|(_, given, used, _)| *given && !used) {
            None => Ok(()),
            Some((option, _, _, forms)) => {
                Err(Error::usage(format!("{option} is only for {forms}; use it with one of them, or remove it")))
            }
        }
    }
}

/// Runs the command.
pub fn run(args: &RewardArgs) -> Result<(), Error> {
    args.check()?;
    if let Some(gate) = args.form.gate {
        let gate = match gate {
            Gate::Published => FormatGate::Published,
            Gate::Strict => FormatGate::Strict,
        };
        return input::write(args.rows.out.as_deref(), &responses(gate, args.rows.input.as_deref())?);
    }
    args.rows.only_with("--gate")?;
    let Some(path) = &args.rollouts else {
        return Err(Error::usage(
            "xplore reward: --rollouts DIR|FILE is missing: a run, a recorded step, or JSON lines",
        ));
    };
    let batches = rollouts::read(path, args.step)?;
    match (&args.form.config, &args.form.compare[..]) {
        (Some(file), _) => offline(args, file, &batches),
        (None, [first, second]) => compared(args, (first.as_path(), second.as_path()), &batches),
        (None, _) => Err(Error::usage("xplore reward: --compare needs two configurations")),
    }
}

fn scored(file: &Path, set: &[String], batches: &[Batch]) -> Result<(RlConfig, OfflineRewards), Error> {
    let config: RlConfig = configs::load(file, set)?;
    runtime::init(config.threads)?;
    let found = reward::score(&config, &Registry::default(), batches)?;
    Ok((config, found))
}

fn offline(args: &RewardArgs, file: &Path, batches: &[Batch]) -> Result<(), Error> {
    if args.gradients && batches.len() != 1 {
        return Err(Error::usage(format!(
            "--gradients takes one step, but there are {}; choose one with --step N",
            batches.len()
        )));
    }
    let (config, found) = scored(file, &args.set, batches)?;
    let similarity = match (args.gradients, &found.steps[..]) {
        (true, [step]) => Some(gradients(&config, &found.scored.names, step)?),
        _ => None,
    };
    if args.json {
        let mut json = found.scored.json();
        json["verdicts"] = json!(if found.recorded_verdicts { "recorded" } else { "asked" });
        if let Some(similarity) = &similarity {
            json["gradients"] = value(similarity)?;
        }
        println!("{json}");
        return Ok(());
    }
    print!("{}", tables::rewards(&found, args.list.unwrap_or(LISTED)));
    if args.histograms {
        print!("\n{}", tables::histograms(&found.scored));
    }
    if let Some(similarity) = &similarity {
        print!("\n{}", tables::gradient_similarity(similarity));
    }
    Ok(())
}

fn compared(args: &RewardArgs, (first, second): (&Path, &Path), batches: &[Batch]) -> Result<(), Error> {
    let (_, of_first) = scored(first, &args.set, batches)?;
    let (_, of_second) = scored(second, &args.set, batches)?;
    let found = reward::compare(&of_first.scored, &of_second.scored)?;
    let names = [first, second].map(|file| file.display().to_string());
    if args.json {
        println!("{}", json!({"first": names[0], "second": names[1], "difference": value(&found)?}));
    } else {
        print!("{}", tables::difference(&found, &names[0], &names[1]));
    }
    Ok(())
}

fn value(found: &impl serde::Serialize) -> Result<Value, Error> {
    serde_json::to_value(found).map_err(|e| Error::data(e.to_string()))
}
