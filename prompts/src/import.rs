//! Template sets from a clone of the repository that released the method.
//!
//! [`from_release`] finds the prompts in the Python files by the names of functions and variables, evaluates the string
//! expressions that make them, and turns what varies into the fields of [`chat::PromptSet`]. It runs nothing. The wording is
//! kept as it is, with its differences between the stages:
//!
//! | set | what it prompts as | tasks |
//! |---|---|---|
//! | `sft` | the SFT rows and their synthesis | `summarize`, `teach`, `merge`, `judge` |
//! | `rl` | reinforcement learning and its reward | `summarize`, `judge` |
//! | `judge` | the reward | `judge` |
//! | `eval` | the evaluation with full histories, response selection | `summarize`, `judge`, `history` |
//! | `eval-streaming` | the streaming evaluation | `summarize`, `judge`, `history` |
//! | `eval-rec` | the evaluation with full histories, recommendation | `summarize`, `judge`, `history` |
//!
//! A query or item that is null reads `None`, as in Python.

mod calls;
mod evaluate;
mod literal;
mod names;
mod python;
mod release;
mod template;
mod text;
mod value;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use chat::PromptSet;
use chat::prompts::PromptError;

pub use python::ImportProblem;
use release::{FILES, Release, ReleasedPrompt};

/// A template set of the release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedSet {
    /// Name of the set and of its folder.
    pub name: &'static str,
    /// Text of each template by file name.
    pub templates: BTreeMap<String, String>,
    /// Where the release makes the prompt of each task: `file:line function`.
    pub origins: BTreeMap<&'static str, String>,
}

/// An error of importing the prompts of a release.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The folder has none of the files.
    #[error(
        "{}: not a clone of the release ({expected} is missing); give the root of a clone with its files checked out",
        clone.display()
    )]
    NotARelease {
        /// The folder.
        clone: PathBuf,
        /// The first missing file.
        expected: &'static str,
    },
    /// Prompts that the importer cannot map to templates.
    #[error("{}: cannot import these prompts, so nothing was written:{}", clone.display(), listed(problems))]
    Unmapped {
        /// The root of the clone.
        clone: PathBuf,
        /// The places, in the order of the sets.
        problems: Vec<ImportProblem>,
    },
    /// A template that does not compile.
    #[error(transparent)]
    Template(#[from] PromptError),
    /// A folder with a template that the set does not have.
    #[error(
        "{}: a template that the release does not have, so nothing was written; remove it or choose another folder",
        path.display()
    )]
    Foreign {
        /// The template.
        path: PathBuf,
    },
    /// A template that cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

fn listed(problems: &[ImportProblem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

/// Returns the template sets of a release, whose repository is checked out at `clone`.
///
/// # Errors
/// [`ImportError::NotARelease`] for another folder, [`ImportError::Unmapped`] with every place that has no equivalent in a
/// template, and [`ImportError::Template`] for a template that does not compile.
pub fn from_release(clone: &Path) -> Result<Vec<ImportedSet>, ImportError> {
    if FILES.iter().all(|file| !clone.join(file).is_file()) {
        return Err(ImportError::NotARelease { clone: clone.into(), expected: FILES[0] });
    }
    let unmapped = |problems| ImportError::Unmapped { clone: clone.into(), problems };
    let release = Release::read(clone).map_err(unmapped)?;
    let mut import = Import::default();
    let (reward, select, pair) = (release.reward_judge(), release.select_judge(), release.pair_judge());
    import.set(
        "sft",
        [
            ("summarize", release.sft_summary()),
            ("teach", release.teach()),
            ("merge", release.merge()),
            ("judge", release.synthesis_judge()),
        ],
    );
    import.set("rl", [("summarize", release.rl_summary()), ("judge", reward.clone())]);
    import.set("judge", [("judge", reward)]);
    let (full, streaming) = (release.full_summary(), release.streaming_summary());
    let history = release.select_history();
    import.set("eval", [("summarize", full.clone()), ("judge", select.clone()), ("history", history.clone())]);
    import.set("eval-streaming", [("summarize", streaming), ("judge", select), ("history", history)]);
    import.set("eval-rec", [("summarize", full), ("judge", pair), ("history", release.pair_history())]);
    if !import.problems.is_empty() {
        return Err(unmapped(import.problems));
    }
    for set in &import.sets {
        PromptSet::new(set.name, &set.templates)?;
    }
    Ok(import.sets)
}

/// Writes each set to a folder of its name in `out`. Returns the folders.
///
/// # Errors
/// [`ImportError::Foreign`], before anything is written, if such a folder has a template that the set does not have and that
/// would become part of it. [`ImportError::Write`] if the file system fails.
pub fn write(sets: &[ImportedSet], out: &Path) -> Result<Vec<PathBuf>, ImportError> {
    for set in sets {
        check_folder(&out.join(set.name), set)?;
    }
    let mut folders = Vec::new();
    for set in sets {
        let folder = out.join(set.name);
        for (file, text) in &set.templates {
            let path = folder.join(file);
            files::replace(&path, |out| out.write_all(text.as_bytes()))
                .map_err(|source| ImportError::Write { path: path.clone(), source })?;
        }
        folders.push(folder);
    }
    Ok(folders)
}

fn check_folder(folder: &Path, set: &ImportedSet) -> Result<(), ImportError> {
    let unreadable = |source| ImportError::Write { path: folder.into(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(unreadable(e)),
    };
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.ends_with(".j2") && !set.templates.contains_key(name) {
            return Err(ImportError::Foreign { path });
        }
    }
    Ok(())
}

/// The sets so far, and what prevents others.
#[derive(Default)]
struct Import {
    sets: Vec<ImportedSet>,
    problems: Vec<ImportProblem>,
}

impl Import {
    fn set<const N: usize>(
        &mut self,
        name: &'static str,
        tasks: [(&'static str, Result<ReleasedPrompt, ImportProblem>); N],
    ) {
        let mut set = ImportedSet { name, templates: BTreeMap::new(), origins: BTreeMap::new() };
        for (task, prompt) in tasks {
            match prompt.and_then(|prompt| complete(task, prompt)) {
                Ok(prompt) => add(&mut set, task, &prompt),
                // Sets share prompts.
                Err(problem) if self.problems.contains(&problem) => {}
                Err(problem) => self.problems.push(problem),
            }
        }
        self.sets.push(set);
    }
}

fn add(set: &mut ImportedSet, task: &'static str, prompt: &ReleasedPrompt) {
    let origin = &prompt.origin;
    set.origins.insert(task, format!("{}:{} {}", origin.file, origin.line, origin.function));
    set.templates.insert(format!("{task}.j2"), template::source(&prompt.user));
    if let Some(system) = &prompt.system {
        set.templates.insert(format!("{task}.system.j2"), template::source(system));
    }
}

/// Returns the prompt if it has the fields that a task cannot do without.
fn complete(task: &str, prompt: ReleasedPrompt) -> Result<ReleasedPrompt, ImportProblem> {
    let needed: &[&str] = match task {
        "teach" => &["interactions", "query", "item_a", "item_b"],
        "merge" => &["candidates"],
        "judge" => &["query", "preference", "item_a", "item_b"],
        _ => &["interactions"],
    };
    match needed.iter().find(|field| !prompt.user.uses(field)) {
        None => Ok(prompt),
        Some(field) => {
            let origin = &prompt.origin;
            let message = format!("`{}` makes a prompt without the field `{field}`; expected it", origin.function);
            Err(ImportProblem { file: origin.file.into(), line: Some(origin.line), message })
        }
    }
}
