//! One user of a pipeline with all that was made of them, as text.

mod text;

use std::path::{Path, PathBuf};

use chat::jsonl::JsonlError;
use chat::records::Checked;
use chat::{History, RlRow};
use serde::de::DeserializeOwned;

use crate::signal::ScoredHistory;
use crate::teach::record::TaughtUser;

/// The files that number the users; the first one that exists counts.
const NUMBERED: [&str; 4] = ["import/train.jsonl", "signal/scored.jsonl", "prune/rl.jsonl", "teach/users.jsonl"];

/// The user to inspect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The number of the user, starting at 1, in the order of the imported training users.
    Index(usize),
    /// The id of the user.
    Uid(String),
}

impl Which {
    /// Parses an argument: a number is an index, `uid:17` the id 17, and anything else is an id.
    pub fn parse(text: &str) -> Self {
        match (text.strip_prefix("uid:"), text.parse()) {
            (Some(uid), _) => Self::Uid(uid.into()),
            (None, Ok(index)) => Self::Index(index),
            (None, Err(_)) => Self::Uid(text.into()),
        }
    }
}

/// The error of an inspection.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// A file of rows that cannot be read.
    #[error(transparent)]
    Rows(#[from] JsonlError),
    /// A folder without files of a pipeline.
    #[error("{}: no file of a pipeline; expected one of {}", folder.display(), NUMBERED.join(", "))]
    NoFiles {
        /// The folder.
        folder: PathBuf,
    },
    /// There is no user of this number.
    #[error("{}: has {users} users; expected a number from 1 to {users}, or uid:ID for an id that is a number", path.display())]
    Index {
        /// The file that numbers the users.
        path: PathBuf,
        /// The number of users.
        users: usize,
    },
    /// There is no user of this id.
    #[error("{}: no user has the id {uid}; a number N stands for the N-th user", folder.display())]
    Uid {
        /// The folder.
        folder: PathBuf,
        /// The id.
        uid: String,
    },
}

/// What the files hold about a user.
#[derive(Default)]
struct Found {
    /// The file of the import that has the user: that of training or of test users.
    history: Option<(&'static str, History)>,
    scored: Option<ScoredHistory>,
    rl: Vec<(usize, RlRow)>,
    /// The user with the number of SFT rows of the users before.
    taught: Option<(usize, TaughtUser)>,
}

/// Returns a user as text: the history with signals, the RL row with its targets, and what teacher and verifier answered.
///
/// # Errors
/// Returns [`InspectError`] if the folder has no files of a pipeline, no such user, or a file cannot be read.
pub fn inspect(folder: &Path, which: &Which) -> Result<String, InspectError> {
    let uid = match which {
        Which::Uid(uid) => uid.clone(),
        Which::Index(index) => uid_at(folder, *index)?,
    };
    let mut found = Found::default();
    for name in ["import/train.jsonl", "import/test.jsonl"] {
        if found.history.is_none() {
            found.history = rows_of::<History>(folder, name, &uid, |row| &row.uid)?.pop().map(|(_, row)| (name, row));
        }
    }
    found.scored =
        rows_of::<ScoredHistory>(folder, "signal/scored.jsonl", &uid, |row| &row.uid)?.pop().map(|(_, row)| row);
    found.rl = rows_of::<RlRow>(folder, "prune/rl.jsonl", &uid, |row| &row.uid)?;
    found.taught = taught(folder, &uid)?;
    let nothing = found.history.is_none() && found.scored.is_none() && found.rl.is_empty() && found.taught.is_none();
    if !nothing {
        return Ok(text::of(&uid, &found));
    }
    let files = NUMBERED.iter().any(|name| folder.join(name).is_file());
    if files { Err(InspectError::Uid { folder: folder.into(), uid }) } else { Err(no_files(folder)) }
}

fn no_files(folder: &Path) -> InspectError {
    InspectError::NoFiles { folder: folder.into() }
}

/// Returns the id of the `index`-th user, starting at 1.
fn uid_at(folder: &Path, index: usize) -> Result<String, InspectError> {
    let name = NUMBERED.iter().find(|name| folder.join(name).is_file()).ok_or_else(|| no_files(folder))?;
    let path = folder.join(name);
    match *name {
        "import/train.jsonl" => nth::<History>(&path, index, |row| row.uid),
        "signal/scored.jsonl" => nth::<ScoredHistory>(&path, index, |row| row.uid),
        "prune/rl.jsonl" => nth::<RlRow>(&path, index, |row| row.uid),
        _ => nth::<TaughtUser>(&path, index, |row| row.uid),
    }
}

fn nth<T: DeserializeOwned + Checked>(
    path: &Path,
    index: usize,
    uid_of: fn(T) -> String,
) -> Result<String, InspectError> {
    let mut users = 0;
    for row in chat::jsonl::stream::<T>(path)? {
        let (_, row) = row?;
        users += 1;
        if users == index {
            return Ok(uid_of(row));
        }
    }
    if users == 0 {
        return Err(JsonlError::Empty { path: path.into() }.into());
    }
    Err(InspectError::Index { path: path.into(), users })
}

/// Returns the rows of a user with their line numbers; none if the file does not exist.
fn rows_of<T: DeserializeOwned + Checked>(
    folder: &Path,
    name: &str,
    uid: &str,
    uid_of: fn(&T) -> &String,
) -> Result<Vec<(usize, T)>, InspectError> {
    let path = folder.join(name);
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let mut rows = Vec::new();
    for row in chat::jsonl::stream::<T>(&path)? {
        let (line, row) = row?;
        if uid_of(&row) == uid {
            rows.push((line, row));
        }
    }
    Ok(rows)
}

/// Returns what the teacher made of a user, with the number of SFT rows of the users before.
fn taught(folder: &Path, uid: &str) -> Result<Option<(usize, TaughtUser)>, InspectError> {
    let path = folder.join("teach/users.jsonl");
    if !path.is_file() {
        return Ok(None);
    }
    let mut before = 0;
    for row in chat::jsonl::stream::<TaughtUser>(&path)? {
        let (_, user) = row?;
        if user.uid == uid {
            return Ok(Some((before, user)));
        }
        before += user.rows;
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
