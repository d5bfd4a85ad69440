//! GRPO training from a configuration.

use std::path::{Path, PathBuf};

use chat::RlRow;
use chat::prompt_manifest::PromptTask;
use configs::{RlConfig, RunConfig};
use corpus::Users;
use lm::{LocalModel, ModelPrompts};
use rewards::{PanelRequest, Registry};
use trainer::grpo::curriculum_sampler::{CurriculumSampler, usable};
use trainer::grpo::rewarding::SubmitFn;
use trainer::grpo::rollout::Rollouts;
use trainer::trainable_model::{Lora, Measure, TrainableModel};
use trainer::{Output, ParallelContext, Run, flops, start};

use crate::error::Error;
use crate::parts;
use crate::reporter::Reporter;
use crate::{model_paths, panel, reward_checks, run_start, validation, wording};

/// Trains with GRPO as one rank of `context`, and writes the run's folder. `registry` holds the reward terms that the configuration
/// may name. With `resume`, training resumes from the newest checkpoint.
///
/// ```
/// use std::path::Path;
///
/// use xplore::{Registry, Silent, configs, grpo, runtime};
///
/// # let folder = fixtures::policy::model_and_rows();
/// # let folder = folder.path().display();
/// let text = format!(
///     r#"
///     out = "{folder}"
///     prompts = "compact"
///     model = {{ path = "{folder}/model", dtype = "fp32", device = "cpu" }}
///     judge = {{ prompts = "compact", model = {{ path = "{folder}/model", dtype = "fp32", device = "cpu" }} }}
///     data.train = "{folder}/rl.jsonl"
///     rollout = {{ users_per_step = 2, num_generations = 2, max_prompt_tokens = 400, max_new_tokens = 8 }}
///     train.steps = 1
///     "#
/// );
/// let config: configs::RlConfig = configs::parse(Path::new("rl.toml"), &text, &[])?;
/// let context = runtime::init_distributed(config.threads, config.model.device, &config.parallel)?;
/// grpo::run(&config, &Registry::default(), context, false, &Silent)?;
/// # Ok::<(), xplore::Error>(())
/// ```
///
/// # Errors
/// Returns an error if the configuration, data or models are not valid, the run's folder contains checkpoints of an earlier run,
/// the judge or a reward term fails, a file cannot be written, or the gradient is non-finite in too many consecutive steps.
pub fn run(
    config: &RlConfig,
    registry: &Registry,
    context: ParallelContext,
    resume: bool,
    reporter: &dyn Reporter,
) -> Result<TrainableModel, Error> {
    run_start::reporting_failure(&context.clone(), || {
        // Names that may be misspelled are checked before the weights are loaded.
        let composition = parts::composition(&config.reward, registry)?;
        reward_checks::check(config, &composition)?;
        let users = context.world.main_process_first("read the users", || parts::users(&config.data))?;
        if context.world.is_rank_zero() {
            warn(&users, config, reporter);
            let advice = reward_checks::advice(config, &composition, Some(&users.rows));
            advice.iter().for_each(|warning| reporter.warn(warning));
        }
        let folder = config.folder().join("checkpoints");
        let from = run_start::checkpoint_to_resume(&folder, resume)?;
        let mut config = config.clone();
        let run_folder = config.folder();
        let models = model_paths::pin(model_paths::of_rl(&mut config), &context.world, &run_folder, resume, reporter)?;
        let config = &config;
        let prompts = wording::of_rl(config, from.as_deref())?;
        let tensorboard = config.metrics.tensorboard;
        let resolved = config.resolved()?;
        let mut run = run_start::open_run(&context.world, &config.folder(), &resolved, from.as_deref(), tensorboard)?;
        if context.world.is_rank_zero() {
            model_paths::record(&run_folder, &models)?;
        }
        wording::begin(&context.world, &config.folder(), &prompts, reporter)?;
        train(config, registry, context, &users.rows, &mut run, Some(&folder), from, reporter)
    })
}

/// Loads the policy in its initial state, before the first step.
///
/// # Errors
/// Returns an error if the policy cannot be loaded.
pub fn trainable(config: &RlConfig, context: ParallelContext) -> Result<TrainableModel, Error> {
    let model = start::load_on_ranks(&config.model, &context)?;
    let lora = config.lora.as_ref().map(|lora| Lora { config: lora, base: &config.model.path, seed: config.seed });
    Ok(TrainableModel::with_context(model, lora, &config.optimizer, context)?)
}

/// Trains on `rows` with the ranks of `context`, and resumes from the checkpoint `from` if it is given.
///
/// # Errors
/// Same as [`run`].
#[expect(clippy::too_many_arguments, reason = "one for each thing that a run may share with others")]
pub fn train(
    config: &RlConfig,
    registry: &Registry,
    context: ParallelContext,
    rows: &[RlRow],
    run: &mut Run,
    checkpoints: Option<&Path>,
    from: Option<PathBuf>,
    reporter: &dyn Reporter,
) -> Result<TrainableModel, Error> {
    let composition = parts::composition(&config.reward, registry)?;
    let prompts = wording::of_model(&config.prompts, &config.model.path, PromptTask::Summarize)?;
    // Unusable rows, and a set without a template for some of them, end the run before the weights are loaded.
    CurriculumSampler::new(rows, config)?;
    prompts.check_summaries(usable(rows, config).iter().map(|user| user.stages[0].window))?;
    panel::check_tasks(config, &composition, rows)?;
    if context.world.is_rank_zero() {
        // Programs of reward terms that do not start end the run before the weights are loaded.
        composition.start_external()?;
    }
    let mut trainable = trainable(config, context)?;
    trainable.model.prompts = Some(ModelPrompts::new(prompts.clone()));
    for (_, judge) in config.panel_judges().iter().filter(|(_, judge)| !judge.judge.endpoint.is_given()) {
        start::locate_on_ranks(&judge.judge.model.path, &trainable.context)?;
    }
    let judges = panel::panel(config)?;
    let held_out = config.validation.summaries.as_ref();
    let held_out = held_out.map(|s| validation::ValidationSet::new(s, Some(&prompts), config.seed)).transpose()?;
    let mut measure = held_out
        .as_ref()
        .map(|judging| move |model: &LocalModel, context: &ParallelContext| judging.measure(model, context));
    let measure = measure.as_mut().map(|m| m as &mut Measure<'_>);
    let decoder = &trainable.model.decoder;
    let peak = match config.metrics.peak_tflops {
        0.0 => flops::peak(decoder.device(), decoder.params.flat.kind()),
        given => Some(given * 1e12),
    };
    let mut progress = reporter.task("rl");
    let mut last = String::new();
    let mut show = |step, steps, metrics: &trainer::metrics::Metrics| {
        last = line(metrics);
        progress.at(step, steps, &last);
        composition.take_warnings().iter().for_each(|warning| reporter.warn(warning));
    };
    let ask = |requests: &[PanelRequest]| Ok(judges.verdicts(requests)?);
    let submit = |requests: &[PanelRequest]| Ok(judges.submit(requests)?);
    let stats = || judges.take_stats();
    let rollouts = Rollouts {
        prompts: &prompts,
        ask: &ask,
        submit: judges.has_remote().then_some(&submit as &SubmitFn<'_>),
        stats: Some(&stats),
        gate: None,
        composition: &composition,
        config,
    };
    let mut output = Output { run, phase: "rl", checkpoints: checkpoints.map(Path::to_path_buf), progress: &mut show };
    trainer::grpo::train(&mut trainable, rows, rollouts, peak, from, measure, &mut output)?;
    if trainable.context.world.is_rank_zero() {
        progress.done(&last);
    }
    Ok(trainable)
}

/// Reports rows that are in no step.
fn warn(users: &Users, config: &RlConfig, reporter: &dyn Reporter) {
    if let Some(words) = users.skipped_in_words() {
        reporter.warn(&format!("data.train: {words}"));
    }
    let left_out = users.rows.len() - usable(&users.rows, config).len();
    if left_out > 0 {
        reporter.warn(&format!(
            "data.train: {left_out} of {} users left out: the history is too short for {} stages, or (with data.unusable = \
             \"skip\") a target has no `rejected` item",
            users.rows.len(),
            config.rollout.stages
        ));
    }
}

/// Formats the metrics of a step as one line.
fn line(metrics: &trainer::metrics::Metrics) -> String {
    let number = |key: &str| metrics.get(key).and_then(|v| v.as_f64());
    let mut words = Vec::new();
    let mut say = |text: Option<String>| words.extend(text);
    say(number("reward/total").map(|v| format!("reward {v:.3}")));
    say(number("pass_rate").map(|v| format!("pass {:.0} %", 100.0 * v)));
    say(number("no_answer").map(|v| format!("no answer {:.0} %", 100.0 * v)));
    say(number("validation/accuracy").map(|v| format!("validation {:.1} %", 100.0 * v)));
    say(number("entropy").map(|v| format!("entropy {v:.2}")));
    say(number("length/mean").map(|v| format!("length {v:.0}")));
    say(number("zero_variance").map(|v| format!("zero-variance {:.0} %", 100.0 * v)));
    say(number("grad_norm").map(|v| format!("grad {v:.2}")));
    say(number("time/step").map(|v| format!("{v:.1} s")));
    say(number("tokens_per_second/rollout").map(|v| format!("{v:.0} tokens/s")));
    say(number("memory/device_peak_gib").or(number("memory/peak_gib")).map(|v| format!("{v:.1} GiB")));
    words.join("  ")
}
