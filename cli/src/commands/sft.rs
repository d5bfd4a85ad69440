//! `xplore sft`.

use std::path::{Path, PathBuf};

use configs::model::Start;
use configs::{RunConfig, SftConfig};
use corpus::{Corpus, CorpusReport};
use lm::LocalModel;
use trainer::sft::Settings;
use trainer::trainee::{Lora, Measure, Trainee};
use trainer::{Output, Run, Team, flops, sft, start};

use crate::failure::Failure;
use crate::progress::Progress;
use crate::wiring;

use super::{begin, validation};

/// Beside the configuration.
#[derive(clap::Args)]
pub struct Options {
    /// Go on from the newest checkpoint of this run.
    #[arg(long)]
    resume: bool,
    /// Print so many rows, what is trained of them in colour, what became of all rows, and do not train.
    #[arg(long, value_name = "N")]
    preview: Option<usize>,
}

/// Runs the command.
pub fn run(file: &Path, set: &[String], options: &Options) -> Result<(), Failure> {
    let config: SftConfig = configs::load(file, set)?;
    if let Some(rows) = options.preview {
        start::prepare_process(config.threads)?;
        return preview(&config, rows);
    }
    let team = start::prepare_rank(config.threads, config.model.device, &config.parallel)?;
    begin::telling(&team.clone(), || run_in(&config, options, team))
}

fn run_in(config: &SftConfig, options: &Options, team: Team) -> Result<(), Failure> {
    let folder = config.folder().join("checkpoints");
    let from = begin::where_to_begin(&folder, options.resume)?;
    let tensorboard = config.metrics.tensorboard;
    let mut run = begin::opened(&team.world, &config.folder(), &config.resolved()?, from.as_deref(), tensorboard)?;
    train(config, team, &mut run, "sft", Some(&folder), from)?;
    if run.writes() {
        eprintln!("done: {}", run.folder().display());
    }
    Ok(())
}

/// Trains as `config` says with the ranks of `team`, reporting under `phase`, from the checkpoint `from` on if there is one.
pub fn train(
    config: &SftConfig,
    team: Team,
    run: &mut Run,
    phase: &str,
    checkpoints: Option<&Path>,
    from: Option<PathBuf>,
) -> Result<Trainee, Failure> {
    let model = model(config, phase, &team)?;
    // One rank makes the cache of tokenized rows; the others find it.
    let corpus = team.world.first_here("the rows are tokenized", || open(config, &model, team.world.leads()))?;
    // Whatever a validation needs is looked for before the first step.
    let judging = config.validation.summaries.as_ref().map(|s| validation::Judging::new(s, config.seed)).transpose()?;
    let lora = config.lora.as_ref().map(|lora| Lora {
        config: lora,
        base: config.model.path.as_deref().unwrap_or_default(),
        seed: config.seed,
    });
    let device = model.decoder.device();
    let peak = match config.metrics.peak_tflops {
        0.0 => flops::peak(device, model.decoder.params.flat.kind()),
        given => Some(given * 1e12),
    };
    let mut trainee = Trainee::in_team(model, lora, &config.optimizer, team)?;
    let mut progress = Progress::new(phase);
    let mut last = f64::NAN;
    let mut show = |step, steps, metrics: &trainer::run::Metrics| {
        last = metrics.get("loss").and_then(|v| v.as_f64()).unwrap_or(last);
        progress.at(step, steps, &line(metrics));
    };
    let settings = Settings {
        seed: config.seed,
        train: &config.train,
        optimizer: &config.optimizer,
        validation: &config.validation,
        checkpoint: &config.checkpoint,
        peak_flops: peak,
    };
    let mut measure =
        judging.as_ref().map(|judging| move |model: &LocalModel, team: &Team| judging.measure(model, team));
    let measure = measure.as_mut().map(|m| m as &mut Measure<'_>);
    let mut output = Output { run, phase, checkpoints: checkpoints.map(Path::to_path_buf), progress: &mut show };
    sft::train(&mut trainee, &corpus, settings, from, measure, &mut output)?;
    let rows = corpus.train.len();
    if trainee.team.world.leads() {
        progress.done(&format!("{rows} rows, loss {last:.3}"));
    }
    Ok(trainee)
}

/// One line of a step's numbers.
fn line(metrics: &trainer::run::Metrics) -> String {
    let number = |key: &str| metrics.get(key).and_then(|v| v.as_f64());
    let mut words = Vec::new();
    let mut say = |text: Option<String>| words.extend(text);
    say(number("loss").map(|v| format!("loss {v:.3}")));
    say(number("validation/loss").map(|v| format!("validation {v:.3}")));
    say(number("validation/accuracy").map(|v| format!("accuracy {:.1} %", 100.0 * v)));
    say(number("grad_norm").map(|v| format!("grad {v:.2}")));
    say(number("lr").map(|v| format!("lr {v:.1e}")));
    say(number("time/trained_tokens_per_second").map(|v| format!("{v:.0} trained tokens/s")));
    say(number("mfu").map(|v| format!("MFU {:.0} %", 100.0 * v)));
    say(number("memory/device_peak_gib").or(number("memory/peak_gib")).map(|v| format!("{v:.1} GiB")));
    say(number("epoch").map(|v| format!("epoch {v:.2}")));
    say(number("skipped_so_far").filter(|v| *v > 0.0).map(|v| format!("{v} skipped")));
    say(number("time/left").map(|v| format!("{} left", wiring::duration(v))));
    words.join("  ")
}

fn preview(config: &SftConfig, rows: usize) -> Result<(), Failure> {
    let tokenizer = start::tokenizer_of(&config.model, &config.data)?;
    let mut progress = Progress::new("tokenize");
    let mut show = |words: &str, done, total| progress.at(done, total, words);
    let corpus = corpus::open(&config.data, &tokenizer, &config.cache(), config.seed, &mut show)?;
    let colour = std::io::IsTerminal::is_terminal(&std::io::stdout());
    print!("{}", corpus::preview(&config.data, &tokenizer, Some(&corpus.report), rows, colour)?);
    Ok(())
}

fn model(config: &SftConfig, phase: &str, team: &Team) -> Result<LocalModel, Failure> {
    Ok(match config.model.start() {
        Start::Existing(source) => start::load_in_team(&source, team)?,
        Start::Random { shape, device, dtype, .. } => {
            let tokenizer = start::tokenizer_of(&config.model, &config.data)?;
            start::random(phase, &shape, tokenizer, config.seed, (device, dtype))?
        }
    })
}

fn open(config: &SftConfig, model: &LocalModel, leads: bool) -> Result<Corpus, Failure> {
    let mut progress = Progress::new("tokenize");
    let mut show = |words: &str, done, total| {
        if leads {
            progress.at(done, total, words);
        }
    };
    let corpus = corpus::open(&config.data, &model.tokenizer, &config.cache(), config.seed, &mut show)?;
    if leads {
        warn(&corpus.report);
    }
    Ok(corpus)
}

/// Rows that were cut or left out are never passed over in silence.
fn warn(report: &CorpusReport) {
    for (name, set) in report.sets.iter().chain(&report.validation) {
        if set.truncated > 0 || set.skipped.total() > 0 {
            eprintln!(
                "{name}: of {} rows {} were cut to data.max_length and {} left out (xplore sft --preview 0 says why)",
                set.rows,
                set.truncated,
                set.skipped.total()
            );
        }
    }
}
