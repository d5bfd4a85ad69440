//! `xplore rl`.

use std::path::Path;

use chat::RlRow;
use configs::{RlConfig, RunConfig};
use lm::LocalModel;
use rewards::Judge;
use trainer::{Output, Run, rl, start};

use crate::failure::Failure;
use crate::progress::Progress;
use crate::wiring;

/// Runs the command.
pub fn run(file: &Path, set: &[String]) -> Result<(), Failure> {
    let config: RlConfig = configs::load(file, set)?;
    start::prepare_process(config.threads)?;
    // Everything that a user may have misspelt is looked at before weights load.
    wiring::composition(&config.reward)?;
    let rows: Vec<RlRow> = wiring::rows(&config.data.train)?;
    let mut run = Run::create(&config.folder(), &config.resolved()?)?;
    let checkpoints = run.folder().join("checkpoints");
    train(&config, &rows, &mut run, Some(&checkpoints))?;
    eprintln!("done: {}", run.folder().display());
    Ok(())
}

/// Trains as `config` says on `rows`.
pub fn train(
    config: &RlConfig,
    rows: &[RlRow],
    run: &mut Run,
    checkpoints: Option<&Path>,
) -> Result<LocalModel, Failure> {
    let composition = wiring::composition(&config.reward)?;
    let prompts = wiring::prompts(&config.prompts)?;
    let judge_prompts = wiring::prompts(&config.judge.prompts)?;
    let mut model = start::load(&config.model)?;
    let judge_model = wiring::judge_model(&config.judge)?;
    let judge = Judge::new(&*judge_model, &judge_prompts, wiring::judge_settings(&config.judge, config.seed))?;
    let mut progress = Progress::new("rl");
    let mut last = String::new();
    let mut show = |step, steps, metrics: &trainer::run::Metrics| {
        let number = |key: &str| metrics[key].as_f64().unwrap_or(f64::NAN);
        last = format!(
            "reward {:.3}  entropy {:.2}  length {:.0}",
            number("reward/total"),
            number("entropy"),
            number("length/mean")
        );
        progress.at(step, steps, &last);
    };
    let setting = rl::Setting { judge: &judge, prompts: &prompts, composition: &composition, config };
    let checkpoints = checkpoints.map(Path::to_path_buf);
    rl::train(&mut model, rows, setting, &mut Output { run, phase: "rl", checkpoints, progress: &mut show })?;
    progress.done(&last);
    Ok(model)
}
