//! Configuration errors. Each says enough to fix the config without reading code.

use std::fmt;
use std::path::PathBuf;

/// The source of a key's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A config file.
    File {
        /// Path of the file, as the user gave it.
        path: PathBuf,
        /// Line of the key, from 1; `None` if the file does not contain the key.
        line: Option<usize>,
    },
    /// An override on the command line, `a.b.c=value`.
    Override(String),
    /// A value that was built in code and not loaded.
    Code,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Override(text) => write!(f, "--set {text}"),
            Self::Code => f.write_str("config"),
        }
    }
}

/// An error in a configuration. The user can fix every variant (exit code 2 of the program).
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read config {}{}: {source}; check path and permissions", path.display(), named_by(origin))]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// The `extends` that names the file; `None` if the user named it.
        origin: Option<Origin>,
        /// The underlying I/O error.
        source: std::io::Error,
    },
    /// The file is not valid TOML.
    #[error("{}:{line}:{column}: invalid TOML: {message}; fix this line", path.display())]
    Syntax {
        /// Path of the file.
        path: PathBuf,
        /// Line of the error, from 1.
        line: usize,
        /// Column of the error, from 1.
        column: usize,
        /// Message of the parser.
        message: String,
    },
    /// A cycle of files that extend one another.
    #[error("{origin}: `extends` forms a cycle ({}); remove one of these `extends` keys", join(chain))]
    Cycle {
        /// The `extends` that closes the cycle.
        origin: Origin,
        /// The files of the cycle, each extending the next.
        chain: Vec<PathBuf>,
    },
    /// An override that cannot be applied.
    #[error("--set {text}: {problem}")]
    Override {
        /// The override, as the user gave it.
        text: String,
        /// What is wrong, and what to write instead.
        problem: String,
    },
    /// A key that does not exist.
    #[error("{origin}: unknown key `{key}`; {}", suggest(nearest, known))]
    UnknownKey {
        /// Location of the key.
        origin: Origin,
        /// The full path of the key.
        key: String,
        /// The key that the user probably meant (full path).
        nearest: Option<String>,
        /// The keys that exist in that table.
        known: Vec<String>,
    },
    /// A key whose value is invalid: wrong type, or out of range.
    #[error("{origin}: `{key}` {problem}{}", example_text(example))]
    Value {
        /// Location of the key.
        origin: Origin,
        /// The full path of the key.
        key: String,
        /// The value found and the value expected.
        problem: String,
        /// A valid setting: the default, if the key has one.
        example: Option<String>,
    },
    /// A prompt set that is neither built in nor a folder of templates.
    #[error("prompt set `{set}`: {problem}; use a built-in set ({}) or a folder of <task>.j2 files", list(known))]
    Prompts {
        /// The set, as the user named it.
        set: String,
        /// What is wrong with the set.
        problem: String,
        /// Names of the built-in sets.
        known: Vec<String>,
    },
    /// A value that TOML cannot represent (an integer above 2⁶³ − 1).
    #[error("cannot write the config as TOML: {0}; use integers below 2^63")]
    Unwritable(#[from] toml::ser::Error),
}

fn named_by(origin: &Option<Origin>) -> String {
    origin.as_ref().map_or_else(String::new, |origin| format!(" (extended by {origin})"))
}

fn join(chain: &[PathBuf]) -> String {
    chain.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" → ")
}

/// Formats names as `a`, `b` and `c`, in backticks.
pub(crate) fn list(names: &[String]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.as_slice() {
        [] => "none".into(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

fn suggest(nearest: &Option<String>, known: &[String]) -> String {
    let known = list(known);
    match nearest {
        Some(key) => format!("did you mean `{key}`? Rename or remove the key (known keys: {known})"),
        None => format!("remove it or use one of {known}"),
    }
}

fn example_text(example: &Option<String>) -> String {
    example.as_ref().map_or_else(String::new, |example| format!("; write it like `{example}`"))
}
