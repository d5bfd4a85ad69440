//! The step `export`: the training sets as files to publish or to train on, with a dataset card.

use std::path::{Path, PathBuf};

use configs::synth::{PruneBy, SignalBy};
use configs::{JudgeConfig, SynthConfig, SynthStep};
use data_synth::any_row::{RowKind, kind_of};
use data_synth::export::{CARD, ExportJob, ExportReport, Provenance, Split, SplitSize, UsedModel, export};

use super::StepContext;
use super::stamps::{self, Stamp};
use crate::error::Error;
use crate::parts;

/// The steps before the export, whose stamps the card names.
const BEFORE: [SynthStep; 4] = [SynthStep::Import, SynthStep::Signal, SynthStep::Prune, SynthStep::Teach];

/// The files that an export may write. Which of them it writes depends on the configuration and on the rows.
const OUTPUTS: [&str; 9] = [
    "sft/train.jsonl",
    "sft/train.parquet",
    "sft/validation.jsonl",
    "sft/validation.parquet",
    "rl/train.jsonl",
    "rl/train.parquet",
    "rl/validation.jsonl",
    "rl/validation.parquet",
    "eval/users.jsonl",
];

/// Returns the files that the step reads: the given file, or the rows of the steps before and the stamps that the card names.
pub fn inputs(context: &StepContext<'_>) -> Vec<PathBuf> {
    if let Some(input) = context.input {
        return vec![input.to_owned()];
    }
    let stamps = BEFORE.map(|step| context.of(step).join(stamps::FILE));
    let rows = [
        context.of(SynthStep::Teach).join("sft.jsonl"),
        context.of(SynthStep::Teach).join("users.jsonl"),
        context.of(SynthStep::Prune).join("rl.jsonl"),
        context.of(SynthStep::Import).join("test.jsonl"),
    ];
    stamps.into_iter().chain(rows).collect()
}

/// Returns the files that the step has written, and the card.
pub fn outputs(context: &StepContext<'_>) -> Vec<PathBuf> {
    let folder = context.of(SynthStep::Export);
    let written = OUTPUTS.iter().map(|name| folder.join(name)).filter(|path| path.is_file());
    written.chain([folder.join(CARD)]).collect()
}

/// Writes the training sets of the finished steps, or of the given file of SFT or RL rows, the users to evaluate, and the card.
///
/// # Errors
/// Returns an error if there are no rows, the steps read different files, a row is malformed, the validation share holds out every
/// user, or a file cannot be written.
pub fn run(context: &StepContext<'_>) -> Result<String, Error> {
    let config = context.config;
    let (rows, finished) = match context.input {
        // Rows of another place were made by other steps.
        Some(input) => (Rows::given(input)?, Vec::new()),
        None => {
            let finished = finished(context)?;
            (Rows::of(context, &finished), finished)
        }
    };
    let provenance: Vec<Provenance> = finished.iter().map(provenance).collect();
    let report = export(&ExportJob {
        sft: rows.sft.as_deref(),
        taught: rows.taught.as_deref(),
        rl: rows.rl.as_deref(),
        test: rows.test.as_deref(),
        folder: &context.of(SynthStep::Export),
        config: &config.export,
        seed: config.seed,
        name: &config.name,
        provenance: &provenance,
        models: &models(&finished),
    })?;
    Ok(summary(&report))
}

/// A finished step before the export.
struct Finished {
    step: SynthStep,
    stamp: Stamp,
    /// The configuration that the step ran with.
    config: SynthConfig,
}

/// Returns the finished steps. They must be of one run: each has read what the step before it wrote. Otherwise users to evaluate
/// could be users to train on.
fn finished(context: &StepContext<'_>) -> Result<Vec<Finished>, Error> {
    let mut all: Vec<Finished> = Vec::new();
    for step in BEFORE {
        let folder = context.of(step);
        let Some(stamp) = Stamp::read(&folder)? else { continue };
        let (shown, name) = (folder.display(), step.name());
        let config = SynthConfig::of_step_text(&stamp.text).ok_or_else(|| {
            Error::data(format!("{shown}: made by another version of Xplore; run `xplore synth {name}` again"))
        })?;
        for made in BEFORE.into_iter().filter(|made| *made < step) {
            let (before, folder) = (all.iter().find(|before| before.step == made), format!("{}/", made.name()));
            for (file, hash) in stamp.inputs.iter().filter(|(file, _)| file.starts_with(&folder)) {
                let problem = match before.map(|before| before.stamp.outputs.get(file)) {
                    Some(Some(written)) if written != hash => {
                        format!("made from another {file}; run `xplore synth {name}` again")
                    }
                    Some(_) => continue,
                    None => {
                        let made = made.name();
                        format!(
                            "made from {file}, but the step {made} is not finished; run `xplore synth {made}` first"
                        )
                    }
                };
                return Err(Error::data(format!("{shown}: {problem}, or export a file of rows with --input")));
            }
        }
        all.push(Finished { step, stamp, config });
    }
    Ok(all)
}

/// The files to export.
#[derive(Default)]
struct Rows {
    sft: Option<PathBuf>,
    taught: Option<PathBuf>,
    rl: Option<PathBuf>,
    test: Option<PathBuf>,
}

impl Rows {
    /// Returns the files of the finished steps. Those of an unfinished step may belong to different runs.
    fn of(context: &StepContext<'_>, finished: &[Finished]) -> Self {
        let file = |step: SynthStep, name: &str| {
            let path = Some(context.of(step).join(name)).filter(|path| path.is_file())?;
            let (shown, step_name) = (path.display(), step.name());
            let unfinished = !finished.iter().any(|found| found.step == step);
            let reason = match (unfinished, path.metadata().is_ok_and(|found| found.len() == 0)) {
                (false, false) => return Some(path),
                // An import without test users leaves an empty file.
                (false, true) if step == SynthStep::Import => return None,
                (false, true) => format!("it has no rows; `xplore synth stats` shows what {step_name} left out"),
                (true, _) => format!("the step {step_name} is not finished; run `xplore synth {step_name}` first"),
            };
            context.reporter.warn(&format!("{shown}: not exported, because {reason}"));
            None
        };
        let sft = file(SynthStep::Teach, "sft.jsonl");
        let users = context.of(SynthStep::Teach).join("users.jsonl");
        let taught = sft.as_ref().and(Some(users)).filter(|path| path.is_file());
        Self { sft, taught, rl: file(SynthStep::Prune, "rl.jsonl"), test: file(SynthStep::Import, "test.jsonl") }
    }

    /// Returns a given file as the set that its first row belongs to.
    fn given(input: &Path) -> Result<Self, Error> {
        let path = parts::local(input)?;
        match kind_of(&path)? {
            Some(RowKind::Sft) => Ok(Self { sft: Some(path), ..Self::default() }),
            Some(RowKind::Rl) => Ok(Self { rl: Some(path), ..Self::default() }),
            found => {
                let found = found.map_or("no rows", RowKind::plural);
                let path = path.display();
                Err(Error::data(format!("{path}: has {found}; expected SFT rows or RL rows to export")))
            }
        }
    }
}

/// Returns what the card says about a step.
fn provenance(finished: &Finished) -> Provenance {
    let Finished { step, stamp, .. } = finished;
    let inputs = stamp.inputs.iter().map(|(name, hash)| (name.clone(), hash.clone())).collect();
    Provenance { step: step.name().into(), stamp: stamp.id(), text: stamp.text.clone(), inputs }
}

/// Returns the models that the finished steps used, each once.
fn models(finished: &[Finished]) -> Vec<UsedModel> {
    let mut models = Vec::new();
    for (role, name) in finished.iter().flat_map(|found| models_of(found.step, &found.config)) {
        let model = UsedModel { role: role.into(), name };
        if !models.contains(&model) {
            models.push(model);
        }
    }
    models
}

/// Returns the roles and names of the models that a step uses.
fn models_of(step: SynthStep, config: &SynthConfig) -> Vec<(&'static str, String)> {
    // The text of a stamp has the name of a model at an endpoint, but not the address.
    let name = |judge: &JudgeConfig| match judge.endpoint.model.is_empty() {
        true => judge.model.path.clone(),
        false => judge.endpoint.model.clone(),
    };
    let verifier = || ("verifier", name(&config.verifier));
    match step {
        SynthStep::Signal if config.signal.by == SignalBy::Judge => vec![verifier()],
        SynthStep::Signal => {
            let trained = Some(&config.scorer.trained).filter(|path| !path.is_empty());
            let start = || {
                config.scorer.model.path.as_ref().map_or("from random weights".into(), |path| format!("from {path}"))
            };
            vec![("scorer", trained.cloned().unwrap_or_else(start))]
        }
        SynthStep::Prune if config.prune.by == PruneBy::Policy => {
            vec![("policy", config.prune.policy.model.path.clone()), verifier()]
        }
        SynthStep::Teach if config.teacher.world => {
            vec![("teacher", "teacher of the built-in world".into()), verifier()]
        }
        SynthStep::Teach => vec![("teacher", name(&config.teacher.as_judge())), verifier()],
        SynthStep::Import | SynthStep::Prune | SynthStep::Export => Vec::new(),
    }
}

/// Returns the sizes in one line.
fn summary(report: &ExportReport) -> String {
    let mut parts = Vec::new();
    for (name, sizes) in [("SFT", &report.sft), ("RL", &report.rl)] {
        let of = |split: Split| sizes.get(&split).copied().unwrap_or_default();
        let (SplitSize { rows: train, .. }, SplitSize { rows: validation, .. }) =
            (of(Split::Train), of(Split::Validation));
        if train > 0 {
            parts.push(format!("{train} {name} rows for training and {validation} for validation"));
        }
    }
    if report.eval_users > 0 {
        parts.push(format!("{} users to evaluate", report.eval_users));
    }
    if report.eval_left_out > 0 {
        parts.push(format!("{} test users left out, without enough choices between two items", report.eval_left_out));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests;
