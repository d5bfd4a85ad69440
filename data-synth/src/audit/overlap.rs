//! What the training data share with a benchmark: users, judged choices and items.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use chat::{Draw, Interaction};
use serde::{Deserialize, Serialize};

use super::{AuditError, EXAMPLES, Finding, FindingKind};
use crate::any_row::{self, AnyRow};

/// The files that hold the users of the training data; the first one that exists is read.
const TRAINING: [&str; 3] = ["import/train.jsonl", "signal/scored.jsonl", "prune/rl.jsonl"];

/// What the training data share with one benchmark file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    /// The path of the benchmark file.
    pub path: PathBuf,
    /// The number of its users.
    pub users: usize,
    /// The number of users who occur in the training data with one of the same items, or two of the same messages in a row.
    pub shared_users: usize,
    /// The number of users whose id alone occurs there, as ids that count from 0 do.
    pub shared_ids: usize,
    /// The number of its judged choices between two items.
    pub choices: usize,
    /// The number of those that are in the training data, of any user.
    pub shared_choices: usize,
    /// The number of items of its judged choices.
    pub items: usize,
    /// The number of those that are in the training data.
    pub shared_items: usize,
    /// The first shared users.
    pub examples: Vec<String>,
}

impl Overlap {
    /// Returns a finding each for shared users and shared choices.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let path = self.path.display();
        let users = (self.shared_users > 0).then(|| Finding {
            kind: FindingKind::SharedUsers,
            message: format!("{} of {} users of {path} are in the training data", self.shared_users, self.users),
            examples: self.examples.clone(),
        });
        let choices = (self.shared_choices > 0).then(|| Finding {
            kind: FindingKind::SharedChoices,
            message: format!(
                "{} of {} judged choices of {path} are in the training data: the same chosen and rejected items",
                self.shared_choices, self.choices
            ),
            examples: Vec::new(),
        });
        users.into_iter().chain(choices).collect()
    }

    /// Returns a note on shared items and ids, which are no problem by themselves.
    pub(super) fn note(&self) -> Option<String> {
        let Self { shared_items, items, shared_ids, users, .. } = self;
        (shared_items + shared_ids > 0).then(|| {
            format!(
                "{}: {shared_items} of {items} items of judged choices are in the training data; {shared_ids} of {users} users have \
                 only their id in common with a user there",
                self.path.display()
            )
        })
    }
}

/// The training data as hashes of 64 bits, which bounds the memory.
#[derive(Default)]
struct Training {
    users: HashSet<u64>,
    marks: HashSet<u64>,
    items: HashSet<u64>,
    choices: HashSet<u64>,
}

fn hash(parts: &[&str]) -> u64 {
    parts.iter().fold(Draw::new(0), |draw, part| draw.text(part)).bits()
}

fn items(choice: &Interaction) -> impl Iterator<Item = &str> {
    [Some(&choice.chosen), choice.rejected.as_ref()].into_iter().flatten().map(String::as_str)
}

fn pair(choice: &Interaction) -> Option<u64> {
    Some(hash(&[choice.chosen.as_str(), choice.rejected.as_deref()?]))
}

/// Returns all choices of a row.
fn choices(row: &AnyRow) -> impl Iterator<Item = &Interaction> {
    row.interactions().iter().chain(row.later_choices()).chain(&row.transfer)
}

/// Returns what tells a user from others with the same id: the items, or each two messages in a row. A single message such as a
/// greeting is common to many.
fn marks(row: &AnyRow) -> impl Iterator<Item = u64> {
    let of_items = choices(row).flat_map(items).map(move |item| hash(&[row.uid.as_str(), item]));
    let of_messages = row
        .messages()
        .windows(2)
        .map(move |pair| hash(&[row.uid.as_str(), pair[0].content.as_str(), pair[1].content.as_str()]));
    of_items.chain(of_messages)
}

impl Training {
    fn of(folder: &Path) -> Result<Self, AuditError> {
        let path = TRAINING.iter().map(|name| folder.join(name)).find(|path| path.is_file());
        let path = path.ok_or_else(|| AuditError::NoTrainingData { folder: folder.into() })?;
        let mut training = Self::default();
        any_row::for_each(&path, |row, _| {
            training.add(&row);
            Ok::<_, AuditError>(())
        })?;
        Ok(training)
    }

    fn add(&mut self, row: &AnyRow) {
        self.users.insert(hash(&[row.uid.as_str()]));
        for choice in choices(row) {
            self.items.extend(items(choice).map(|item| hash(&[item])));
            self.choices.extend(pair(choice));
        }
        self.marks.extend(marks(row));
    }

    fn compare(&self, path: &Path) -> Result<Overlap, AuditError> {
        let mut overlap = Overlap { path: path.into(), ..Overlap::default() };
        let mut seen = HashSet::new();
        any_row::for_each(path, |row, _| {
            overlap.users += 1;
            if marks(&row).any(|mark| self.marks.contains(&mark)) {
                overlap.shared_users += 1;
                if overlap.examples.len() < EXAMPLES {
                    overlap.examples.push(row.uid.clone());
                }
            } else if self.users.contains(&hash(&[row.uid.as_str()])) {
                overlap.shared_ids += 1;
            }
            let own: Vec<&Interaction> = row.later_choices().chain(&row.transfer).collect();
            // Without choices of their own to judge, all choices of the history may be judged.
            let judged = if own.is_empty() { row.interactions().iter().collect() } else { own };
            for choice in judged {
                let pair = pair(choice);
                overlap.choices += usize::from(pair.is_some());
                overlap.shared_choices += usize::from(pair.is_some_and(|pair| self.choices.contains(&pair)));
                for item in items(choice).map(|item| hash(&[item])).filter(|item| seen.insert(*item)) {
                    overlap.items += 1;
                    overlap.shared_items += usize::from(self.items.contains(&item));
                }
            }
            Ok::<_, AuditError>(())
        })?;
        Ok(overlap)
    }
}

/// Compares the training data in `folder` with benchmark files.
pub(super) fn find(folder: &Path, against: &[PathBuf]) -> Result<Vec<Overlap>, AuditError> {
    let training = Training::of(folder)?;
    against.iter().map(|path| training.compare(path)).collect()
}
