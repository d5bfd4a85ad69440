//! Models named by the run that trained them: `runs/sft`, `runs/sft@latest`, `runs/sft@best`, `runs/sft@2116`.
//!
//! A run folder holds `config.toml` and `checkpoints/step-N`. Each checkpoint is a model folder, or an adapter folder in PEFT
//! format. `checkpoints/best` links to the best one. A program may also write the final model to the folder `model` of the run.

use std::fs;
use std::path::{Path, PathBuf};

use crate::HubError;

const CHECKPOINTS: &str = "checkpoints";
const BEST: &str = "best";
const FINAL_MODEL: &str = "model";

/// Folder that contains the runs by default. A path directly inside it is never a hub id.
const RUNS: &str = "runs";

/// The maximum number of names in an error message.
const SHOWN: usize = 12;

/// The checkpoint of a run that a path selects.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Selection {
    /// The final model, or the newest checkpoint if there is none.
    Final,
    /// The newest checkpoint.
    Latest,
    /// The best checkpoint.
    Best,
    /// The checkpoint of a step.
    Step(u64),
}

/// Returns the model folder that `given` selects if it names a run, and `None` if it is another path or a hub id.
///
/// `RUN` selects the final weights: the folder `model` of the run if it exists, otherwise the newest complete checkpoint.
/// `RUN@latest` selects the newest complete checkpoint, `RUN@best` the one that `checkpoints/best` links to, and `RUN@2116` that of
/// step 2116. The result is the folder of a step, not the link, so it does not change when the run continues. A path that exists as
/// a whole, or whose part before the last `@` is not a run folder, is not resolved here.
///
/// # Errors
/// [`HubError::NoCheckpoint`] if the run does not exist or does not have that checkpoint.
pub fn resolve(given: &str) -> Result<Option<PathBuf>, HubError> {
    let whole = Path::new(given);
    if whole.exists() {
        return if is_run(whole) { select(given, whole, Selection::Final).map(Some) } else { Ok(None) };
    }
    let (run, suffix) = given.rsplit_once('@').map_or((given, None), |(run, suffix)| (run, Some(suffix)));
    let run = Path::new(run);
    let missing = |problem: String| HubError::NoCheckpoint { given: given.into(), problem };
    match suffix {
        Some(suffix) if is_run(run) => {
            let expected = "expected @latest, @best or a step such as @2116";
            let selection =
                parse(suffix).ok_or_else(|| missing(format!("`@{suffix}` selects no checkpoint; {expected}")))?;
            select(given, run, selection).map(Some)
        }
        _ if is_among_runs(run) => Err(missing(no_such_run(run))),
        _ => Ok(None),
    }
}

/// Parses what follows the `@`.
fn parse(suffix: &str) -> Option<Selection> {
    match suffix {
        "latest" => Some(Selection::Latest),
        "best" => Some(Selection::Best),
        step => step.strip_prefix("step-").unwrap_or(step).parse().ok().map(Selection::Step),
    }
}

/// Returns whether a folder is that of a run, and not a model folder.
fn is_run(folder: &Path) -> bool {
    let model = folder.join("config.json").is_file() || folder.join("adapter_config.json").is_file();
    !model && (folder.join(CHECKPOINTS).is_dir() || folder.join("config.toml").is_file())
}

/// Returns whether a path that does not exist can only name a run, because it is beside runs.
fn is_among_runs(path: &Path) -> bool {
    path.parent().is_some_and(|parent| parent == Path::new(RUNS) || !runs_in(parent).is_empty())
}

/// Returns the names of the runs in a folder, sorted.
fn runs_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let runs = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_run(path));
    let mut names: Vec<String> = runs.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
    names.sort_unstable();
    names
}

/// Returns whether a folder holds a whole model or adapter. Runs rename checkpoints into place, but a copy may be interrupted.
fn is_complete(folder: &Path) -> bool {
    let has = |file: &str| folder.join(file).is_file();
    let model = has("config.json") && (has("model.safetensors") || has("model.safetensors.index.json"));
    model || has("adapter_config.json") && has("adapter_model.safetensors")
}

/// Returns the complete checkpoints of a run with their steps, oldest first.
fn complete_checkpoints(run: &Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = fs::read_dir(run.join(CHECKPOINTS)) else { return Vec::new() };
    let step_of = |path: &Path| path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_complete(path));
    let mut found: Vec<(u64, PathBuf)> = paths.filter_map(|path| Some((step_of(&path)?, path))).collect();
    found.sort();
    found
}

/// Returns the folder that `checkpoints/best` refers to, which stays the same when the link moves on.
fn best(run: &Path) -> Option<PathBuf> {
    let folder = run.join(CHECKPOINTS);
    let link = folder.join(BEST);
    let target = fs::read_link(&link).map_or(link, |target| folder.join(target));
    is_complete(&target).then_some(target)
}

fn select(given: &str, run: &Path, selection: Selection) -> Result<PathBuf, HubError> {
    let checkpoints = complete_checkpoints(run);
    let newest = || checkpoints.last().map(|(_, path)| path.clone());
    let found = match selection {
        Selection::Final => Some(run.join(FINAL_MODEL)).filter(|folder| is_complete(folder)).or_else(newest),
        Selection::Latest => newest(),
        Selection::Best => best(run),
        Selection::Step(wanted) => checkpoints.iter().find(|(step, _)| *step == wanted).map(|(_, path)| path.clone()),
    };
    found.ok_or_else(|| {
        let steps: Vec<String> = checkpoints.iter().map(|(step, _)| step.to_string()).collect();
        HubError::NoCheckpoint { given: given.into(), problem: no_checkpoint(run, selection, &steps) }
    })
}

/// Describes why a run has no checkpoint for `selection`.
fn no_checkpoint(run: &Path, selection: Selection, steps: &[String]) -> String {
    if steps.is_empty() {
        let models = models_in(run);
        let instead = match models.is_empty() {
            true => "wait for its first one (checkpoint.every), or resume the run".into(),
            false => format!("its models are {}; use one of them", models.join(", ")),
        };
        return format!("the run has no complete checkpoint in {}; {instead}", run.join(CHECKPOINTS).display());
    }
    let there = format!("the steps of its checkpoints are {}", some_of(steps));
    match selection {
        Selection::Best => format!(
            "the run has no best checkpoint ({} is missing or incomplete, which checkpoint.best writes); {there}",
            run.join(CHECKPOINTS).join(BEST).display()
        ),
        Selection::Step(step) => format!("the run has no checkpoint of step {step}; {there}"),
        // A run with steps has a newest one.
        Selection::Final | Selection::Latest => there,
    }
}

/// Returns the paths of the models that a run of several phases keeps in its folder `models`.
fn models_in(run: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(run.join("models")) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_complete(path));
    let mut names: Vec<String> = paths.map(|path| path.display().to_string()).collect();
    names.sort_unstable();
    names
}

fn no_such_run(run: &Path) -> String {
    // The caller found a parent.
    let parent = run.parent().unwrap_or(Path::new(RUNS));
    let runs = runs_in(parent);
    let there = match runs.is_empty() {
        true => format!("`{}` has no runs; paths are relative to the current folder", parent.display()),
        false => format!("the runs in `{}` are {}", parent.display(), some_of(&runs)),
    };
    format!("`{}` is neither a run folder nor a model folder; {there}", run.display())
}

/// Lists the last names, which are those of the newest checkpoints.
fn some_of(names: &[String]) -> String {
    let from = names.len().saturating_sub(SHOWN);
    let more = if from > 0 { "…, " } else { "" };
    format!("{more}{}", names[from..].join(", "))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Writes the files of a model into a folder.
    fn model(folder: &Path) {
        write(folder, &["config.json", "model.safetensors"]);
    }

    fn write(folder: &Path, files: &[&str]) {
        fs::create_dir_all(folder).unwrap();
        for file in files {
            fs::write(folder.join(file), "").unwrap();
        }
    }

    /// A folder `runs` with the run `sft`: complete checkpoints of steps 529, 1058 and 2116, of which 1058 is the best, and an
    /// interrupted copy of step 3000.
    fn runs() -> (tempfile::TempDir, PathBuf) {
        let place = tempfile::tempdir().unwrap();
        let run = place.path().join("runs/sft");
        write(&run, &["config.toml"]);
        for step in ["000529", "001058", "002116"] {
            model(&run.join(format!("checkpoints/step-{step}")));
        }
        write(&run.join("checkpoints/step-003000"), &["config.json"]);
        symlink("step-001058", run.join("checkpoints/best")).unwrap();
        (place, run)
    }

    fn resolved(run: &Path, suffix: &str) -> Option<PathBuf> {
        resolve(&format!("{}{suffix}", run.display())).unwrap()
    }

    fn error(given: &str) -> String {
        let error = resolve(given).unwrap_err();
        assert!(matches!(error, HubError::NoCheckpoint { .. }), "{error}");
        error.to_string()
    }

    #[test]
    fn a_run_stands_for_its_newest_complete_checkpoint() {
        let (_place, run) = runs();
        let step = |step: &str| Some(run.join(format!("checkpoints/step-{step}")));
        for (suffix, expected) in [
            ("", "002116"),
            ("/", "002116"),
            ("@latest", "002116"),
            ("@best", "001058"),
            ("@529", "000529"),
            ("@000529", "000529"),
            ("@step-000529", "000529"),
            ("/@529", "000529"),
        ] {
            assert_eq!(resolved(&run, suffix), step(expected), "{suffix}");
        }
    }

    #[test]
    fn the_final_model_comes_before_the_newest_checkpoint() {
        let (_place, run) = runs();
        write(&run.join("model"), &["config.json"]);
        assert_eq!(resolved(&run, ""), Some(run.join("checkpoints/step-002116")), "the final model is incomplete");
        model(&run.join("model"));
        assert_eq!(resolved(&run, ""), Some(run.join("model")));
        assert_eq!(resolved(&run, "@latest"), Some(run.join("checkpoints/step-002116")));
    }

    #[test]
    fn checkpoints_may_be_adapters_and_best_a_folder() {
        let place = tempfile::tempdir().unwrap();
        let run = place.path().join("lora");
        let adapter = ["adapter_config.json", "adapter_model.safetensors"];
        write(&run.join("checkpoints/step-000010"), &adapter);
        assert_eq!(resolved(&run, ""), Some(run.join("checkpoints/step-000010")));
        write(&run.join("checkpoints/best"), &adapter);
        assert_eq!(resolved(&run, "@best"), Some(run.join("checkpoints/best")), "a copy without links");
    }

    #[test]
    fn what_a_run_does_not_have_is_said() {
        let (_place, run) = runs();
        let shown = run.display();
        let said = error(&format!("{shown}@2117"));
        assert!(said.contains("no checkpoint of step 2117") && said.contains("529, 1058, 2116"), "{said}");
        assert!(error(&format!("{shown}@3000")).contains("no checkpoint of step 3000"), "it is incomplete");
        let said = error(&format!("{shown}@newest"));
        assert!(said.contains("`@newest` selects no checkpoint; expected @latest, @best or a step"), "{said}");
        fs::remove_file(run.join("checkpoints/best")).unwrap();
        let said = error(&format!("{shown}@best"));
        assert!(said.contains("no best checkpoint") && said.contains("checkpoint.best"), "{said}");
        symlink("step-000001", run.join("checkpoints/best")).unwrap();
        assert!(error(&format!("{shown}@best")).contains("no best checkpoint"), "the link leads nowhere");
        for step in ["000529", "001058", "002116"] {
            fs::remove_dir_all(run.join(format!("checkpoints/step-{step}"))).unwrap();
        }
        for suffix in ["", "@latest", "@529"] {
            assert!(error(&format!("{shown}{suffix}")).contains("no complete checkpoint"), "{suffix}");
        }
        model(&run.join("models/rl"));
        assert!(error(&shown.to_string()).contains("models/rl; use one of them"));
    }

    #[test]
    fn a_run_that_is_not_there_is_no_hub_id() {
        let (place, run) = runs();
        let other = place.path().join("runs/stf");
        let said = error(&other.display().to_string());
        assert!(said.contains("runs/stf` is neither a run folder nor a model folder"), "{said}");
        assert!(said.contains("are sft"), "{said}");
        assert!(error(&format!("{}@best", other.display())).contains("are sft"));
        // The folder `runs` of this crate does not exist; its name alone decides.
        assert!(error("runs/nothing-of-this-name").contains("`runs` has no runs"));
        assert!(error("runs/nothing-of-this-name@2116").contains("`runs` has no runs"));
        assert_eq!(resolve(&run.join("checkpoints/step-000529").display().to_string()).unwrap(), None);
    }

    #[test]
    fn models_and_hub_ids_are_left_alone() {
        for id in ["Qwen/Qwen3-8B", "Qwen/Qwen3-8B@main", "a/b@refs/pr/3", "a/b@best", "no/such/folder", "model", ""] {
            assert_eq!(resolve(id).unwrap(), None, "{id}");
        }
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        model(&at("Qwen/Qwen3-8B"));
        assert_eq!(resolved(&at("Qwen/Qwen3-8B"), ""), None);
        assert_eq!(resolved(&at("Qwen/Qwen3-8B"), "@main"), None, "a copy of the model beside its id is not a run");
        // A model folder that also has the files of a run is a model.
        write(&at("Qwen/Qwen3-8B"), &["config.toml"]);
        assert_eq!(resolved(&at("Qwen/Qwen3-8B"), ""), None);
        model(&at("a@b"));
        assert_eq!(resolved(&at("a@b"), ""), None, "a folder may have an @ in its name");
        write(&at("empty"), &[]);
        assert_eq!(resolved(&at("empty"), ""), None);
    }
}
