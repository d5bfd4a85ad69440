//! Supervised fine-tuning from a configuration.

use std::path::{Path, PathBuf};

use configs::model::Start;
use configs::{RunConfig, SftConfig};
use corpus::{Corpus, CorpusReport};
use lm::{LocalModel, ModelPrompts};
use trainer::sft::SftSettings;
use trainer::trainable_model::{Lora, Measure, TrainableModel};
use trainer::{Output, ParallelContext, Run, flops, sft, start};

use crate::error::Error;
use crate::parts;
use crate::reporter::Reporter;
use crate::{model_paths, run_start, validation, wording};

/// Fine-tunes a model as one rank of `context`, and writes the run's folder. With `resume`, training resumes from the newest
/// checkpoint.
///
/// ```
/// use std::path::Path;
///
/// use xplore::{Silent, configs, runtime, sft};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path().display();
/// let text = format!(
///     r#"
///     out = "{folder}"
///     model = {{ dtype = "fp32", device = "cpu", shape = {{ layers = 2, hidden_size = 32, intermediate_size = 64 }} }}
///     data = {{ train = "../examples/sft.jsonl", max_length = 2048 }}
///     train = {{ batch_size = 4, max_steps = 2 }}
///     "#
/// );
/// let config: configs::SftConfig = configs::parse(Path::new("sft.toml"), &text, &[])?;
/// let context = runtime::init_distributed(config.threads, config.model.device, &config.parallel)?;
/// let model = sft::run(&config, context, false, &Silent)?.into_model()?;
/// xplore::generate::save(&config.folder().join("model"), &model)?;
/// # Ok::<(), xplore::Error>(())
/// ```
///
/// # Errors
/// Returns an error if the configuration, data or model is not valid, the run's folder contains checkpoints of an earlier run, a
/// file cannot be written, or the gradient is non-finite in too many consecutive steps.
pub fn run(
    config: &SftConfig,
    context: ParallelContext,
    resume: bool,
    reporter: &dyn Reporter,
) -> Result<TrainableModel, Error> {
    run_start::reporting_failure(&context.clone(), || {
        let folder = config.folder().join("checkpoints");
        let from = run_start::checkpoint_to_resume(&folder, resume)?;
        let mut config = config.clone();
        let run_folder = config.folder();
        let models = model_paths::pin(model_paths::of_sft(&mut config), &context.world, &run_folder, resume, reporter)?;
        let config = &config;
        let prompts = wording::of_sft(config, from.as_deref())?;
        let tensorboard = config.metrics.tensorboard;
        let resolved = config.resolved()?;
        let mut run = run_start::open_run(&context.world, &config.folder(), &resolved, from.as_deref(), tensorboard)?;
        if context.world.is_rank_zero() {
            model_paths::record(&run_folder, &models)?;
        }
        wording::begin(&context.world, &config.folder(), &prompts, reporter)?;
        train(config, context, &mut run, "sft", Some(&folder), from, reporter)
    })
}

/// Fine-tunes a model with the ranks of `context`, reports under `phase`, and resumes from the checkpoint `from` if it is given.
///
/// # Errors
/// Same as [`run`].
pub fn train(
    config: &SftConfig,
    context: ParallelContext,
    run: &mut Run,
    phase: &str,
    checkpoints: Option<&Path>,
    from: Option<PathBuf>,
    reporter: &dyn Reporter,
) -> Result<TrainableModel, Error> {
    // A misspelled set ends the run before the weights are loaded.
    let prompts = wording::of_rows(config)?;
    let mut model = model(config, phase, &context)?;
    model.prompts = prompts.clone().map(ModelPrompts::new);
    // One rank writes the cache of tokenized rows; the other ranks read it.
    let corpus = context
        .world
        .main_process_first("tokenize the rows", || open(config, &model, context.world.is_rank_zero(), reporter))?;
    // Inputs of the validation are loaded before the first step, so that missing ones fail early.
    let judging = config.validation.summaries.as_ref();
    let judging = judging.map(|s| validation::ValidationSet::new(s, prompts.as_ref(), config.seed)).transpose()?;
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
    let mut trainable = TrainableModel::with_context(model, lora, &config.optimizer, context)?;
    let mut progress = reporter.task(phase);
    let mut last = f64::NAN;
    let mut show = |step, steps, metrics: &trainer::metrics::Metrics| {
        last = metrics.get("loss").and_then(|v| v.as_f64()).unwrap_or(last);
        progress.at(step, steps, &line(metrics));
    };
    let settings = SftSettings {
        seed: config.seed,
        train: &config.train,
        optimizer: &config.optimizer,
        validation: &config.validation,
        checkpoint: &config.checkpoint,
        peak_flops: peak,
    };
    let mut measure = judging
        .as_ref()
        .map(|judging| move |model: &LocalModel, context: &ParallelContext| judging.measure(model, context));
    let measure = measure.as_mut().map(|m| m as &mut Measure<'_>);
    let mut output = Output { run, phase, checkpoints: checkpoints.map(Path::to_path_buf), progress: &mut show };
    sft::train(&mut trainable, &corpus, settings, from, measure, &mut output)?;
    let rows = corpus.train.len();
    if trainable.context.world.is_rank_zero() {
        progress.done(&format!("{rows} rows, loss {last:.3}"));
    }
    Ok(trainable)
}

/// Formats the metrics of a step as one line.
fn line(metrics: &trainer::metrics::Metrics) -> String {
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
    say(number("time/left").map(|v| format!("{} left", parts::duration(v))));
    words.join("  ")
}

fn model(config: &SftConfig, phase: &str, context: &ParallelContext) -> Result<LocalModel, Error> {
    Ok(match config.model.start() {
        Start::Existing(source) => start::load_on_ranks(&source, context)?,
        Start::Random { shape, device, dtype, .. } => {
            let tokenizer = start::tokenizer_of(&config.model, &config.data)?;
            start::random(phase, &shape, tokenizer, config.seed, (device, dtype))?
        }
    })
}

fn open(config: &SftConfig, model: &LocalModel, leads: bool, reporter: &dyn Reporter) -> Result<Corpus, Error> {
    let mut progress = reporter.task("tokenize");
    let mut show = |words: &str, done, total| {
        if leads {
            progress.at(done, total, words);
        }
    };
    let corpus = corpus::open(&config.data, &model.tokenizer, &config.cache(), config.seed, &mut show)?;
    if leads {
        warn(&corpus.report, reporter);
        if let Some(words) = config.train.batch_size.explanation(corpus.train.len()) {
            reporter.info(&format!("train.batch_size is {words}"));
        }
    }
    Ok(corpus)
}

/// Always reports truncated and skipped rows as warnings.
fn warn(report: &CorpusReport, reporter: &dyn Reporter) {
    for (name, set) in report.sets.iter().chain(&report.validation) {
        if set.truncated > 0 || set.skipped.total() > 0 {
            reporter.warn(&format!(
                "{name}: of {} rows, {} were truncated to data.max_length and {} skipped (see xplore sft --preview 0)",
                set.rows,
                set.truncated,
                set.skipped.total()
            ));
        }
    }
}
