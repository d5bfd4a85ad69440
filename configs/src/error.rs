//! What can be wrong with a configuration, said so that it can be mended without reading code.

use std::fmt;
use std::path::PathBuf;

/// Where a key got its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A config file.
    File {
        /// The file, as it was named.
        path: PathBuf,
        /// The line of the key, from 1; `None` if the file does not mention the key.
        line: Option<usize>,
    },
    /// An override on the command line, `a.b.c=value`.
    Override(String),
    /// A value built in code rather than loaded.
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

/// Why a configuration cannot be used. Every variant is the user's to mend (exit code 2 of the program).
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the config {}{}: {source}; name a text file that you can read", path.display(), named_by(origin))]
    Read {
        /// The file.
        path: PathBuf,
        /// Where an `extends` names it; `None` for the file the user named.
        origin: Option<Origin>,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{}:{line}:{column}: not valid TOML: {message}; mend that line", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What the parser said.
        message: String,
    },
    /// Files extend one another in a circle.
    #[error("{origin}: `extends` goes in a circle ({}); remove one of them", join(chain))]
    Cycle {
        /// The `extends` that closes the circle.
        origin: Origin,
        /// The files, each extending the next.
        chain: Vec<PathBuf>,
    },
    /// An override that cannot be applied.
    #[error("--set {text}: {problem}")]
    Override {
        /// The override as given.
        text: String,
        /// What is wrong, and what to write instead.
        problem: String,
    },
    /// A key that does not exist.
    #[error("{origin}: unknown key `{key}`; {}", suggest(nearest, known))]
    UnknownKey {
        /// Where it stands.
        origin: Origin,
        /// The key's full path.
        key: String,
        /// The key that was probably meant (full path).
        nearest: Option<String>,
        /// The keys that exist at that place.
        known: Vec<String>,
    },
    /// A key with a value that it cannot take: wrong type, or out of range.
    #[error("{origin}: `{key}` {problem}{}", example_text(example))]
    Value {
        /// Where it stands.
        origin: Origin,
        /// The key's full path.
        key: String,
        /// What was found and what was expected.
        problem: String,
        /// What would be right in its place: the default, where there is one.
        example: Option<String>,
    },
    /// A prompt set that is neither built in nor a folder of templates.
    #[error(
        "prompt set `{set}`: {problem}; the built-in sets are {}, or name a folder of <task>.j2 files",
        list(known)
    )]
    Prompts {
        /// The set as named.
        set: String,
        /// What is wrong with it.
        problem: String,
        /// The built-in sets.
        known: Vec<String>,
    },
    /// A value that TOML cannot hold (an integer above 2⁶³ − 1).
    #[error("this config cannot be written as TOML: {0}; use integers below 2^63")]
    Unwritable(#[from] toml::ser::Error),
}

fn named_by(origin: &Option<Origin>) -> String {
    origin.as_ref().map_or_else(String::new, |origin| format!(" that {origin} extends"))
}

fn join(chain: &[PathBuf]) -> String {
    chain.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" → ")
}

/// `a`, `b` and `c`, in backquotes.
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
        Some(key) => format!("did you mean `{key}`? Rename or remove it (known here: {known})"),
        None => format!("remove it or use one of {known}"),
    }
}

fn example_text(example: &Option<String>) -> String {
    example.as_ref().map_or_else(String::new, |example| format!("; write it like `{example}`"))
}
