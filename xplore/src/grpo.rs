//! GRPO training from a configuration.

use std::path::{Path, PathBuf};

use chat::{Question, RlRow};
use configs::{RlConfig, RunConfig};
use lm::LocalModel;
use rewards::{Judge, Registry, Response, gate};
use trainer::grpo::curriculum_sampler::CurriculumSampler;
use trainer::grpo::rollout::Rollouts;
use trainer::trainable_model::{Lora, Measure, TrainableModel};
use trainer::{Output, ParallelContext, Run, TrainError, flops, start};

use crate::error::Error;
use crate::parts;
use crate::reporter::Reporter;
use crate::{run_start, validation};

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
        parts::composition(&config.reward, registry)?;
        let rows = context.world.main_process_first("read the users", || parts::users(&config.data.train))?;
        let folder = config.folder().join("checkpoints");
        let from = run_start::checkpoint_to_resume(&folder, resume)?;
        let tensorboard = config.metrics.tensorboard;
        let resolved = config.resolved()?;
        let mut run = run_start::open_run(&context.world, &config.folder(), &resolved, from.as_deref(), tensorboard)?;
        train(config, registry, context, &rows, &mut run, Some(&folder), from, reporter)
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
    let prompts = parts::prompts(&config.prompts)?;
    let judge_prompts = parts::prompts(&config.judge.prompts)?;
    // Unusable rows end the run before the weights are loaded.
    CurriculumSampler::new(rows, config)?;
    let mut trainable = trainable(config, context)?;
    if !config.judge.endpoint.is_given() {
        start::locate_on_ranks(&config.judge.model.path, &trainable.context)?;
    }
    let judge_model = parts::judge_model(&config.judge)?;
    let judge = Judge::new(&*judge_model, &judge_prompts, parts::judge_settings(&config.judge, config.seed))?;
    let judging = judged_by(&judge);
    let held_out = config.validation.summaries.as_ref();
    let held_out = held_out.map(|s| validation::ValidationSet::new(s, config.seed)).transpose()?;
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
    };
    let asking = |questions: &[Question]| Ok(judge.score(questions)?);
    let rollouts =
        Rollouts { prompts: &prompts, judging: &judging, asking: &asking, composition: &composition, config };
    let mut output = Output { run, phase: "rl", checkpoints: checkpoints.map(Path::to_path_buf), progress: &mut show };
    trainer::grpo::train(&mut trainable, rows, rollouts, peak, from, measure, &mut output)?;
    if trainable.context.world.is_rank_zero() {
        progress.done(&last);
    }
    Ok(trainable)
}

/// Returns a function that scores responses with `judge`: the probability that it picks the user's choice, or `None` for a response
/// that fails the format gate.
pub fn judged_by<'a>(judge: &'a Judge<'a>) -> impl Fn(&[Response<'_>]) -> Result<Vec<Option<f64>>, TrainError> + 'a {
    move |responses| Ok(gate::judge_responses(judge, responses)?)
}

/// Formats the metrics of a step as one line.
fn line(metrics: &trainer::metrics::Metrics) -> String {
    let number = |key: &str| metrics.get(key).and_then(|v| v.as_f64());
    let mut words = Vec::new();
    let mut say = |text: Option<String>| words.extend(text);
    say(number("reward/total").map(|v| format!("reward {v:.3}")));
    say(number("pass_rate").map(|v| format!("pass {:.0} %", 100.0 * v)));
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
