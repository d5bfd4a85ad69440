//! The `xplore` program: parses arguments and prints results and progress. The other crates do the work.

mod commands;
mod log;
mod progress;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use xplore::Error;
use xplore::generate::Summarize;

use crate::log::LogLevel;

/// Trains preference reasoning models: language models that read a user's interactions and write a summary of the user's
/// preferences.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// Minimum severity of messages; progress requires info.
    #[arg(long, global = true, value_name = "LEVEL", value_enum, default_value = "info")]
    log_level: LogLevel,
    #[command(subcommand)]
    command: Command,
}

/// A configuration file and overrides of its values.
#[derive(clap::Args)]
struct Config {
    /// TOML configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Override a value of the configuration, e.g. optimizer.lr=1e-5; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the full pipeline on the built-in world, on a CPU, in minutes: judges, synthesis, SFT, GRPO, evaluation, report.
    Quickstart {
        /// Folder of the run. Default: runs/quickstart, or runs/quickstart-tiny.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Run the same phases at toy size in less than a minute, to verify an installation; the models' results are meaningless.
        #[arg(long)]
        tiny: bool,
        /// Seed of the world and of all later phases.
        #[arg(long)]
        seed: Option<u64>,
        /// Override a value of the built-in configuration (configs/quickstart.toml, overridden by configs/quickstart-tiny.toml with
        /// --tiny); may be repeated.
        #[arg(long = "set", value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
    /// Fine-tunes a model (SFT).
    Sft {
        #[command(flatten)]
        config: Config,
        #[command(flatten)]
        options: commands::sft::Options,
    },
    /// Trains a model with reinforcement learning: GRPO over streaming stages.
    Rl {
        #[command(flatten)]
        config: Config,
        #[command(flatten)]
        options: commands::rl::Options,
    },
    /// Starts several ranks of a command on this machine: xplore launch --nproc 4 -- sft --config FILE.
    Launch(commands::launch::Launch),
    /// Recomputes the rewards, advantages and loss of a recorded step of `rl`, without a rollout; with --rejudge, by other judges.
    Replay(commands::replay::Replay),
    /// Evaluates models on held-out users with several judges; with --plan, shows what is read, without a model.
    Eval(commands::eval::EvalArgs),
    /// Examines the judges of a configuration: calibration, choices of a file, panels; or reads judges' answers without a model.
    Judge(commands::judge::JudgeArgs),
    /// Measures what each sentence of users' summaries earns, by deleting it and judging again.
    Explain(commands::explain::Explain),
    /// Scores recorded or given responses offline, compares rewards, or applies the format gate.
    Reward(commands::reward::RewardArgs),
    /// Trains variants of an `rl` run with several seeds, evaluates them with held-out judges, and compares them.
    Ablate(commands::ablate::AblateArgs),
    /// Writes summaries of users' histories, one JSON object per line.
    Summarize {
        /// Model folder, adapter folder, run (runs/rl, runs/rl@best, runs/rl@30), or hub ID.
        #[arg(long, value_name = "DIR|RUN|ID")]
        model: PathBuf,
        /// File of JSON lines {uid, interactions} or {uid, messages}.
        #[arg(long, value_name = "FILE")]
        history: PathBuf,
        /// Read each history in two halves, with the first summary in the second prompt.
        #[arg(long)]
        streaming: bool,
        /// Prompt set: built in (compact, plain) or a folder. Default: the set that the model carries, or plain if it carries none.
        #[arg(long, value_name = "NAME|FOLDER")]
        prompts: Option<String>,
        /// Sampling temperature; 0 is greedy decoding.
        #[arg(long, default_value_t = 0.6)]
        temperature: f64,
        /// Maximum number of tokens of a response.
        #[arg(long, default_value_t = 4096)]
        max_new_tokens: usize,
        /// Seed for sampling.
        #[arg(long, default_value_t = 42)]
        seed: u64,
        /// File to write to; standard output if absent.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Generates continuations of prompts: tokens, text and log-probabilities as JSON lines.
    Generate {
        #[command(flatten)]
        asked: commands::questions::Questions,
        #[command(flatten)]
        how: commands::generate::Drawing,
    },
    /// Computes log-probabilities of given texts, token by token, or of given answers (`candidates`), as JSON lines.
    Score {
        #[command(flatten)]
        asked: commands::questions::Questions,
    },
    /// Writes a model folder: an adapter merged into its base model, or a model in another dtype.
    Export(commands::export::Export),
    /// Renders rows with a prompt set, or writes templates with the wording of existing rows or of a release.
    Prompts {
        #[command(subcommand)]
        action: commands::prompts::PromptsAction,
    },
    /// Synthesizes training rows: from raw interaction logs to SFT and RL rows.
    Synth(commands::synth::SynthArgs),
    /// Serves a model to OpenAI clients: chat completions, streaming, log-probabilities.
    Serve(commands::serve::ServeArgs),
    /// Prints or checks a configuration.
    Config {
        #[command(subcommand)]
        action: ConfigAction,
    },
    /// Writes a reproduction certificate: what runs share with the published recipe, and hashes of their files.
    Certify(commands::certify::Certify),
    /// Writes report.html from the folders of one or more runs.
    Report {
        /// Folders of the runs.
        #[arg(required = true)]
        runs: Vec<PathBuf>,
        /// File to write. Default: report.html in the first run's folder.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Also write the figure with bars and reward curve (SVG) to this file.
        #[arg(long, value_name = "FILE")]
        figure: Option<PathBuf>,
    },
}

/// The kind of a configuration file.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Kind {
    Sft,
    Rl,
    Eval,
    Ablate,
    Synth,
    Quickstart,
}

#[derive(Subcommand)]
enum ConfigAction {
    /// Prints the configuration with all defaults.
    Show(CheckedFile),
    /// Checks a configuration; for sft and rl, also estimates batches and memory.
    Check {
        #[command(flatten)]
        file: CheckedFile,
        /// Number of ranks that the plan is for.
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        ranks: u32,
        /// Plan for this many training rows (sft) or users (rl), without the data and the model; omits the memory.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        rows: Option<u32>,
    },
}

#[derive(clap::Args)]
struct CheckedFile {
    /// TOML configuration file.
    file: PathBuf,
    /// Kind of the configuration.
    #[arg(long, value_enum)]
    kind: Kind,
    /// Override a value of the configuration.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // An invalid environment is reported by the command that needs it.
    let env = distributed::RankEnv::from_env().ok().filter(|env| env.world_size > 1);
    // `xplore launch` prefixes every line with its rank.
    let rank = env.map(|env| env.rank).filter(|_| !distributed::launch::launched());
    log::init(arguments.log_level, rank);
    let launches = matches!(arguments.command, Command::Launch(_));
    let _ = ctrlc::set_handler(move || {
        // The launcher forwards interrupts to its ranks.
        if launches {
            commands::launch::INTERRUPTS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            return;
        }
        // The first interrupt requests training loops to finish the step and write a checkpoint; the second exits at once.
        if xplore::runtime::request_stop() {
            std::process::exit(130);
        }
        tracing::warn!("stopping; interrupt again to exit immediately");
    });
    match run(arguments.command, arguments.log_level) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(error.kind.exit_code())
        }
    }
}

fn run(command: Command, level: LogLevel) -> Result<(), Error> {
    match command {
        Command::Quickstart { out, tiny, seed, set } => commands::quickstart::run(out, tiny, seed, set),
        Command::Sft { config, options } => commands::sft::run(&config.config, &config.set, &options),
        Command::Rl { config, options } => commands::rl::run(&config.config, &config.set, &options),
        Command::Launch(asked) => commands::launch::run(&asked, level),
        Command::Replay(asked) => commands::replay::run(&asked),
        Command::Eval(args) => commands::eval::run(&args),
        Command::Judge(args) => commands::judge::run(&args),
        Command::Explain(args) => commands::explain::run(&args),
        Command::Reward(args) => commands::reward::run(&args),
        Command::Ablate(args) => commands::ablate::run(&args, level),
        Command::Summarize { model, history, streaming, prompts, temperature, max_new_tokens, seed, out } => {
            let how = Summarize { streaming, temperature, max_new_tokens, seed };
            commands::summarize::run(&model, &history, prompts.as_deref(), how, out.as_deref())
        }
        Command::Generate { asked, how } => commands::generate::generate(&asked, &how),
        Command::Score { asked } => commands::score::score(&asked),
        Command::Export(export) => commands::export::run(&export),
        Command::Prompts { action } => commands::prompts::run(&action),
        Command::Synth(args) => commands::synth::run(args),
        Command::Serve(place) => commands::serve::run(place),
        Command::Config { action: ConfigAction::Show(c) } => commands::config::show(&c.file, c.kind, &c.set),
        Command::Config { action: ConfigAction::Check { file: c, ranks, rows } } => {
            commands::config::check(&c.file, c.kind, &c.set, ranks as usize, rows.map(|rows| rows as usize))
        }
        Command::Certify(asked) => commands::certify::run(asked),
        Command::Report { runs, out, figure } => commands::report::run(&runs, out, figure),
    }
}
