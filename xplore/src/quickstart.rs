//! The full pipeline on the built-in world.

mod examples;
mod plan;
mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chat::tokenizer::Tokenizer;
use chat::{SftRow, jsonl};
use configs::{
    EvalConfig, EvalJudge, EvalModel, JudgeConfig, QuickstartConfig, RlConfig, RunConfig, SftConfig, TokenizerConfig,
};
use data_synth::reading::{ReadingAccuracy, reading_accuracy};
use evals::EvalUser;
use evals::evaluation::Evaluation;
use lm::LocalModel;
use rewards::Registry;
use sha2::{Digest, Sha256};
use trainer::{ParallelContext, Run, start, threads};

use crate::error::Error;
use crate::parts;
use crate::reporter::Reporter;
use crate::{eval, grpo, sft, wording};
use plan::{Phase, Plan};

/// Runs the pipeline in the run's folder: judges and synthesis beside the base model, SFT, GRPO, evaluation and report. Skips models that an
/// interrupted run trained with the same configuration, rows and weights.
///
/// # Errors
/// Returns an error if the configuration leaves no rows or users, or a file cannot be written.
pub fn run(config: &QuickstartConfig, reporter: &dyn Reporter) -> Result<Evaluation, Error> {
    let mut run = Run::create(&config.folder(), &config.resolved()?)?;
    let folder = config.folder();
    let at = |name: &str| folder.join(name);

    let mut plan = Plan::new(config, reporter);
    plan.begin(Phase::World);
    let data = world::make(config, &folder, reporter)?;
    let tokenizer = save_tokenizer(config, &data, &at("tokenizer"), reporter)?;
    plan.begin(Phase::Training);
    let mut reading = Reading::new(config, &data, reporter);
    let mut judges_run = run.try_clone()?;
    // The synthesis needs the judge alone, and so keeps the core of the judges busy until the base model is trained.
    let (synthesis, base) = threads::join(
        || {
            let judge = train_judge(config, "judge", &tokenizer, &mut judges_run, reporter)?;
            let second = train_judge(config, "second_judge", &tokenizer, &mut judges_run, reporter)?;
            let rl_rows = world::synthesize(config, &judge.model, &folder, reporter)?;
            Ok::<_, Error>((rl_rows, judge.reused || second.reused))
        },
        || {
            let base = config.base_training(&at("data/reading.jsonl"), &tokenizer);
            let base = SftConfig { name: "base".into(), ..base };
            let base = train_and_save(&base, "base", &mut run, &folder, reporter)?;
            reading.of("base", &base.model)?;
            Ok::<_, Error>(base.reused)
        },
    );
    let ((rl_rows, judges_reused), base_reused) = (synthesis?, base?);
    if judges_reused || base_reused {
        plan.skip();
    }
    plan.begin(Phase::Sft);
    let policy = config.policy_training(&at("data/sft.jsonl"), &at("models/base"));
    let policy = train_and_save(&policy, "sft", &mut run, &folder, reporter)?;
    if policy.reused {
        plan.skip();
    }
    reading.of("sft", &policy.model)?;

    plan.begin(Phase::Rl);
    let tuning = config.rl_training(&at("data/rl.jsonl"), &at("models/sft"), &at("models/judge"));
    save_config(&folder, "rl", &tuning)?;
    let (registry, context) = (Registry::default(), ParallelContext::single());
    let tuned = grpo::train(&tuning, &registry, context, &rl_rows, &mut run, None, None, reporter)?.into_model()?;
    lm::pretrained::save(&at("models/rl"), &tuned)?;
    reading.of("rl", &tuned)?;
    reading.write(&at("reading.json"))?;

    plan.begin(Phase::Eval);
    let evaluation = measure(config, &tuning, &data.users, &folder, reporter)?;
    let page = folder.join("report.html");
    report::write(std::slice::from_ref(&folder), &page)?;
    report::figure(&folder, &folder.join("figure.svg"))?;
    Ok(evaluation)
}

/// Returns the built-in configuration (configs/quickstart.toml, overridden by configs/quickstart-tiny.toml if `tiny`) with the
/// overrides `set`, for a run in the folder `out`.
///
/// ```
/// use xplore::quickstart;
///
/// let tiny = quickstart::configured(Some("runs/tiny".into()), true, Some(7), vec!["rl.train.steps=3".into()])?;
/// assert_eq!((tiny.seed, tiny.rl.train.steps), (7, 3));
/// # Ok::<(), xplore::Error>(())
/// ```
///
/// # Errors
/// Returns an error if an override has an unknown key or an invalid value, or if `out` does not name a folder.
pub fn configured(
    out: Option<PathBuf>,
    tiny: bool,
    seed: Option<u64>,
    mut set: Vec<String>,
) -> Result<QuickstartConfig, Error> {
    if let Some(seed) = seed {
        set.push(format!("seed={seed}"));
    }
    let (file, text) = match tiny {
        true => ("configs/quickstart-tiny.toml", configs::QUICKSTART_TINY),
        false => ("configs/quickstart.toml", configs::QUICKSTART),
    };
    let mut config: QuickstartConfig = configs::parse(Path::new(file), text, &set)?;
    if let Some(out) = out {
        let Some(name) = out.file_name() else {
            return Err(Error::usage(format!("--out {}: expected the path of a folder", out.display())));
        };
        config.name = name.to_string_lossy().into_owned();
        config.out = out.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    }
    Ok(config)
}

/// Trains one tokenizer for all models, on the texts that they read and write.
fn save_tokenizer(
    config: &QuickstartConfig,
    data: &world::Data,
    folder: &Path,
    reporter: &dyn Reporter,
) -> Result<PathBuf, Error> {
    let progress = reporter.task("tokenizer");
    let rows = data.judge.iter().take(8000).chain(data.reading.iter().rev().take(8000));
    let texts: Vec<&str> =
        rows.flat_map(|r| r.prompt.iter().chain(&r.completion)).map(|m| m.content.as_str()).collect();
    let trained: Tokenizer =
        start::tokenizer(&TokenizerConfig { path: None, ..config.tokenizer.clone() }, texts.into_iter())?;
    std::fs::create_dir_all(folder).map_err(|e| Error::data(format!("{}: {e}", folder.display())))?;
    trained.save(folder).map_err(lm::LmError::from)?;
    progress.done(&format!("{} tokens", trained.vocab_size()));
    Ok(folder.into())
}

fn train_judge(
    config: &QuickstartConfig,
    phase: &str,
    tokenizer: &Path,
    run: &mut Run,
    reporter: &dyn Reporter,
) -> Result<TrainedModels, Error> {
    let folder = config.folder();
    let recipe = if phase == "judge" { &config.judge } else { &config.second_judge };
    let training = config.judge_training(recipe, &folder.join(format!("data/{phase}.jsonl")), tokenizer);
    // The second judge shares nothing with the first judge: family, data sample and initial weights differ.
    let seed = if phase == "judge" { training.seed } else { training.seed ^ (1 << 32) };
    let training = SftConfig { name: phase.into(), seed, ..training };
    train_and_save(&training, phase, run, &folder, reporter)
}

struct TrainedModels {
    model: LocalModel,
    /// Whether an earlier run in the same folder trained the model.
    reused: bool,
}

fn train_and_save(
    config: &SftConfig,
    phase: &str,
    run: &mut Run,
    folder: &Path,
    reporter: &dyn Reporter,
) -> Result<TrainedModels, Error> {
    save_config(folder, phase, config)?;
    let (kept, stamp) = (folder.join("models").join(phase), folder.join("models").join(format!("{phase}.stamp")));
    let fingerprint = fingerprint(config)?;
    // An interrupted quickstart skips the models that it trained with the same configuration, rows and weights.
    if std::fs::read_to_string(&stamp).is_ok_and(|text| text == fingerprint) {
        run.keep(phase)?;
        reporter.task(phase).done("skipped, already trained");
        let model = start::load(&configs::ModelSource {
            path: kept.display().to_string(),
            dtype: config.model.dtype,
            device: config.model.device,
            ..Default::default()
        })?;
        return Ok(TrainedModels { model, reused: true });
    }
    let _ = std::fs::remove_file(&stamp);
    let model = sft::train(config, ParallelContext::single(), run, phase, None, None, reporter)?.into_model()?;
    lm::pretrained::save(&kept, &model)?;
    parts::write(&stamp, &fingerprint)?;
    Ok(TrainedModels { model, reused: false })
}

/// Returns the SHA-256 hash, in hexadecimal, of what a phase's model depends on: configuration, rows, and initial weights.
fn fingerprint(config: &SftConfig) -> Result<String, Error> {
    let mut hash = Sha256::new();
    let mut add = |path: &Path| {
        let bytes = std::fs::read(path).map_err(|e| Error::data(format!("{}: {e}", path.display())))?;
        hash.update(bytes);
        Ok::<(), Error>(())
    };
    add(&config.data.train)?;
    if let Some(start) = &config.model.path {
        add(&Path::new(start).join("model.safetensors"))?;
    }
    hash.update(config.resolved()?);
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes a phase's configuration, so that the phase can be rerun separately.
fn save_config(folder: &Path, phase: &str, config: &impl RunConfig) -> Result<(), Error> {
    parts::write(&folder.join("configs").join(format!("{phase}.toml")), &config.resolved()?)
}

/// The reading accuracy of each model.
struct Reading<'a> {
    rows: &'a [SftRow],
    max_new_tokens: usize,
    reporter: &'a dyn Reporter,
    found: BTreeMap<&'static str, ReadingAccuracy>,
}

impl<'a> Reading<'a> {
    fn new(config: &QuickstartConfig, data: &'a world::Data, reporter: &'a dyn Reporter) -> Self {
        let max_new_tokens = config.rl.rollout.max_new_tokens;
        Self { rows: &data.probe, max_new_tokens, reporter, found: BTreeMap::new() }
    }

    fn of(&mut self, name: &'static str, model: &LocalModel) -> Result<(), Error> {
        let progress = self.reporter.task(&format!("{name} reads"));
        let found = reading_accuracy(model, self.rows, self.max_new_tokens).map_err(|e| Error::data(e.to_string()))?;
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let (evidence, net) = (percent(found.evidence), percent(found.net));
        progress
            .done(&format!("exact evidence for {evidence}, exact counts for {net} of {} histories", self.rows.len()));
        self.found.insert(name, found);
        Ok(())
    }

    fn write(&self, file: &Path) -> Result<(), Error> {
        parts::write(file, &(serde_json::to_string_pretty(&self.found).expect("numbers are JSON") + "\n"))
    }
}

fn measure(
    config: &QuickstartConfig,
    tuning: &RlConfig,
    users: &[EvalUser],
    folder: &Path,
    reporter: &dyn Reporter,
) -> Result<Evaluation, Error> {
    let source = |name: &str| config.source(&folder.join("models").join(name));
    let judge = |name: &str, model: &str, ask: &JudgeConfig| EvalJudge {
        name: name.into(),
        judge: JudgeConfig { model: source(model), ..ask.clone() },
    };
    let plan = EvalConfig {
        name: config.name.clone(),
        out: config.out.clone(),
        seed: config.seed,
        threads: config.threads,
        prompts: config.prompts.clone(),
        users: folder.join("data/users.jsonl"),
        settings: config.eval.settings.clone(),
        sampling: config.eval.sampling.clone(),
        models: ["sft", "rl"].map(|name| EvalModel { name: name.into(), model: source(name) }).into(),
        judges: vec![
            judge("training", "judge", &tuning.judge),
            judge("second", "second_judge", &config.second_judge.ask),
        ],
        ..EvalConfig::default()
    };
    save_config(folder, "eval", &plan)?;
    wording::write(folder, &[wording::of_rl(tuning, None)?, wording::of_eval(&plan)?].concat())?;
    let evaluation = eval::measure(&plan, users, reporter)?;
    eval::write(folder, &evaluation)?;
    jsonl::write(&folder.join("eval-users.jsonl"), &evaluation.scores)?;
    examples::write(folder, users, &evaluation)?;
    Ok(evaluation)
}
