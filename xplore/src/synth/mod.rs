//! Data synthesis: the steps from raw interaction logs to the rows of SFT and RL, as one resumable pipeline.
//!
//! A pipeline has a folder, with one folder per step. A finished step leaves a [`stamps::Stamp`]: hashes of its part of the
//! configuration, of its inputs and of its outputs. A step whose stamp still holds is skipped, so that the same command resumes an
//! interrupted pipeline, and a finished pipeline asks no model anything.

pub mod export;
pub mod import;
mod lock;
pub mod models;
pub mod prune;
pub mod signal;
pub mod stamps;
pub mod teach;
mod verifier;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use configs::{RunConfig, SynthConfig, SynthStep};

use crate::error::{Error, ErrorKind};
use crate::reporter::Reporter;
use crate::{parts, runtime};
use stamps::{Hashes, Stamp};

/// What a step works on.
#[derive(Clone, Copy)]
pub struct StepContext<'a> {
    /// The configuration of the pipeline.
    pub config: &'a SynthConfig,
    /// The folder of the pipeline.
    pub folder: &'a Path,
    /// A file that is read in place of the output of the step before.
    pub input: Option<&'a Path>,
    /// The receiver of progress and warnings.
    pub reporter: &'a dyn Reporter,
}

impl StepContext<'_> {
    /// Returns the folder of a step.
    pub fn of(&self, step: SynthStep) -> PathBuf {
        self.folder.join(step.name())
    }

    /// Returns the file that the caller gave in place of the output of the step before, or else `file` in the folder of `step`.
    pub fn input_or(&self, step: SynthStep, file: &str) -> PathBuf {
        self.input.map_or_else(|| self.of(step).join(file), Path::to_path_buf)
    }
}

/// How a pipeline is run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Whether steps that are finished run again.
    pub force: bool,
    /// A file that the step reads in place of the output of the step before; only for a single step.
    pub input: Option<PathBuf>,
}

/// Runs `steps` of the pipeline in the order of [`SynthStep::ALL`], except those that are finished.
///
/// ```
/// use std::path::Path;
///
/// use xplore::configs::{self, SynthConfig, SynthStep};
/// use xplore::synth::{self, RunOptions};
/// use xplore::{Silent, runtime};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path().display();
/// let text = format!("out = '{folder}'\nsteps = ['import']\nimport = {{ format = 'world', world.users = 5 }}");
/// let config: SynthConfig = configs::parse(Path::new("synth.toml"), &text, &[])?;
/// runtime::init(config.threads)?;
/// synth::run(&config, &[SynthStep::Import], &RunOptions::default(), &Silent)?;
/// assert!(config.folder().join("import/train.jsonl").exists());
/// # Ok::<(), xplore::Error>(())
/// ```
///
/// # Errors
/// Returns an error if a key that a step requires is not set, another process runs a step in the same folder, an input is missing or
/// malformed, a model cannot be loaded or fails, a file cannot be written, or a stop was requested.
pub fn run(
    config: &SynthConfig,
    steps: &[SynthStep],
    options: &RunOptions,
    reporter: &dyn Reporter,
) -> Result<(), Error> {
    steps.iter().try_for_each(|&step| config.check_step(step))?;
    if options.input.is_some() && steps.len() != 1 {
        return Err(Error::usage("an input file is given for several steps; run the step that reads it separately"));
    }
    if options.input.is_some() && steps.contains(&SynthStep::Import) {
        return Err(Error::usage(
            "an input file is given for import, which no step precedes; set import.input instead",
        ));
    }
    // Each step reads what those before it wrote.
    let mut steps = steps.to_vec();
    steps.sort_unstable();
    let folder = config.folder();
    let _lock = lock::acquire(&folder)?;
    parts::write(&folder.join("config.toml"), &config.resolved()?)?;
    let context = StepContext { config, folder: &folder, input: options.input.as_deref(), reporter };
    let mut hashes = Hashes::new(&folder);
    for (index, &step) in steps.iter().enumerate() {
        if runtime::stop_requested() {
            return Err(stopped(&context, step));
        }
        if steps.len() > 1 {
            reporter.heading(&format!("{} ({} of {})", step.name(), index + 1, steps.len()));
        }
        run_step(&context, step, options.force, &mut hashes)?;
    }
    Ok(())
}

/// Runs one step, unless it is finished.
fn run_step(context: &StepContext<'_>, step: SynthStep, force: bool, hashes: &mut Hashes) -> Result<(), Error> {
    let name = step.name();
    check_input(context, step)?;
    let folder = context.of(step);
    let begun = Stamp::begin(context, step, hashes)?;
    if !force && Stamp::read(&folder)?.is_some_and(|stamp| stamp.holds(&begun, context, step, hashes)) {
        context.reporter.info(&format!("{name}: skipped, already finished"));
        return Ok(());
    }
    // An interrupted step has no stamp.
    Stamp::remove(&folder)?;
    let begin = Instant::now();
    let result = dispatch(context, step);
    // A stopped model fails, which `teach` may count as failures of users, so its result may not be complete.
    if runtime::stop_requested() && result.as_ref().map_or_else(was_interrupted, |_| step == SynthStep::Teach) {
        return Err(stopped(context, step));
    }
    let summary = result?;
    begun.finish(context, step, hashes)?.write(&folder)?;
    context.reporter.info(&format!("{name}: {summary} ({})", parts::duration(begin.elapsed().as_secs_f64())));
    Ok(())
}

/// Returns whether a stop ended a step, and not an error that the same command would meet again. The error of a model that was
/// stopped is part of those of its callers.
fn was_interrupted(error: &Error) -> bool {
    error.kind == ErrorKind::Interrupted || error.to_string().contains(models::INTERRUPTED)
}

fn dispatch(context: &StepContext<'_>, step: SynthStep) -> Result<String, Error> {
    match step {
        SynthStep::Import => import::run(context),
        SynthStep::Signal => signal::run(context),
        SynthStep::Prune => prune::run(context),
        SynthStep::Teach => teach::run(context),
        SynthStep::Export => export::run(context),
    }
}

/// Returns the files that a step reads.
fn inputs(context: &StepContext<'_>, step: SynthStep) -> Vec<PathBuf> {
    match step {
        SynthStep::Import => import::inputs(context),
        SynthStep::Signal => signal::inputs(context),
        SynthStep::Prune => prune::inputs(context),
        SynthStep::Teach => teach::inputs(context),
        SynthStep::Export => export::inputs(context),
    }
}

/// Returns the files that a step writes.
fn outputs(context: &StepContext<'_>, step: SynthStep) -> Vec<PathBuf> {
    match step {
        SynthStep::Import => import::outputs(context),
        SynthStep::Signal => signal::outputs(context),
        SynthStep::Prune => prune::outputs(context),
        SynthStep::Teach => teach::outputs(context),
        SynthStep::Export => export::outputs(context),
    }
}

/// Checks that the rows that a step reads exist.
fn check_input(context: &StepContext<'_>, step: SynthStep) -> Result<(), Error> {
    let (before, file) = match step {
        SynthStep::Import | SynthStep::Export => return Ok(()),
        SynthStep::Signal => (SynthStep::Import, "train.jsonl"),
        SynthStep::Prune | SynthStep::Teach => (SynthStep::Signal, "scored.jsonl"),
    };
    let path = context.input_or(before, file);
    if path.is_dir() {
        return Err(Error::data(format!("{}: is a folder; give a file of JSON lines, such as {file}", path.display())));
    }
    if path.exists() || path.to_string_lossy().starts_with("hf://") {
        return Ok(());
    }
    let fix = match context.input {
        Some(_) => "correct --input".to_owned(),
        None => format!("run `xplore synth {}` first, or give a file with --input", before.name()),
    };
    Err(Error::data(format!("{}: does not exist; {fix}", path.display())))
}

/// Returns the time that a task, which has taken `elapsed` so far, will still take at the same speed, as words to append; empty if
/// it is not known.
pub(crate) fn time_left(elapsed: Duration, done: u64, total: u64) -> String {
    if done == 0 || done >= total {
        return String::new();
    }
    let seconds = elapsed.as_secs_f64() * (total - done) as f64 / done as f64;
    format!(", {} left", parts::duration(seconds))
}

fn stopped(context: &StepContext<'_>, step: SynthStep) -> Error {
    let (folder, name) = (context.folder.display(), step.name());
    Error::interrupted(format!("{folder}: stopped before the step {name} was finished; the same command continues"))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use configs::synth::SignalBy;

    use super::*;
    use crate::reporter::{Silent, Task};

    /// Records the facts that are reported.
    #[derive(Default)]
    struct Facts(Mutex<Vec<String>>);

    impl Reporter for Facts {
        fn task(&self, _: &str) -> Box<dyn Task> {
            Box::new(Silent)
        }

        fn heading(&self, _: &str) {}

        fn warn(&self, _: &str) {}

        fn info(&self, message: &str) {
            self.0.lock().unwrap().push(message.into());
        }
    }

    fn config(out: &Path, users: usize) -> SynthConfig {
        let text = format!(
            "out = '{}'\nsteps = ['import']\nimport = {{ format = 'world', world.users = {users} }}",
            out.display()
        );
        configs::parse("synth.toml", &text, &[]).unwrap()
    }

    #[test]
    fn a_finished_step_is_skipped_unless_it_is_forced_or_changed() {
        let place = tempfile::tempdir().unwrap();
        let skipped = |users: usize, force: bool| {
            let (facts, options) = (Facts::default(), RunOptions { force, input: None });
            run(&config(place.path(), users), &[SynthStep::Import], &options, &facts).unwrap();
            let facts = facts.0.into_inner().unwrap();
            assert_eq!(facts.len(), 1, "{facts:?}");
            facts[0] == "import: skipped, already finished"
        };
        let calls = [(5, false), (5, false), (5, true), (5, false), (6, false), (6, false)];
        assert_eq!(calls.map(|(users, force)| skipped(users, force)), [false, true, false, true, false, true]);
    }

    #[test]
    fn only_an_interrupt_promises_that_the_same_command_continues() {
        let model = chat::completer::CompleterError::Model(models::INTERRUPTED.into());
        assert!(was_interrupted(&Error::from(model)) && was_interrupted(&Error::interrupted("stopped")));
        assert!(was_interrupted(&data_synth::import::ImportError::Interrupted.into()));
        assert!(!was_interrupted(&Error::data("rows.jsonl:3: missing field `uid`")));
    }

    #[test]
    fn what_a_step_reads_must_be_there() {
        let place = tempfile::tempdir().unwrap();
        let mut config = config(place.path(), 5);
        config.signal.by = SignalBy::Judge;
        config.teacher.world = true;
        config.verifier.model.path = "not loaded".into();
        let error = |steps: &[SynthStep], input: Option<&str>| {
            let options = RunOptions { force: false, input: input.map(PathBuf::from) };
            run(&config, steps, &options, &Silent).unwrap_err()
        };
        let missing = error(&[SynthStep::Prune], None);
        assert_eq!(missing.kind, ErrorKind::Data);
        assert!(missing.to_string().contains("run `xplore synth signal` first"), "{missing}");
        assert!(error(&[SynthStep::Prune], Some("gone.jsonl")).to_string().contains("gone.jsonl: does not exist"));
        for step in [SynthStep::Signal, SynthStep::Prune, SynthStep::Teach] {
            let folder = error(&[step], place.path().to_str());
            assert_eq!(folder.kind, ErrorKind::Data);
            assert!(folder.to_string().contains("is a folder; give a file of JSON lines"), "{folder}");
        }
        let several = error(&[SynthStep::Prune, SynthStep::Export], Some("rows.jsonl"));
        assert_eq!(several.kind, ErrorKind::Config);
        let first = error(&[SynthStep::Import], Some("rows.jsonl"));
        assert!(first.kind == ErrorKind::Config && first.to_string().contains("import.input"), "{first}");
    }

    #[test]
    fn the_time_left_follows_from_the_speed() {
        let minute = Duration::from_secs(60);
        assert_eq!(time_left(minute, 100, 300), ", 2 min 00 s left");
        assert_eq!((time_left(minute, 0, 300), time_left(minute, 300, 300)), (String::new(), String::new()));
    }
}
