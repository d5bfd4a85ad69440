//! `xplore sft`.

use std::path::Path;

use chat::SftRow;
use configs::{RunConfig, SftConfig, Start};
use lm::LocalModel;
use trainer::{Output, Run, sft, start};

use crate::failure::Failure;
use crate::progress::Progress;
use crate::wiring;

/// Runs the command.
pub fn run(file: &Path, set: &[String]) -> Result<(), Failure> {
    let config: SftConfig = configs::load(file, set)?;
    start::prepare_process(config.threads)?;
    let rows: Vec<SftRow> = wiring::rows(&config.data.train)?;
    let mut run = Run::create(&config.folder(), &config.resolved()?)?;
    let checkpoints = run.folder().join("checkpoints");
    train(&config, &rows, &mut run, "sft", Some(&checkpoints))?;
    eprintln!("done: {}", run.folder().display());
    Ok(())
}

/// Trains as `config` says on `rows`, reporting under `phase`.
pub fn train(
    config: &SftConfig,
    rows: &[SftRow],
    run: &mut Run,
    phase: &str,
    checkpoints: Option<&Path>,
) -> Result<LocalModel, Failure> {
    let mut model = match config.model.start() {
        Start::Existing(source) => start::load(&source)?,
        Start::Random { shape, tokenizer, device, .. } => {
            let texts = rows.iter().flat_map(|r| r.prompt.iter().chain(&r.completion)).map(|m| m.content.as_str());
            let tokenizer = start::tokenizer(&tokenizer, texts)?;
            start::random(phase, &shape, tokenizer, config.seed, device)?
        }
    };
    let tokens = sft::tokenize(rows, &model.tokenizer, config.data.max_length)?;
    let mut progress = Progress::new(phase);
    let mut last = f64::NAN;
    let mut show = |step, steps, metrics: &trainer::run::Metrics| {
        last = metrics["loss"].as_f64().unwrap_or(f64::NAN);
        let rate = metrics["time/tokens_per_second"].as_f64().unwrap_or(f64::NAN);
        progress.at(step, steps, &format!("loss {last:.3}  {rate:.0} tokens/s"));
    };
    let settings = sft::Settings {
        seed: config.seed,
        data: &config.data,
        train: &config.train,
        optimizer: &config.optimizer,
        checkpoint: &config.checkpoint,
    };
    let mut output = Output { run, phase, checkpoints: checkpoints.map(Path::to_path_buf), progress: &mut show };
    sft::train(&mut model, &tokens, settings, &mut output)?;
    progress.done(&format!("{} rows, loss {last:.3}", rows.len()));
    Ok(model)
}
