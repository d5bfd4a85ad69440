//! `xplore judge`: examines the judges of a configuration, or reads judges' answers without a model.

use std::path::PathBuf;

use serde::Serialize;
use xplore::judge_tools::{self, Calibration, PairRow, pairs, summaries};
use xplore::protocols::judge::{JudgeProtocol, answers};
use xplore::{Error, parts};

use super::input;
use super::judging::{JudgesArgs, SummaryArgs};
use crate::progress::Terminal;

/// Arguments of `xplore judge`.
#[derive(clap::Args)]
pub struct JudgeArgs {
    #[command(flatten)]
    form: Form,
    /// For --parse: the rules, those of the released reward or the defaults. Default: published.
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    #[command(flatten)]
    judges: JudgesArgs,
    #[command(flatten)]
    read: SummaryArgs,
    /// For --panel: a further prompt set for every judge, built in (compact, plain) or a folder; may be repeated.
    #[arg(long = "wording", value_name = "SET")]
    wordings: Vec<String>,
    /// For --calibrate: number of bins of the reliability curve, from 1 to 1000. Default: 10.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    bins: Option<u32>,
    /// For --calibrate: a text that the judges also read in place of every summary, such as an order to choose an item.
    #[arg(long, value_name = "TEXT")]
    injection: Option<String>,
    /// For --calibrate and --panel: print JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// File of JSON lines: for --parse, answers (default: standard input); for --calibrate and --panel, users (default: those of the
    /// configuration).
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// For --parse and --pairs: file to write one JSON line per result to; standard output if absent.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What the command does.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Form {
    /// Read answers, without a model: JSON lines {text} or {tokens} to selection and confidence.
    #[arg(long)]
    parse: bool,
    /// Measure the judges on the users' held-out choices: accuracy with the users' true preferences, those of others and no summary,
    /// reliability, order bias, tokens and seconds.
    #[arg(long)]
    calibrate: bool,
    /// Judge the choices of a file: JSON lines {chosen, rejected}, query, preference to probabilities.
    #[arg(long, value_name = "FILE")]
    pairs: Option<PathBuf>,
    /// Judge one model's summaries by every judge, in several wordings and both orders of the items: mean accuracy and its span.
    #[arg(long)]
    panel: bool,
}

/// The value of `--protocol`.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Protocol {
    /// Mode sampled; a missing answer has confidence 0.
    Published,
    /// Mode forced or reasoned; a missing answer has confidence 0.5.
    Ours,
}

impl JudgeArgs {
    /// Checks that no option is given to a form that does not use it.
    fn check(&self) -> Result<(), Error> {
        let Form { parse, calibrate, pairs, panel } = &self.form;
        let (parse, calibrate, pairs, panel) = (*parse, *calibrate, pairs.is_some(), *panel);
        let mut options = vec![
            ("--protocol", self.protocol.is_some(), parse, "--parse"),
            ("--wording", !self.wordings.is_empty(), panel, "--panel"),
            ("--bins", self.bins.is_some(), calibrate, "--calibrate"),
            ("--injection", self.injection.is_some(), calibrate, "--calibrate"),
            ("--json", self.json, calibrate || panel, "--calibrate and --panel"),
            ("--input", self.input.is_some(), !pairs, "--parse, --calibrate and --panel"),
            ("--out", self.out.is_some(), parse || pairs, "--parse and --pairs"),
        ];
        let judging = "--calibrate, --pairs and --panel";
        options.extend(self.judges.given().map(|(option, given)| (option, given, !parse, judging)));
        options.extend(self.read.given().map(|(option, given)| (option, given, panel, "--panel")));
        match options.into_iter().find(|(_, given, used, _)| *given && !used) {
            None => Ok(()),
            Some((option, _, _, forms)) => {
                Err(Error::usage(format!("{option} is only for {forms}; remove it, or choose another form")))
            }
        }
    }
}

/// Runs the command.
pub fn run(args: &JudgeArgs) -> Result<(), Error> {
    args.check()?;
    if args.form.parse {
        let protocol = match args.protocol {
            Some(Protocol::Ours) => JudgeProtocol::Ours,
            Some(Protocol::Published) | None => JudgeProtocol::Published,
        };
        return input::write(args.out.as_deref(), &answers(protocol, args.input.as_deref())?);
    }
    let setup = args.judges.load()?;
    if let Some(file) = &args.form.pairs {
        let rows: Vec<PairRow> = parts::rows(file)?;
        return input::write(args.out.as_deref(), &pairs::score(&setup, &rows, &Terminal)?);
    }
    let users = setup.users(args.input.as_deref())?;
    if args.form.calibrate {
        let bins = args.bins.map_or(Calibration::default().bins, |bins| bins as usize);
        let how = Calibration { bins, injection: args.injection.clone() };
        let rows = judge_tools::calibrate(&setup, &users, &how, &Terminal)?;
        return print(args.json, &rows, || judge_tools::calibration_tables(&rows));
    }
    let summaries = summaries::of_users(&setup, &users, &args.read.source()?, &Terminal)?;
    let report = judge_tools::panel(&setup, &users, &summaries, &args.wordings, &Terminal)?;
    print(args.json, &report, || judge_tools::panel_tables(&report))
}

/// Prints a result as one line of JSON, or as tables.
pub fn print<T: Serialize>(json: bool, result: &T, tables: impl FnOnce() -> String) -> Result<(), Error> {
    match json {
        true => println!("{}", serde_json::to_string(result).map_err(|e| Error::data(e.to_string()))?),
        false => println!("{}", tables()),
    }
    Ok(())
}
