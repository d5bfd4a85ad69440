//! `xplore rl`.

use std::path::{Path, PathBuf};

use chat::RlRow;
use configs::{RlConfig, RunConfig};
use lm::LocalModel;
use rewards::{Judge, Response, gate};
use trainer::rl::people::People;
use trainer::rl::rollout::Rollouts;
use trainer::trainee::{Lora, Measure, Trainee};
use trainer::{Output, Run, Team, TrainError, flops, rl, start};

use super::{begin, rl_plan, validation};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::wiring;

/// Beside the configuration.
#[derive(clap::Args)]
pub struct Options {
    /// Go on from the newest checkpoint of this run.
    #[arg(long)]
    resume: bool,
    /// Show the plan, the batches, the memory, one prompt and one judged sample, and do not train.
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
pub fn run(file: &Path, set: &[String], options: &Options) -> Result<(), Failure> {
    let config: RlConfig = configs::load(file, set)?;
    if options.dry_run {
        start::prepare_process(config.threads)?;
        wiring::composition(&config.reward)?;
        let rows = wiring::people(&config.data.train)?;
        print!("{}", rl_plan::describe(&config, &rows, 1)?);
        return rl_plan::try_one(&config, &rows);
    }
    let team = start::prepare_rank(config.threads, config.model.device, &config.parallel)?;
    begin::telling(&team.clone(), || run_in(&config, options, team))
}

fn run_in(config: &RlConfig, options: &Options, team: Team) -> Result<(), Failure> {
    // Everything that a user may have misspelt is looked at before weights load.
    wiring::composition(&config.reward)?;
    let rows = team.world.first_here("the people are here", || wiring::people(&config.data.train))?;
    let folder = config.folder().join("checkpoints");
    let from = begin::where_to_begin(&folder, options.resume)?;
    let tensorboard = config.metrics.tensorboard;
    let mut run = begin::opened(&team.world, &config.folder(), &config.resolved()?, from.as_deref(), tensorboard)?;
    train(config, team, &rows, &mut run, Some(&folder), from)?;
    if run.writes() {
        eprintln!("done: {}", run.folder().display());
    }
    Ok(())
}

/// The policy as `config` has it at the run's start.
pub fn trainee(config: &RlConfig, team: Team) -> Result<Trainee, Failure> {
    let model = start::load_in_team(&config.model, &team)?;
    let lora = config.lora.as_ref().map(|lora| Lora { config: lora, base: &config.model.path, seed: config.seed });
    Ok(Trainee::in_team(model, lora, &config.optimizer, team)?)
}

/// Trains as `config` says on `rows` with the ranks of `team`, from the checkpoint `from` on if there is one.
pub fn train(
    config: &RlConfig,
    team: Team,
    rows: &[RlRow],
    run: &mut Run,
    checkpoints: Option<&Path>,
    from: Option<PathBuf>,
) -> Result<Trainee, Failure> {
    let composition = wiring::composition(&config.reward)?;
    let prompts = wiring::prompts(&config.prompts)?;
    let judge_prompts = wiring::prompts(&config.judge.prompts)?;
    // Rows that are of no use end the run before weights load.
    People::new(rows, config)?;
    let mut trainee = trainee(config, team)?;
    if !config.judge.endpoint.is_given() {
        start::locate_in_team(&config.judge.model.path, &trainee.team)?;
    }
    let judge_model = wiring::judge_model(&config.judge)?;
    let judge = Judge::new(&*judge_model, &judge_prompts, wiring::judge_settings(&config.judge, config.seed))?;
    let judging = judged_by(&judge);
    let held_out = config.validation.summaries.as_ref();
    let held_out = held_out.map(|s| validation::Judging::new(s, config.seed)).transpose()?;
    let mut measure =
        held_out.as_ref().map(|judging| move |model: &LocalModel, team: &Team| judging.measure(model, team));
    let measure = measure.as_mut().map(|m| m as &mut Measure<'_>);
    let decoder = &trainee.model.decoder;
    let peak = match config.metrics.peak_tflops {
        0.0 => flops::peak(decoder.device(), decoder.params.flat.kind()),
        given => Some(given * 1e12),
    };
    let mut progress = Progress::new("rl");
    let mut last = String::new();
    let mut show = |step, steps, metrics: &trainer::run::Metrics| {
        last = line(metrics);
        progress.at(step, steps, &last);
    };
    let rollouts = Rollouts { prompts: &prompts, judging: &judging, composition: &composition, config };
    let mut output = Output { run, phase: "rl", checkpoints: checkpoints.map(Path::to_path_buf), progress: &mut show };
    rl::train(&mut trainee, rows, rollouts, peak, from, measure, &mut output)?;
    if trainee.team.world.leads() {
        progress.done(&last);
    }
    Ok(trainee)
}

/// What a judge says of responses.
pub fn judged_by<'a>(
    judge: &'a Judge<'a>,
) -> impl Fn(&[Response<'_>], usize) -> Result<Vec<Option<f64>>, TrainError> + 'a {
    move |responses, limit| {
        let judged = gate::judge_responses(judge, responses, limit)?;
        Ok(judged.iter().map(|j| j.p_chosen).collect())
    }
}

/// One line of a step's numbers.
fn line(metrics: &trainer::run::Metrics) -> String {
    let number = |key: &str| metrics.get(key).and_then(|v| v.as_f64());
    let mut words = Vec::new();
    let mut say = |text: Option<String>| words.extend(text);
    say(number("reward/total").map(|v| format!("reward {v:.3}")));
    say(number("pass_rate").map(|v| format!("pass {:.0} %", 100.0 * v)));
    say(number("validation/accuracy").map(|v| format!("validation {:.1} %", 100.0 * v)));
    say(number("entropy").map(|v| format!("entropy {v:.2}")));
    say(number("length/mean").map(|v| format!("length {v:.0}")));
    say(number("zero_variance").map(|v| format!("flat {:.0} %", 100.0 * v)));
    say(number("grad_norm").map(|v| format!("grad {v:.2}")));
    say(number("time/step").map(|v| format!("{v:.1} s")));
    say(number("tokens_per_second/rollout").map(|v| format!("{v:.0} tokens/s")));
    say(number("memory/device_peak_gib").or(number("memory/peak_gib")).map(|v| format!("{v:.1} GiB")));
    words.join("  ")
}
