//! Gathers what an importer finds.

use std::collections::HashSet;
use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use chat::{History, Interaction};
use configs::synth::{ImportOrder, NegativePolicy};
use indexmap::IndexSet;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::import::Options;
use crate::import::card::Tally;
use crate::import::error::{BadRow, ImportError};
use crate::import::histories::{self, Prepared};
use crate::import::items::{ItemId, ItemTable, Labels, NO_LABEL};
use crate::import::ledger::Ledger;
use crate::import::negatives::Negatives;
use crate::import::output::Output;
use crate::import::users::{self, Event, NO_TIME, Rejected, Tables};

/// The number of users that are prepared together.
const USERS: usize = 1024;

/// The number of bytes between two reports of the progress.
const REPORT: u64 = 1 << 22;

/// A positive of a raw log.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// The item that the user chose.
    pub item: ItemId,
    /// The time of the choice: any number that grows with it, because only the order counts.
    pub time: Option<i64>,
    /// The user's rating of the item.
    pub rating: Option<f32>,
    /// The query.
    pub query: Option<&'a str>,
    /// The items that were shown in the same session and not chosen.
    pub unclicked: &'a [ItemId],
}

/// Progress of reading, in bytes.
struct Progress<'a> {
    /// Receives bytes read and all bytes; returns whether the import shall end.
    tell: &'a mut dyn FnMut(u64, u64) -> bool,
    /// Bytes of the files that were read before the current one.
    before: u64,
    current: u64,
    told: u64,
    all: u64,
}

impl Progress<'_> {
    fn report(&mut self, read: u64) -> Result<(), ImportError> {
        self.told = read;
        match (self.tell)(read.min(self.all), self.all) {
            true => Err(ImportError::Interrupted),
            false => Ok(()),
        }
    }
}

/// Writes a user, and counts what was left out.
fn write(
    user: Prepared,
    output: &mut Output<'_>,
    ledger: &mut Ledger,
    found: &mut Found,
    options: &Options,
) -> Result<(), ImportError> {
    found.transferred |= user.transferred;
    user.dropped.into_iter().for_each(|(reason, count)| ledger.dropped(reason, count));
    user.history.map_or(Ok(()), |history| output.write(&history, options))
}

/// Which kinds of values the source has.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    choices: bool,
    pairs: bool,
    times: bool,
    ratings: bool,
    sessions: bool,
    /// Choices whose rejected item is drawn at the end.
    draws: bool,
    /// Users of whose choices some became transfer targets.
    transferred: bool,
}

/// Gathers what an importer finds, and writes the users.
pub struct Collector<'a> {
    /// The items of the source.
    pub items: ItemTable,
    options: &'a Options,
    users: IndexSet<Box<str>>,
    events: Vec<Vec<Event>>,
    queries: IndexSet<Box<str>>,
    tasks: Labels,
    found: Found,
    /// The ids of the users that came with their whole history.
    complete: HashSet<Box<str>>,
    output: Output<'a>,
    ledger: Ledger,
    progress: Progress<'a>,
    files: Vec<PathBuf>,
}

/// What remains of an import when all users are written.
pub(super) struct Finished {
    pub(super) tally: Tally,
    pub(super) ledger: Ledger,
    pub(super) items: u64,
    pub(super) files: Vec<PathBuf>,
}

impl<'a> Collector<'a> {
    /// Returns an empty collector.
    pub(super) fn new(options: &'a Options, output: Output<'a>, tell: &'a mut dyn FnMut(u64, u64) -> bool) -> Self {
        Self {
            items: ItemTable::new(options.strip_html),
            options,
            users: IndexSet::new(),
            events: Vec::new(),
            queries: IndexSet::new(),
            tasks: Labels::default(),
            found: Found::default(),
            complete: HashSet::new(),
            output,
            ledger: Ledger::default(),
            progress: Progress { tell, before: 0, current: 0, told: 0, all: 0 },
            files: Vec::new(),
        }
    }

    /// Adds a choice of a raw log. Users may come in any order; the choices of a user are those of the file, in its order.
    ///
    /// # Errors
    /// None at present: what is wrong with the choices of a user shows when the user is written.
    pub fn choice(&mut self, user: &str, choice: Choice<'_>) -> Result<(), ImportError> {
        let user = self.user(user);
        self.found.choices = true;
        self.found.times |= choice.time.is_some();
        self.found.ratings |= choice.rating.is_some();
        self.found.sessions |= !choice.unclicked.is_empty();
        let left_out = match (self.options.rating_threshold, choice.rating) {
            (Some(_), None) => Some("choices without a rating, which import.rating_threshold needs"),
            (Some(least), Some(rating)) if rating < least as f32 => {
                Some("choices with a rating below import.rating_threshold")
            }
            _ => None,
        };
        let rejected = if let Some(reason) = left_out {
            self.ledger.dropped(reason, 1);
            Rejected::OnlySeen
        } else {
            self.items.count_choice(choice.item);
            let (uid, earlier) = (&self.users[user], &self.events[user]);
            users::of_session(self.options, &self.items, uid, choice.item, choice.unclicked, earlier)
        };
        self.found.draws |= rejected == Rejected::Draw;
        let (query, domain) = (self.query(choice.query), self.items.label(choice.item));
        let time = choice.time.unwrap_or(NO_TIME);
        self.events[user].push(Event { time, chosen: choice.item, rejected, query, domain, task: NO_LABEL });
        Ok(())
    }

    /// Adds a choice between two items. Users may come in any order; the pairs of a user are those of the file, in its order.
    ///
    /// # Errors
    /// None at present: what is wrong with the choices of a user shows when the user is written.
    pub fn pair(&mut self, user: &str, time: Option<i64>, pair: Interaction) -> Result<(), ImportError> {
        let user = self.user(user);
        self.found.pairs = true;
        self.found.times |= time.is_some();
        let chosen = self.items.insert_text(&pair.chosen);
        let rejected =
            pair.rejected.as_deref().map_or(Rejected::Absent, |text| Rejected::Item(self.items.insert_text(text)));
        let domain = pair.domain.as_deref().map_or(NO_LABEL, |name| self.items.domains.intern(name));
        let task = pair.task.as_deref().map_or(NO_LABEL, |name| self.tasks.intern(name));
        let query = self.query(pair.query.as_deref());
        self.events[user].push(Event { time: time.unwrap_or(NO_TIME), chosen, rejected, query, domain, task });
        Ok(())
    }

    /// Writes a complete user, with interactions or messages.
    ///
    /// # Errors
    /// [`ImportError::Io`] if the user cannot be written.
    pub fn history(&mut self, history: History) -> Result<(), ImportError> {
        self.complete.insert(history.uid.as_str().into());
        let prepared = histories::complete(history, self.options);
        write(prepared, &mut self.output, &mut self.ledger, &mut self.found, self.options)
    }

    /// Returns whether a user with this id came with a whole history.
    pub(super) fn knows(&self, uid: &str) -> bool {
        self.complete.contains(uid)
    }

    /// Handles a malformed row.
    ///
    /// # Errors
    /// [`ImportError::BadRow`] unless malformed rows are skipped.
    pub fn bad(&mut self, row: BadRow) -> Result<(), ImportError> {
        if !self.options.skip_bad {
            return Err(ImportError::BadRow(row));
        }
        self.ledger.bad(&row);
        Ok(())
    }

    /// Passes on what a row gave, with malformed rows handled as [`Self::bad`] does.
    ///
    /// # Errors
    /// The error given, unless it is a malformed row that is skipped.
    pub fn accept(&mut self, row: Result<(), ImportError>) -> Result<(), ImportError> {
        match row {
            Err(ImportError::BadRow(row)) => self.bad(row),
            other => other,
        }
    }

    /// Counts valid rows, choices or users that are left out on purpose.
    pub fn dropped(&mut self, reason: &'static str, count: u64) {
        self.ledger.dropped(reason, count);
    }

    /// Says which files will be read, in their order; a file that is read twice is there twice.
    ///
    /// # Errors
    /// [`ImportError::Io`] if there is no such file.
    pub(super) fn expect(&mut self, files: &[PathBuf]) -> Result<(), ImportError> {
        for path in files {
            self.progress.all += fs::metadata(path).map_err(|source| ImportError::unread(path, source))?.len();
        }
        Ok(())
    }

    /// Says that the file at `path` is read next.
    pub fn begin(&mut self, path: &Path) {
        self.progress.before += std::mem::take(&mut self.progress.current);
        if !self.files.iter().any(|known| known == path) {
            self.files.push(path.into());
        }
    }

    /// Says how many bytes of the current file were read.
    ///
    /// # Errors
    /// [`ImportError::Interrupted`] if the import shall end.
    pub fn advance(&mut self, bytes: u64) -> Result<(), ImportError> {
        let progress = &mut self.progress;
        progress.current = bytes;
        let read = progress.before + bytes;
        if read >= progress.told + REPORT { progress.report(read) } else { Ok(()) }
    }

    fn user(&mut self, id: &str) -> usize {
        if let Some(known) = self.users.get_index_of(id) {
            return known;
        }
        self.events.push(Vec::new());
        self.users.insert_full(id.into()).0
    }

    fn query(&mut self, query: Option<&str>) -> Option<NonZeroU32> {
        let query = query?;
        let known = self.queries.get_index_of(query);
        let index = known.unwrap_or_else(|| self.queries.insert_full(query.into()).0);
        NonZeroU32::new(u32::try_from(index + 1).unwrap_or(u32::MAX))
    }

    /// Prepares and writes the users whose choices were gathered.
    pub(super) fn finish(mut self) -> Result<Finished, ImportError> {
        self.check_options()?;
        let needed = self.found.draws;
        let tables = Tables {
            options: self.options,
            items: &self.items,
            queries: &self.queries,
            tasks: &self.tasks,
            pairs: self.found.pairs,
            negatives: needed.then(|| Negatives::new(&self.items, self.options)),
        };
        let users: Vec<(&str, &[Event])> =
            self.users.iter().map(|id| &**id).zip(self.events.iter().map(|e| &**e)).collect();
        for some in users.chunks(USERS) {
            self.progress.report(self.progress.all)?;
            let prepared: Vec<_> = some.par_iter().map(|(uid, events)| tables.prepare(uid, events)).collect();
            for user in prepared {
                write(user, &mut self.output, &mut self.ledger, &mut self.found, self.options)?;
            }
        }
        self.progress.report(self.progress.all)?;
        if self.output.tally.users() == 0 {
            let (read, reasons) = ((self.users.len() + self.complete.len()) as u64, self.ledger.reasons());
            return Err(ImportError::NoUsers { read, reasons, min_history: self.options.min_history });
        }
        if self.options.transfer_targets > 0 && !self.found.transferred {
            let why = "no user without transfer targets of their own has choices in two domains";
            return Err(ImportError::NoEffect { key: "transfer_targets", why });
        }
        let items = if self.found.pairs { 0 } else { self.items.len() as u64 };
        Ok(Finished { tally: self.output.tally, ledger: self.ledger, items, files: self.files })
    }

    /// Checks that the values are as many as the tables hold.
    fn check_options(&self) -> Result<(), ImportError> {
        match (self.items.domains.is_full(), self.tasks.is_full()) {
            (true, _) => Err(ImportError::TooMany { what: "domains" }),
            (_, true) => Err(ImportError::TooMany { what: "tasks" }),
            _ => Ok(()),
        }
    }

    /// Checks that each key that the configuration sets has an effect on these files.
    pub(super) fn check_used(&self, config: &configs::synth::ImportConfig) -> Result<(), ImportError> {
        let Found { choices, times, ratings, sessions, .. } = self.found;
        let session = config.negatives == Some(NegativePolicy::InSession);
        let unused = [
            (config.negatives.is_some() && !choices, "negatives", "the choices have their rejected items"),
            (config.replacement.is_some() && !choices, "replacement", "the choices have their rejected items"),
            (session && !sessions, "negatives", "the files have no sessions with items that were shown and not chosen"),
            (config.rating_threshold.is_some() && !ratings, "rating_threshold", "the files have no ratings"),
            (config.order == Some(ImportOrder::Time) && !times, "order", "the files have no times"),
        ];
        match unused.into_iter().find(|&(unused, ..)| unused) {
            Some((_, key, why)) => Err(ImportError::NoEffect { key, why }),
            None => Ok(()),
        }
    }
}
