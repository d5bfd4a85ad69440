//! Raw interaction logs and published data sets as histories.
//!
//! An importer of a [`Format`] reads the files and tells a [`Collector`] what it finds: items, choices, ready pairs or whole users.
//! The collector does what all formats share: it groups the choices by user, orders them, drops repetitions and short users, draws
//! the rejected items, separates transfer targets, and splits the users. [`import()`] runs both and writes `train.jsonl`,
//! `test.jsonl` and the [`DataCard`].
//!
//! Memory holds each item's text once (both texts of a ready pair are items), and each choice in 32 bytes. Every random choice is drawn
//! from the seed, its purpose and the id of the user, so it does not depend on the order of the files, and on other users only by the
//! set of items, if the texts of items are in the rows, and for `popularity` by how often items were chosen.

mod alignx;
mod amazon;
mod card;
mod collector;
mod conversations;
mod delimited;
mod error;
mod folder;
mod generic;
mod hicupid;
mod histories;
mod html;
mod items;
mod ledger;
mod lines;
mod literals;
mod mind;
mod movielens;
mod negatives;
mod output;
mod p_soups;
mod personamem_v1;
mod personamem_v2;
mod published;
mod rows;
mod run;
mod similarity;
#[cfg(test)]
mod testing;
mod users;
pub mod world;

use std::path::PathBuf;

use configs::synth::{
    ColumnsConfig, Duplicates, ImportConfig, ImportOrder, MessageUsers, NegativePolicy, Quotes, WorldImport,
};
use serde::Serialize;

pub use self::card::{DataCard, InputFile, Lengths, Quantiles, Split};
pub use self::collector::{Choice, Collector};
pub use self::delimited::{Record, Records};
pub use self::error::{BadRow, ImportError};
pub use self::items::{ItemId, ItemTable};
pub use self::lines::{Line, Lines};
pub use self::run::import;

/// All formats, in the order of the documentation.
pub const FORMATS: &[&Format] = &[
    &mind::FORMAT,
    &amazon::FORMAT,
    &movielens::FORMAT,
    &alignx::FORMAT,
    &p_soups::FORMAT,
    &personamem_v1::FORMAT,
    &personamem_v2::FORMAT,
    &hicupid::FORMAT,
    &published::FORMAT,
    &generic::FORMAT,
    &world::FORMAT,
];

/// A format of raw files, and its importer.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// The name, as `import.format` gives it.
    pub name: &'static str,
    /// The files, in one line.
    pub about: &'static str,
    /// The published values of the keys that a configuration leaves open.
    pub defaults: FormatDefaults,
    /// The keys of `[import]` that the format does not use, of order, duplicates, rating_threshold, negatives, replacement,
    /// transfer_targets and message_users.
    pub unused: &'static [&'static str],
    /// The importer.
    pub read: fn(&Source<'_>, &mut Collector<'_>) -> Result<(), ImportError>,
}

/// The published values of a format, for the keys that a configuration does not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatDefaults {
    /// Minimum number of interactions, or of messages, of a user.
    pub min_history: usize,
    /// Order of a user's interactions.
    pub order: ImportOrder,
    /// What happens to repeated interactions.
    pub duplicates: Duplicates,
    /// How rejected items are drawn.
    pub negatives: NegativePolicy,
    /// Whether an item may be the rejected one of several choices of a user.
    pub replacement: bool,
}

/// What an importer reads.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The files and folders, as the configuration names them.
    pub paths: &'a [PathBuf],
    /// The options.
    pub options: &'a Options,
}

impl Source<'_> {
    /// Tells `collector` which files the importer reads, in their order; a file that is read twice is there twice.
    ///
    /// # Errors
    /// [`ImportError::Missing`] if the configuration names a file that is not among them, [`ImportError::Io`] if there is no such file.
    fn plan(&self, files: &[PathBuf], collector: &mut Collector<'_>) -> Result<(), ImportError> {
        collector.expect(files)?;
        match self.paths.iter().find(|path| !path.is_dir() && !files.contains(path)) {
            None => Ok(()),
            Some(path) => {
                let format = format(self.options.format)?;
                let expected = format!("a name of the files that format \"{}\" reads ({})", format.name, format.about);
                Err(ImportError::Missing { path: path.clone(), expected })
            }
        }
    }
}

/// The options of an import: a configuration in which the values of the format fill what it leaves open.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Options {
    /// Name of the format.
    pub format: &'static str,
    /// Seed of all random choices.
    pub seed: u64,
    /// Whether malformed rows are counted and left out.
    pub skip_bad: bool,
    /// Minimum number of interactions, or of messages, of a user.
    pub min_history: usize,
    /// Order of a user's interactions.
    pub order: ImportOrder,
    /// What happens to repeated interactions.
    pub duplicates: Duplicates,
    /// Minimum rating of a positive.
    pub rating_threshold: Option<f64>,
    /// How rejected items are drawn.
    pub negatives: NegativePolicy,
    /// Whether an item may be the rejected one of several choices of a user.
    pub replacement: bool,
    /// Number of items from which `hard` takes the most similar one.
    pub hard_candidates: usize,
    /// Query of choices that have none; empty leaves them without.
    pub query: String,
    /// Number of transfer targets of each other domain; 0 keeps all domains in the history.
    pub transfer_targets: usize,
    /// Fraction of the users in the test set.
    pub test_share: f64,
    /// Whether HTML in items is replaced by text.
    pub strip_html: bool,
    /// How the fields of MIND's files are read.
    pub quotes: Quotes,
    /// Users of formats whose histories are messages.
    pub message_users: MessageUsers,
    /// The columns of format generic.
    pub columns: ColumnsConfig,
    /// The users of format world.
    pub world: WorldImport,
}

impl Options {
    /// Returns the options of an import of `format`.
    pub fn new(config: &ImportConfig, format: &Format, seed: u64) -> Self {
        let defaults = format.defaults;
        Self {
            format: format.name,
            seed,
            skip_bad: config.skip_bad,
            min_history: config.min_history.unwrap_or(defaults.min_history),
            order: config.order.unwrap_or(defaults.order),
            duplicates: config.duplicates.unwrap_or(defaults.duplicates),
            rating_threshold: config.rating_threshold,
            negatives: config.negatives.unwrap_or(defaults.negatives),
            replacement: config.replacement.unwrap_or(defaults.replacement),
            hard_candidates: config.hard_candidates,
            query: config.query.clone(),
            transfer_targets: config.transfer_targets,
            test_share: config.test_share,
            strip_html: config.strip_html,
            quotes: config.quotes,
            message_users: config.message_users,
            columns: config.columns.clone(),
            world: config.world.clone(),
        }
    }
}

/// Returns the format of a name.
///
/// # Errors
/// [`ImportError::UnknownFormat`] lists the known names.
pub fn format(name: &str) -> Result<&'static Format, ImportError> {
    FORMATS.iter().find(|format| format.name == name).copied().ok_or_else(|| {
        let likeness = |other: &&str| strsim::jaro_winkler(other, name);
        let names = FORMATS.iter().map(|format| format.name);
        let nearest = names.clone().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        ImportError::UnknownFormat {
            name: name.into(),
            nearest: nearest.filter(|other| likeness(other) > 0.8),
            known: names.collect(),
        }
    })
}

/// Returns the format of a configuration.
///
/// # Errors
/// [`ImportError::UnknownFormat`], and [`ImportError::Unused`] if a key is set that the format does not use.
pub fn check(config: &ImportConfig) -> Result<&'static Format, ImportError> {
    let format = format(&config.format)?;
    let set = [
        ("order", config.order.is_some()),
        ("duplicates", config.duplicates.is_some()),
        ("rating_threshold", config.rating_threshold.is_some()),
        ("negatives", config.negatives.is_some()),
        ("replacement", config.replacement.is_some()),
        ("transfer_targets", config.transfer_targets > 0),
        ("message_users", config.message_users != MessageUsers::default()),
    ];
    match set.into_iter().find(|(key, set)| *set && format.unused.contains(key)) {
        None => Ok(format),
        Some((key, _)) => {
            let users = FORMATS.iter().filter(|format| !format.unused.contains(&key));
            let used_by = users.map(|format| format.name).collect();
            Err(ImportError::Unused { format: format.name, key, used_by })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_format_names_the_nearest() {
        assert_eq!(format("mind").unwrap().name, "mind");
        let error = format("movielense").unwrap_err().to_string();
        assert!(error.contains("unknown format `movielense`; did you mean `movielens`?"), "{error}");
        let error = format("csv").unwrap_err().to_string();
        assert!(!error.contains("did you mean") && error.contains("mind, amazon, "), "{error}");
    }

    #[test]
    fn a_key_that_the_format_does_not_use_is_an_error() {
        let config =
            |name: &str| ImportConfig { format: name.into(), rating_threshold: Some(3.0), ..ImportConfig::default() };
        assert_eq!(check(&config("movielens")).unwrap().name, "movielens");
        let error = check(&config("mind")).unwrap_err().to_string();
        assert!(error.contains("import.rating_threshold is set, but format \"mind\" does not use it"), "{error}");
        assert!(error.contains("formats that use it: amazon, movielens"), "{error}");
        let messages = ImportConfig { format: "personamem_v2".into(), transfer_targets: 1, ..ImportConfig::default() };
        let error = check(&messages).unwrap_err().to_string();
        assert!(error.contains("import.transfer_targets is set, but format \"personamem_v2\""), "{error}");
    }

    #[test]
    fn a_key_replaces_the_value_of_the_format() {
        let format = format("amazon").unwrap();
        let published = Options::new(&ImportConfig::default(), format, 7);
        assert_eq!((published.min_history, published.order, published.replacement), (17, ImportOrder::Time, false));
        let config = ImportConfig { min_history: Some(3), replacement: Some(true), ..ImportConfig::default() };
        let options = Options::new(&config, format, 7);
        assert_eq!((options.min_history, options.order, options.replacement), (3, ImportOrder::Time, true));
    }
}
