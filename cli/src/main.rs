//! The `xplore` program: arguments in, words and progress out. What it does is done by the other crates.

mod commands;
mod failure;
mod progress;
mod wiring;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Failure;

/// Trains preference reasoning models: language models that read what a person chose and write down what they prefer.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// A configuration file and changes to it.
#[derive(clap::Args)]
struct Config {
    /// The TOML file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Changes one value of it, e.g. optimizer.lr=1e-5; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Subcommand)]
enum Command {
    /// The whole pipeline on the built-in world, on a CPU, in minutes: judges, synthesis, SFT, GRPO, evaluation, report.
    Quickstart {
        /// The run's folder. Default: runs/quickstart, or runs/quickstart-tiny.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// The same phases at toy size in less than a minute, to prove an installation; what the models reach says nothing.
        #[arg(long)]
        tiny: bool,
        /// Seed of the world and of everything after.
        #[arg(long)]
        seed: Option<u64>,
        /// Changes one value of the built-in configuration (configs/quickstart.toml, and configs/quickstart-tiny.toml over
        /// it); may be given several times.
        #[arg(long = "set", value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
    /// Supervised fine-tuning.
    Sft {
        #[command(flatten)]
        config: Config,
        #[command(flatten)]
        options: commands::sft::Options,
    },
    /// Reinforcement learning: GRPO over streaming stages.
    Rl {
        #[command(flatten)]
        config: Config,
        #[command(flatten)]
        options: commands::rl::Options,
    },
    /// Starts several ranks of a command on this machine: xplore launch --nproc 4 -- sft --config FILE.
    Launch(commands::launch::Launch),
    /// Works out rewards, advantages and loss of a recorded step of `rl` again, without a rollout.
    Replay(commands::replay::Replay),
    /// Evaluates models on held-out people, by several judges.
    Eval(Config),
    /// Writes summaries of people's histories, one JSON object a line.
    Summarize {
        /// A model folder.
        #[arg(long, value_name = "DIR")]
        model: PathBuf,
        /// JSON lines of {uid, interactions}.
        #[arg(long, value_name = "FILE")]
        history: PathBuf,
        /// Read each history in two halves, the first summary carried into the second prompt.
        #[arg(long)]
        streaming: bool,
        /// The prompt set, built in (compact, plain) or a folder.
        #[arg(long, default_value = "plain")]
        prompts: String,
        /// Sampling temperature; 0 is greedy.
        #[arg(long, default_value_t = 0.6)]
        temperature: f64,
        /// Most tokens of a response.
        #[arg(long, default_value_t = 4096)]
        max_new_tokens: usize,
        /// Seed of the draws.
        #[arg(long, default_value_t = 42)]
        seed: u64,
        /// Where to write; standard output if absent.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Continues prompts: tokens, text and log-probabilities as JSON lines.
    Generate {
        #[command(flatten)]
        asked: commands::questions::Questions,
        #[command(flatten)]
        how: commands::generate::Drawing,
    },
    /// Log-probabilities of given texts, token by token, or of given answers (`candidates`), as JSON lines.
    Score {
        #[command(flatten)]
        asked: commands::questions::Questions,
    },
    /// Writes a model folder: an adapter merged into its model, or a model in another number format.
    Export(commands::export::Export),
    /// Serves a model to OpenAI clients: chat completions, streaming, log-probabilities.
    Serve(commands::serve::Place),
    /// Shows or checks a configuration.
    Config {
        #[command(subcommand)]
        action: ConfigAction,
    },
    /// Writes report.html from the folders of one or several runs.
    Report {
        /// Run folders.
        #[arg(required = true)]
        runs: Vec<PathBuf>,
        /// The file to write. Default: report.html in the first run's folder.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Also write the picture of bars and reward curve (SVG) here.
        #[arg(long, value_name = "FILE")]
        figure: Option<PathBuf>,
    },
}

/// What a configuration file is for.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Kind {
    Sft,
    Rl,
    Eval,
    Quickstart,
}

#[derive(Subcommand)]
enum ConfigAction {
    /// Prints the configuration with every default written out.
    Show(CheckedFile),
    /// Says whether the configuration is good, and what is wrong if not.
    Check {
        #[command(flatten)]
        file: CheckedFile,
        /// Plan the memory for so many ranks.
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        ranks: u32,
    },
}

#[derive(clap::Args)]
struct CheckedFile {
    /// The TOML file.
    file: PathBuf,
    /// What it configures.
    #[arg(long, value_enum)]
    kind: Kind,
    /// Changes one value of it.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let launches = matches!(arguments.command, Command::Launch(_));
    let _ = ctrlc::set_handler(move || {
        // A launcher passes them on to its ranks.
        if launches {
            commands::launch::INTERRUPTS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            return;
        }
        // The first asks the training loops to finish the step and write a checkpoint; the second leaves at once.
        if trainer::run::STOP.swap(true, std::sync::atomic::Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("stopping after this step; once more to stop at once");
    });
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.code)
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Quickstart { out, tiny, seed, set } => commands::quickstart::run(out, tiny, seed, set),
        Command::Sft { config, options } => commands::sft::run(&config.config, &config.set, &options),
        Command::Rl { config, options } => commands::rl::run(&config.config, &config.set, &options),
        Command::Launch(asked) => commands::launch::run(&asked),
        Command::Replay(asked) => commands::replay::run(&asked),
        Command::Eval(c) => commands::eval::run(&c.config, &c.set),
        Command::Summarize { model, history, streaming, prompts, temperature, max_new_tokens, seed, out } => {
            let how = commands::summarize::How { streaming, temperature, max_new_tokens, seed };
            commands::summarize::run(&model, &history, &prompts, how, out.as_deref())
        }
        Command::Generate { asked, how } => commands::generate::generate(&asked, &how),
        Command::Score { asked } => commands::score::score(&asked),
        Command::Export(export) => commands::export::run(&export),
        Command::Serve(place) => commands::serve::run(place),
        Command::Config { action: ConfigAction::Show(c) } => commands::config::show(&c.file, c.kind, &c.set),
        Command::Config { action: ConfigAction::Check { file: c, ranks } } => {
            commands::config::check(&c.file, c.kind, &c.set, ranks as usize)
        }
        Command::Report { runs, out, figure } => commands::report::run(&runs, out, figure),
    }
}
